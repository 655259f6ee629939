package check

import (
	"context"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// program builds errand, and returns its path.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "errand")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/errand")
	cmd.Dir = "../../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// flags returns the flags that a command of the program has.
func flags(t *testing.T, errand, command string) map[string]bool {
	t.Helper()
	out, err := exec.Command(errand, command, "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^ +(?:-\w, |   )?--([a-z-]+)`).FindAllStringSubmatch(string(out), -1) {
		known[m[1]] = true
	}
	return known
}

// Flags and settings in the manifests are those of the program.
func TestTheProgramKnowsWhatItIsTold(t *testing.T) {
	errand := program(t)
	serve, work := flags(t, errand, "serve"), flags(t, errand, "work")
	each(t, func(t *testing.T, s *set) {
		s.containers(func(d *appsv1.Deployment, c *corev1.Container) {
			known := serve
			if c.Args[0] == "work" {
				known = work
			}
			for _, a := range c.Args[1:] {
				name, _, _ := strings.Cut(strings.TrimPrefix(a, "--"), "=")
				if strings.HasPrefix(a, "--") && !known[name] {
					t.Errorf("%s: errand %s has no flag --%s", d.Name, c.Args[0], name)
				}
			}
			for _, e := range c.Env {
				if name := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(e.Name, "ERRAND_"), "_", "-")); !serve[name] {
					t.Errorf("%s: errand serve has no setting %s", d.Name, e.Name)
				}
			}
		})
		for _, m := range s.configs {
			for env := range m.Data {
				if name := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(env, "ERRAND_"), "_", "-")); !serve[name] {
					t.Errorf("errand serve has no setting %s", env)
				}
			}
		}
	})
	if len(serve) < 30 || len(work) < 5 {
		t.Errorf("only %d and %d flags were found: the help is read wrongly", len(serve), len(work))
	}
}

// The program takes the settings of each server as they stand: what it then
// fails for is that there is no such file or database here.
func TestTheProgramTakesTheSettings(t *testing.T) {
	errand, s := program(t), load(t, "base")
	s.containers(func(d *appsv1.Deployment, c *corev1.Container) {
		if c.Args[0] != "serve" {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, errand, c.Args...)
		cmd.Env = []string{"ERRAND_LEDGER=postgres://nobody@127.0.0.1:1/errand?connect_timeout=2"}
		for k, v := range s.configs[0].Data {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "ledger postgres://nobody@127.0.0.1:1/errand") {
			t.Errorf("%s: %v\n%s", d.Name, err, out)
		}
	})
}
