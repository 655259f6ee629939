package observe

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// root is the repository, seen from this package.
const root = "../.."

var (
	rulesFile = filepath.Join(root, "deploy/prometheus/errand.rules.yml")
	testsFile = filepath.Join(root, "deploy/prometheus/errand.rules.test.yml")
)

// rule is an alert, or a recording.
type rule struct {
	Alert, Record, Expr, For string
	Labels, Annotations      map[string]string
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func rules(t testing.TB) []rule {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal([]byte(read(t, rulesFile)), &file); err != nil {
		t.Fatal(err)
	}
	var out []rule
	for _, g := range file.Groups {
		out = append(out, g.Rules...)
	}
	return out
}

func alerts(t testing.TB) []rule {
	return slices.DeleteFunc(rules(t), func(r rule) bool { return r.Alert == "" })
}

// TestRules has promtool check the rules, and run their unit tests.
func TestRules(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", rulesFile}, {"test", "rules", testsFile}} {
		if out, err := exec.Command(program(t, "promtool"), args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestEveryAlertIsTested: it fires in one case of promtool's file and is silent
// in another.
func TestEveryAlertIsTested(t *testing.T) {
	var file struct {
		Tests []struct {
			AlertRuleTest []struct {
				Alertname string
				ExpAlerts []any `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, testsFile)), &file); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, c := range file.Tests {
		for _, a := range c.AlertRuleTest {
			if len(a.ExpAlerts) > 0 {
				fires[a.Alertname] = true
			} else {
				silent[a.Alertname] = true
			}
		}
	}
	for _, a := range alerts(t) {
		if !fires[a.Alert] || !silent[a.Alert] {
			t.Errorf("%s: fires in a case: %t, is silent in one: %t", a.Alert, fires[a.Alert], silent[a.Alert])
		}
	}
}

// TestEveryAlertHasItsPage: severity, summary, and a runbook that exists and
// says what it means, what to look at and what to do; no page without an alert.
func TestEveryAlertHasItsPage(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs/runbooks/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	for _, p := range pages {
		left[filepath.Base(p)] = true
	}
	for _, a := range alerts(t) {
		if !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) {
			t.Errorf("%s has the severity %q", a.Alert, a.Labels["severity"])
		}
		if a.Annotations["summary"] == "" {
			t.Errorf("%s has no summary", a.Alert)
		}
		name := a.Alert + ".md"
		if !strings.HasSuffix(a.Annotations["runbook_url"], "/docs/runbooks/"+name) || !left[name] {
			t.Errorf("%s: the runbook %q does not exist", a.Alert, a.Annotations["runbook_url"])
			continue
		}
		delete(left, name)
		page := read(t, filepath.Join(root, "docs/runbooks", name))
		for _, want := range []string{"# " + a.Alert + "\n", "\n## What it means\n", "\n## What to look at\n", "\n## What to do\n"} {
			if !strings.Contains(page, want) {
				t.Errorf("docs/runbooks/%s lacks %q", name, want)
			}
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(page, -1) {
			if _, err := os.Stat(filepath.Join(root, "docs/runbooks", m[1])); err != nil {
				t.Errorf("docs/runbooks/%s links to %s: %v", name, m[1], err)
			}
		}
	}
	for name := range left {
		t.Errorf("docs/runbooks/%s is of no alert", name)
	}
}
