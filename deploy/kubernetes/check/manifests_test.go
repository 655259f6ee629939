package check

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// made are the secrets that docs/scaling.md has one make beforehand, with their keys.
var made = map[string][]string{
	"errand-ledger":        {"url"},
	"errand-tls":           {"tls.crt", "tls.key", "ca.crt"},
	"errand-tokens":        {"tokens"},
	"errand-worker-token":  {"token"},
	"errand-monitor-token": {"token"},
	"errand-scaler-ca":     {"ca.crt"},
	"errand-scaler-client": {"tls.crt", "tls.key", "ca.crt"},
}

func (s *set) deployment(t *testing.T, name string) *appsv1.Deployment {
	t.Helper()
	i := slices.IndexFunc(s.deployments, func(d appsv1.Deployment) bool { return d.Name == name })
	if i < 0 {
		t.Fatalf("%s has no deployment %s", s.name, name)
	}
	return &s.deployments[i]
}

// containers calls f for each container of each deployment.
func (s *set) containers(f func(d *appsv1.Deployment, c *corev1.Container)) {
	for i := range s.deployments {
		d := &s.deployments[i]
		for k := range d.Spec.Template.Spec.Containers {
			f(d, &d.Spec.Template.Spec.Containers[k])
		}
	}
}

func TestEverythingIsThere(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		for _, name := range []string{"errand-api", "errand-relay", "errand-keeper", "errand-worker"} {
			s.deployment(t, name)
		}
		if len(s.deployments) != 4 || len(s.services) != 2 || len(s.budgets) != 4 || len(s.policies) != 1 || len(s.configs) != 1 {
			t.Errorf("%d deployments, %d services, %d budgets, %d policies, %d config maps",
				len(s.deployments), len(s.services), len(s.budgets), len(s.policies), len(s.configs))
		}
		if want := s.name != "base"; (len(s.scaled) == 1) != want || (len(s.auths) == 1) != want {
			t.Errorf("%d ScaledObjects, %d authentications", len(s.scaled), len(s.auths))
		}
		var all []metav1.Object
		for i := range s.deployments {
			all = append(all, &s.deployments[i])
		}
		for i := range s.services {
			all = append(all, &s.services[i])
		}
		for i := range s.scaled {
			all = append(all, &s.scaled[i])
		}
		for _, o := range all {
			if o.GetNamespace() != "errand" {
				t.Errorf("%s is in namespace %q", o.GetName(), o.GetNamespace())
			}
			if bad := validation.IsDNS1123Label(o.GetName()); len(bad) > 0 {
				t.Errorf("name %q: %v", o.GetName(), bad)
			}
		}
	})
}

// Selectors find the pods that they are meant for, and those only.
func TestSelectorsFindTheirPods(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		found := func(what string, sel labels.Selector) {
			t.Helper()
			n := 0
			for i := range s.deployments {
				if sel.Matches(labels.Set(s.deployments[i].Spec.Template.Labels)) {
					n++
				}
			}
			if sel.Empty() || n != 1 {
				t.Errorf("%s selects the pods of %d deployments", what, n)
			}
		}
		of := func(what string, sel *metav1.LabelSelector) {
			t.Helper()
			parsed, err := metav1.LabelSelectorAsSelector(sel)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			found(what, parsed)
		}
		for i := range s.deployments {
			of("deployment "+s.deployments[i].Name, s.deployments[i].Spec.Selector)
			for _, c := range s.deployments[i].Spec.Template.Spec.TopologySpreadConstraints {
				of("the spread of "+s.deployments[i].Name, c.LabelSelector)
			}
		}
		for i := range s.budgets {
			of("budget "+s.budgets[i].Name, s.budgets[i].Spec.Selector)
			if b := s.budgets[i].Spec; b.MaxUnavailable == nil || b.MinAvailable != nil || b.MaxUnavailable.String() == "0" {
				t.Errorf("budget %s lets no node be drained, or says it otherwise", s.budgets[i].Name)
			}
		}
		for i := range s.services {
			found("service "+s.services[i].Name, labels.SelectorFromSet(s.services[i].Spec.Selector))
		}
	})
}

// port finds a container's port by its name.
func port(d *appsv1.Deployment, name string) int32 {
	for _, c := range d.Spec.Template.Spec.Containers {
		for _, p := range c.Ports {
			if p.Name == name {
				return p.ContainerPort
			}
		}
	}
	return 0
}

