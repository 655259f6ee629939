package check

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// ScaledObject is KEDA's, as far as it is used here; its own module would bring
// all of KEDA with it. A field that is not here is refused.
type ScaledObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ScaleTargetRef struct {
			Name string `json:"name"`
		} `json:"scaleTargetRef"`
		PollingInterval *int32 `json:"pollingInterval"`
		CooldownPeriod  *int32 `json:"cooldownPeriod"`
		MinReplicaCount *int32 `json:"minReplicaCount"`
		MaxReplicaCount *int32 `json:"maxReplicaCount"`
		Advanced        struct {
			HorizontalPodAutoscalerConfig struct {
				Behavior autoscalingv2.HorizontalPodAutoscalerBehavior `json:"behavior"`
			} `json:"horizontalPodAutoscalerConfig"`
		} `json:"advanced"`
		Triggers []struct {
			Type              string            `json:"type"`
			Metadata          map[string]string `json:"metadata"`
			AuthenticationRef struct {
				Name string `json:"name"`
			} `json:"authenticationRef"`
		} `json:"triggers"`
	} `json:"spec"`
}

// TriggerAuthentication is KEDA's, likewise.
type TriggerAuthentication struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		SecretTargetRef []struct {
			Parameter string `json:"parameter"`
			Name      string `json:"name"`
			Key       string `json:"key"`
		} `json:"secretTargetRef"`
	} `json:"spec"`
}

// set is all that one directory makes.
type set struct {
	name        string
	deployments []appsv1.Deployment
	services    []corev1.Service
	configs     []corev1.ConfigMap
	namespaces  []corev1.Namespace
	budgets     []policyv1.PodDisruptionBudget
	policies    []networkingv1.NetworkPolicy
	scaled      []ScaledObject
	auths       []TriggerAuthentication
}

// dirs are the directories that a user applies.
var dirs = []string{"base", "keda-external", "keda-metrics-api"}

// each runs f on what each directory makes.
func each(t *testing.T, f func(t *testing.T, s *set)) {
	t.Helper()
	for _, dir := range dirs {
		t.Run(dir, func(t *testing.T) { f(t, load(t, dir)) })
	}
}

// load builds a directory as kustomize does and decodes everything strictly.
func load(t *testing.T, dir string) *set {
	t.Helper()
	return loadFrom(t, dir, "../"+dir)
}

func loadFrom(t *testing.T, dir, path string) *set {
	t.Helper()
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), path)
	if err != nil {
		t.Fatalf("kustomize %s: %v", dir, err)
	}
	text, err := made.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	s := &set{name: dir}
	for docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return s
		}
		if err == nil {
			err = s.add(doc)
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", dir, err, doc)
		}
	}
}

func (s *set) add(doc []byte) error {
	if len(bytes.TrimSpace(doc)) == 0 {
		return nil
	}
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &kind); err != nil {
		return err
	}
	switch kind.APIVersion + " " + kind.Kind {
	case "apps/v1 Deployment":
		return decode(doc, &s.deployments)
	case "v1 Service":
		return decode(doc, &s.services)
	case "v1 ConfigMap":
		return decode(doc, &s.configs)
	case "v1 Namespace":
		return decode(doc, &s.namespaces)
	case "policy/v1 PodDisruptionBudget":
		return decode(doc, &s.budgets)
	case "networking.k8s.io/v1 NetworkPolicy":
		return decode(doc, &s.policies)
	case "keda.sh/v1alpha1 ScaledObject":
		return decode(doc, &s.scaled)
	case "keda.sh/v1alpha1 TriggerAuthentication":
		return decode(doc, &s.auths)
	}
	return fmt.Errorf("%s %s is of no kind that is checked here", kind.APIVersion, kind.Kind)
}

// decode adds an object, whose every field must be one of its type.
func decode[T any](doc []byte, to *[]T) error {
	var one T
	text, err := yaml.YAMLToJSONStrict(doc) // which knows no type, so that 5 is not taken for "5"
	if err != nil {
		return err
	}
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&one); err != nil {
		return err
	}
	*to = append(*to, one)
	return nil
}

// A field that is misspelt, or at the wrong place, does not pass.
func TestDecodingIsStrict(t *testing.T) {
	for name, doc := range map[string]string{
		"unknown":   "apiVersion: apps/v1\nkind: Deployment\nspec: {replica: 2}",
		"misplaced": "apiVersion: apps/v1\nkind: Deployment\nspec: {template: {spec: {readinessProbe: {}}}}",
		"twice":     "apiVersion: v1\nkind: Service\nspec: {ports: []}\nspec: {}",
		"of KEDA":   "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nspec: {minReplicas: 1}",
		"a type":    "apiVersion: v1\nkind: ConfigMap\ndata: {A: 5}",
		"a kind":    "apiVersion: v1\nkind: Pod",
	} {
		if err := new(set).add([]byte(doc)); err == nil {
			t.Errorf("%s: passes", name)
		}
	}
}
