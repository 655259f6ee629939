package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/errandhq/errand/internal/testenv"
)

// away is the start of a server that is not to be had.
func away(string) (*testenv.Service, error) { return nil, errors.New("no such program") }

func TestRunGivesTheStatusOfTheCommand(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -TERM $$": 128 + 15} {
		if got, err := run(nil, []string{"sh", "-c", script}); got != want || err != nil {
			t.Errorf("%s: status %d, %v; want %d", script, got, err, want)
		}
	}
	if got, err := run(nil, []string{filepath.Join(t.TempDir(), "nothing")}); got != 127 || err == nil {
		t.Errorf("a command that is not there: status %d, %v", got, err)
	}
}

// A signal goes to the command, which decides; our parent here is the command itself.
func TestRunHandsSignalsOn(t *testing.T) {
	script := `trap 'exit 7' TERM; kill -TERM $PPID; while :; do sleep 0.05; done`
	if got, err := run(nil, []string{"sh", "-c", script}); got != 7 || err != nil {
		t.Errorf("status %d, %v", got, err)
	}
}

func TestRunStartsAndStopsServers(t *testing.T) {
	marks := t.TempDir()
	t.Setenv(testenv.Env, "")
	chosen, err := choose("postgres")
	if err != nil {
		t.Fatal(err)
	}
	script := `echo "$` + testenv.Env + `" >` + marks + `/address`
	if got, err := run(chosen, []string{"sh", "-c", script}); got != 0 || err != nil {
		t.Fatalf("status %d, %v", got, err)
	}
	b, err := os.ReadFile(filepath.Join(marks, "address"))
	if err != nil || !strings.HasPrefix(string(b), "postgres://") {
		t.Errorf("the command was told %q, %v", b, err)
	}
}

// A server that does not start fails the run, and the command is not run.
func TestRunFailsWithAServer(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	got, err := run([]part{{"nothing", "ERRAND_TEST_NOTHING", away}}, []string{"touch", mark})
	if got == 0 || err == nil || !strings.Contains(err.Error(), "nothing does not start") {
		t.Errorf("status %d, %v", got, err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the command was run")
	}
}

func TestRunLeavesServersThatAreNamed(t *testing.T) {
	t.Setenv("ERRAND_TEST_NOTHING", "elsewhere")
	script := `test "$ERRAND_TEST_NOTHING" = elsewhere`
	if got, err := run([]part{{"nothing", "ERRAND_TEST_NOTHING", away}}, []string{"sh", "-c", script}); got != 0 || err != nil {
		t.Errorf("status %d, %v", got, err)
	}
}

func TestChoose(t *testing.T) {
	if all, err := choose(""); err != nil || len(all) != len(parts) {
		t.Errorf("%d of %d parts, %v", len(all), len(parts), err)
	}
	two, err := choose("redis,postgres")
	if err != nil || len(two) != 2 || two[0].name != "redis" || two[1].name != "postgres" {
		t.Errorf("%v, %v", two, err)
	}
	for _, only := range []string{"oracle", "postgres,", ","} {
		if _, err := choose(only); err == nil {
			t.Errorf("%q was taken", only)
		}
	}
}