// Services, probes and the policy speak of ports that pods have, and the program listens there.
func TestPortsFit(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		api := s.deployment(t, "errand-api")
		for _, svc := range s.services {
			for _, p := range svc.Spec.Ports {
				if port(api, p.TargetPort.StrVal) == 0 || (svc.Spec.ClusterIP == corev1.ClusterIPNone && p.Port != port(api, p.TargetPort.StrVal)) {
					t.Errorf("service %s, port %s: there is none such in the pods", svc.Name, p.Name)
				}
			}
		}
		for _, rule := range s.policies[0].Spec.Ingress {
			for _, p := range rule.Ports {
				if p.Port == nil || p.Port.Type != intstr.String || port(api, p.Port.StrVal) == 0 {
					t.Errorf("the policy lets in to port %v, which there is not", p.Port)
				}
			}
		}
		s.containers(func(d *appsv1.Deployment, c *corev1.Container) {
			if c.Name == "worker" {
				return // it listens nowhere
			}
			for name, setting := range map[string]string{"calls": "listen", "scaler": "scaler-listen", "metrics": "metrics-listen"} {
				want := ""
				if n := port(d, name); n != 0 {
					want = strconv.Itoa(int(n))
				}
				_, got, _ := net.SplitHostPort(s.setting(c, setting))
				if got != want {
					t.Errorf("%s has port %q for %s, and the program listens on %q", d.Name, want, name, got)
				}
			}
			for what, p := range map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
				if p == nil || p.HTTPGet == nil || port(d, p.HTTPGet.Port.StrVal) == 0 {
					t.Errorf("the %s probe of %s asks nowhere", what, d.Name)
					continue
				}
				want := "/healthz"
				if what == "readiness" {
					want = "/readyz"
				}
				if p.HTTPGet.Path != want {
					t.Errorf("the %s probe of %s asks %s", what, d.Name, p.HTTPGet.Path)
				}
			}
		})
	})
}

// setting is what a server is told: by a flag, or by the environment.
func (s *set) setting(c *corev1.Container, name string) string {
	for _, a := range c.Args {
		if v, ok := strings.CutPrefix(a, "--"+name+"="); ok {
			return v
		}
	}
	env := "ERRAND_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	for _, from := range c.EnvFrom {
		for _, m := range s.configs {
			if from.ConfigMapRef != nil && from.ConfigMapRef.Name == m.Name && m.Data[env] != "" {
				return m.Data[env]
			}
		}
	}
	return ""
}

func (s *set) duration(t *testing.T, c *corev1.Container, name string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s.setting(c, name))
	if err != nil {
		t.Fatalf("%s of %s: %v", name, c.Name, err)
	}
	return d
}

// A pod has time to drain before it is killed.
func TestPodsHaveTimeToDrain(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		s.containers(func(d *appsv1.Deployment, c *corev1.Container) {
			given := d.Spec.Template.Spec.TerminationGracePeriodSeconds
			grace := s.duration(t, c, "grace")
			if given == nil || time.Duration(*given)*time.Second < grace+15*time.Second {
				t.Errorf("%s is killed after %v s, and drains for %s", d.Name, given, grace)
			}
		})
		api := s.deployment(t, "errand-api")
		c := &api.Spec.Template.Spec.Containers[0]
		if delay, grace := s.duration(t, c, "drain-delay"), s.duration(t, c, "grace"); delay < 5*time.Second || delay >= grace {
			t.Errorf("the drain's delay is %s, of %s: endpoints take some seconds to be taken out", delay, grace)
		}
	})
}

func TestPodsAreConfined(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		s.containers(func(d *appsv1.Deployment, c *corev1.Container) {
			pod := d.Spec.Template.Spec
			p, k := pod.SecurityContext, c.SecurityContext
			if p == nil || k == nil || p.RunAsNonRoot == nil || !*p.RunAsNonRoot || p.RunAsUser == nil || *p.RunAsUser == 0 || p.FSGroup == nil ||
				p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault ||
				k.AllowPrivilegeEscalation == nil || *k.AllowPrivilegeEscalation || k.ReadOnlyRootFilesystem == nil || !*k.ReadOnlyRootFilesystem ||
				k.Capabilities == nil || !slices.Equal(k.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("%s is not confined as the namespace demands: %+v %+v", d.Name, p, k)
			}
			if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
				t.Errorf("%s gets a token of the cluster, which it has no use for", d.Name)
			}
			if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
				t.Errorf("%s finds ERRAND_PORT and the like of the service errand among its settings", d.Name)
			}
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s asks for no resources", d.Name)
			}
		})
		for _, n := range s.namespaces {
			if n.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
				t.Errorf("the namespace demands nothing")
			}
		}
	})
}

