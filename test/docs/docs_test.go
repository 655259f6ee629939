// Package docs runs what the documentation shows: each Go program of the README
// is compiled, run, and its output compared with what stands below it; each
// shell snippet is run; each test that docs/guarantees.md and docs/consistency.md name must exist.
package docs

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// root is the repository, seen from this package.
const root = "../.."

// block is a fenced piece of a page.
type block struct{ language, text string }

func blocks(t *testing.T, page string) []block {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	var out []block
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$").FindAllStringSubmatch(string(b), -1) {
		out = append(out, block{m[1], m[2]})
	}
	return out
}

// documented is the address that the pages use.
const documented = "localhost:7420"

func TestREADMEProgramsRun(t *testing.T) {
	c := cluster.SQLite(t)
	address := strings.TrimPrefix(c.AddServer().URL(), "http://")
	list, ran := blocks(t, "README.md"), 0
	for i, b := range list {
		if b.language != "go" {
			continue
		}
		ran++
		t.Run(strconv.Itoa(ran), func(t *testing.T) {
			if i+1 >= len(list) || list[i+1].language != "text" {
				t.Fatal("the program is not followed by a text block with its output")
			}
			got := runGo(t, strings.ReplaceAll(b.text, documented, address))
			if got != list[i+1].text {
				t.Errorf("it prints\n%s\nand the README says\n%s", got, list[i+1].text)
			}
		})
	}
	if ran < 2 {
		t.Errorf("%d programs found in the README", ran)
	}
}

// runGo runs a program as if it were a package of this module, by an overlay,
// so that it builds with the module's own versions and no file is left behind.
func runGo(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	file, overlay := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json")
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(here, "snippet", "main.go"): file}})
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string][]byte{file: []byte(source), overlay: replace} {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*cluster.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "run", "-overlay", overlay, "./snippet")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	return stdout.String()
}

func TestREADMEShellRuns(t *testing.T) {
	// The page uses the default address; the environment gives another one.
	address := "127.0.0.1:" + strconv.Itoa(testenv.FreePort(t))
	out := runShell(t, "README.md", "", "ERRAND_LISTEN="+address, "ERRAND_SERVER=http://"+address)
	if !strings.Contains(out, "greet") || !strings.Contains(out, "succeeded") {
		t.Errorf("the snippet printed\n%s", out)
	}
}

func TestProtocolExamplesRun(t *testing.T) {
	c := cluster.SQLite(t)
	address := strings.TrimPrefix(c.AddServer().URL(), "http://")
	out := runShell(t, "docs/protocol.md", address)
	for _, want := range []string{"JOB_STATE_SUCCEEDED", "STALE_TOKEN", "JOB_STATE_RUNNING"} {
		if !strings.Contains(out, want) {
			t.Errorf("the examples never printed %s:\n%s", want, out)
		}
	}
}

// runShell runs all shell blocks of a page as one script, with errand in PATH,
// in an empty directory, and returns what they printed. address, if set,
// replaces the documented one.
func runShell(t *testing.T, page, address string, env ...string) string {
	t.Helper()
	script := "set -euo pipefail\nset -m\n"
	for _, b := range blocks(t, page) {
		if b.language == "sh" {
			script += b.text
		}
	}
	if address != "" {
		script = strings.ReplaceAll(script, documented, address)
	}
	ctx, cancel := context.WithTimeout(t.Context(), cluster.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(append(os.Environ(), "PATH="+filepath.Dir(cluster.Errand(t))+":"+os.Getenv("PATH")), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", page, err, out.String())
	}
	return out.String()
}

// A guarantee whose test is gone is no guarantee. On the page of losses each row of
// its table names one.
func TestGuaranteesNameTestsThatExist(t *testing.T) {
	tests, cases := definitions(t)
	for _, page := range []string{"docs/guarantees.md", "docs/consistency.md"} {
		t.Run(page, func(t *testing.T) { namedTestsExist(t, page, tests, cases) })
	}
}

func namedTestsExist(t *testing.T, name string, tests, cases map[string]bool) {
	page, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)((?:/[A-Za-z0-9_]+)*)`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 30 {
		t.Errorf("only %d tests are named", len(named))
	}
	for _, m := range named {
		if !tests[m[1]] {
			t.Errorf("%s names %s, which does not exist", name, m[1])
		}
		for _, sub := range strings.Split(m[2], "/")[1:] {
			if !cases[sub] {
				t.Errorf("%s names the case %s of %s, which does not exist", name, sub, m[1])
			}
		}
	}
}

func TestEveryLossNamesItsTest(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/consistency.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "\n| lost |")
	table, _, ended := strings.Cut(table, "\n\n")
	rows := strings.Split(table, "\n")
	if !found || !ended || len(rows) < 10 {
		t.Fatalf("the table of losses has %d rows", len(rows))
	}
	for _, row := range rows[2:] {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		if !strings.Contains(cells[len(cells)-1], "`Test") {
			t.Errorf("the row names no test: %s", row)
		}
	}
}

// definitions finds the names of all tests, and of all named cases.
func definitions(t *testing.T) (tests, cases map[string]bool) {
	t.Helper()
	tests, cases = map[string]bool{}, map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	name := regexp.MustCompile(`(?:\{|t\.Run\()"([A-Z]\w+)", `)
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(b, -1) {
			tests[string(m[1])] = true
		}
		for _, m := range name.FindAllSubmatch(b, -1) {
			cases[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests, cases
}

// No page names a file of the repository that is not there.
func TestPagesNameFilesThatExist(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	decisions, err := filepath.Glob(filepath.Join(root, "docs", "decisions", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	file := regexp.MustCompile("`((?:[a-z]+/)*[a-z_]+\\.go)`")
	link := regexp.MustCompile(`\]\(([a-zA-Z0-9_./-]+)\)`)
	for _, page := range append(append(pages, decisions...), filepath.Join(root, "README.md")) {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range file.FindAllSubmatch(b, -1) {
			if _, err := os.Stat(filepath.Join(root, string(m[1]))); err != nil {
				t.Errorf("%s names %s: %v", page, m[1], err)
			}
		}
		for _, m := range link.FindAllSubmatch(b, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), string(m[1]))); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
}
