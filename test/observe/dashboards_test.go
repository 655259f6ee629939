package observe

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var grafana = filepath.Join(root, "deploy/grafana")

// TestDashboardsAreAsGenerated makes them twice, and compares with each other
// and with what is committed.
func TestDashboardsAreAsGenerated(t *testing.T) {
	first, second := generate(t), generate(t)
	committed, err := filepath.Glob(filepath.Join(grafana, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(first) < 4 || len(committed) != len(first) {
		t.Errorf("%d dashboards are generated, %d committed", len(first), len(committed))
	}
	for name, text := range first {
		if !bytes.Equal(text, second[name]) {
			t.Errorf("%s is generated differently each time", name)
		}
		if got, err := os.ReadFile(filepath.Join(grafana, name)); err != nil || !bytes.Equal(got, text) {
			t.Errorf("deploy/grafana/%s is not as generated (%v): run make dashboards", name, err)
		}
	}
}

func generate(t *testing.T) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "run", ".", dir)
	cmd.Dir = filepath.Join(grafana, "generate")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("generate: %v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	made := map[string][]byte{}
	for _, f := range files {
		made[filepath.Base(f)] = []byte(read(t, f))
	}
	return made
}

// expression is one of a panel's, with the reader's variables filled in.
type expression struct{ board, panel, expr string }

// expressions returns those of all dashboards.
func expressions(t testing.TB) []expression {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(grafana, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	choose := strings.NewReplacer("$__rate_interval", "15s", "$job", ".*", "$queue", ".*", "$kind", ".*")
	var out []expression
	for _, f := range files {
		var b struct {
			Title  string
			Panels []struct {
				Type, Title string
				Targets     []struct{ Expr string }
			}
		}
		if err := json.Unmarshal([]byte(read(t, f)), &b); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		for _, p := range b.Panels {
			if p.Type != "row" && len(p.Targets) == 0 {
				t.Errorf("%s: panel %q has no expression", b.Title, p.Title)
			}
			for _, target := range p.Targets {
				out = append(out, expression{b.Title, p.Title, choose.Replace(target.Expr)})
			}
		}
	}
	return out
}