// What is referred to is there, or is to be made beforehand; what is mounted is a volume.
func TestReferencesAreKept(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		secret := func(who, name string, keys ...string) {
			t.Helper()
			for _, k := range keys {
				if !slices.Contains(made[name], k) {
					t.Errorf("%s wants the key %s of the secret %s, which nobody makes", who, k, name)
				}
			}
			if made[name] == nil {
				t.Errorf("%s wants the secret %s, which nobody makes", who, name)
			}
		}
		s.containers(func(d *appsv1.Deployment, c *corev1.Container) {
			for _, e := range c.EnvFrom {
				if e.ConfigMapRef == nil || e.ConfigMapRef.Name != s.configs[0].Name {
					t.Errorf("%s takes its environment from %+v", d.Name, e)
				}
			}
			for _, e := range c.Env {
				secret(d.Name, e.ValueFrom.SecretKeyRef.Name, e.ValueFrom.SecretKeyRef.Key)
			}
			files := map[string]bool{}
			for _, v := range d.Spec.Template.Spec.Volumes {
				mount := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name })
				if mount < 0 {
					t.Errorf("%s has a volume %s that is mounted nowhere", d.Name, v.Name)
					continue
				}
				if v.Secret == nil {
					continue
				}
				keys := made[v.Secret.SecretName]
				if len(v.Secret.Items) > 0 {
					keys = nil
					for _, i := range v.Secret.Items {
						keys = append(keys, i.Key)
					}
				}
				secret(d.Name, v.Secret.SecretName, keys...)
				for _, k := range keys {
					files[c.VolumeMounts[mount].MountPath+"/"+k] = true
				}
			}
			if len(c.VolumeMounts) != len(d.Spec.Template.Spec.Volumes) {
				t.Errorf("%s mounts %d volumes of %d", d.Name, len(c.VolumeMounts), len(d.Spec.Template.Spec.Volumes))
			}
			for _, a := range c.Args {
				if _, path, ok := strings.Cut(a, "=/etc/"); ok && !files["/etc/"+path] {
					t.Errorf("%s is told of a file that is not there: %s", d.Name, a)
				}
			}
		})
		for _, a := range s.auths {
			for _, r := range a.Spec.SecretTargetRef {
				secret("KEDA", r.Name, r.Key)
			}
		}
	})
}

// The scalers ask for what there is, and know of the workers what is true.
func TestScaledObjects(t *testing.T) {
	for _, dir := range dirs[1:] {
		t.Run(dir, func(t *testing.T) {
			s := load(t, dir)
			so := s.scaled[0].Spec
			worker := s.deployment(t, so.ScaleTargetRef.Name)
			if worker.Spec.Replicas != nil {
				t.Errorf("the deployment says how many replicas there are, and each apply would undo the scaler's work")
			}
			if so.MinReplicaCount == nil || so.MaxReplicaCount == nil || *so.MinReplicaCount > *so.MaxReplicaCount || so.PollingInterval == nil {
				t.Errorf("no bounds: %+v", so)
			}
			b := so.Advanced.HorizontalPodAutoscalerConfig.Behavior
			if up, down := b.ScaleUp, b.ScaleDown; up == nil || down == nil || *up.StabilizationWindowSeconds != 0 ||
				*down.StabilizationWindowSeconds < 60 || len(down.Policies) != 1 || down.Policies[0].Value > 4 {
				t.Errorf("workers do not come at once and go slowly: %+v", b)
			}
			if len(so.Triggers) != 1 || so.Triggers[0].AuthenticationRef.Name != s.auths[0].Name {
				t.Fatalf("triggers %+v", so.Triggers)
			}
			c := &worker.Spec.Template.Spec.Containers[0]
			host, params := address(t, so.Triggers[0].Type, so.Triggers[0].Metadata)
			if params["concurrency"] != s.setting(c, "concurrency") || params["queue"] != s.setting(c, "queue") || params["concurrency"] == "" {
				t.Errorf("the scaler is told %v of workers with %v", params, c.Args)
			}
			if _, err := time.ParseDuration(params["target_wait"]); err != nil {
				t.Error(err)
			}
			found := false
			for _, svc := range s.services {
				for _, p := range svc.Spec.Ports {
					found = found || host == fmt.Sprintf("%s.%s.svc:%d", svc.Name, svc.Namespace, p.Port)
				}
			}
			if !found {
				t.Errorf("KEDA asks %s, which is no service", host)
			}
		})
	}
}

// address returns where a trigger asks, and the parameters, by the names of GET /v1/scaling.
func address(t *testing.T, kind string, metadata map[string]string) (host string, params map[string]string) {
	t.Helper()
	params = map[string]string{}
	switch kind {
	case "external":
		names := map[string]string{"queue": "queue", "targetWait": "target_wait", "concurrency": "concurrency", "min": "min", "max": "max", "kinds": "kinds"}
		for k, v := range metadata {
			if k == "scalerAddress" {
				host = v
				continue
			}
			if names[k] == "" {
				t.Errorf("the server knows no %s", k)
			}
			params[names[k]] = v
		}
	case "metrics-api":
		u, err := url.Parse(metadata["url"])
		if err != nil || u.Scheme != "https" || u.Path != "/v1/scaling" {
			t.Fatalf("url %q: %v", metadata["url"], err)
		}
		host = u.Host
		for k, v := range u.Query() {
			params[k] = v[0]
		}
		if metadata["valueLocation"] != "desired_workers" || metadata["targetValue"] != "1" || !strings.Contains(metadata["authMode"], "bearer") {
			t.Errorf("metadata %v", metadata)
		}
		known := []string{"authMode", "targetValue", "url", "valueLocation"}
		if got := slices.Sorted(maps.Keys(metadata)); !slices.Equal(got, known) {
			t.Errorf("metadata has %v", got)
		}
	default:
		t.Fatalf("trigger %s", kind)
	}
	return host, params
}
