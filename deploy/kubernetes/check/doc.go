// Package check holds the manifests beside it against what they must fit, without
// a cluster: the types of Kubernetes' API, decoded strictly; the fields of KEDA's
// objects; each other; and the flags, settings and ports of errand itself. It is a
// module of its own, so that the root one does not depend on Kubernetes.
package check
