package check

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// The kustomization in docs/scaling.md, from which a user sets out, is taken as it
// stands, and leaves no image to be set.
func TestTheExampleOfTheDocs(t *testing.T) {
	text, err := os.ReadFile("../../../docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	there, err := filepath.Rel(dir, here)
	if err != nil {
		t.Fatal(err)
	}
	const theirs = "../errand/deploy/kubernetes"
	if !strings.Contains(example, theirs) {
		t.Fatalf("the example is another: %s", example)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(strings.ReplaceAll(example, theirs, there)), 0o600); err != nil {
		t.Fatal(err)
	}
	s := loadFrom(t, "the docs' example", dir)
	s.containers(func(d *appsv1.Deployment, c *corev1.Container) {
		if want := map[bool]string{true: "registry.example/mailer:7", false: "registry.example/errand:0.1.0"}[c.Name == "worker"]; c.Image != want {
			t.Errorf("%s runs %s", d.Name, c.Image)
		}
	})
	if c := s.deployment(t, "errand-worker").Spec.Template.Spec.Containers[0]; len(c.Args) != 2 || len(s.scaled) != 1 {
		t.Errorf("the worker's arguments are %q, and there are %d scaled objects", c.Args, len(s.scaled))
	}
}
