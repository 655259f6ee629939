package cluster

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

// The overlay must shift the wall clock, or the tests of wrong clocks test nothing.
func TestShiftedProgramHasAWrongClock(t *testing.T) {
	program := Shifted(t, "test/cluster/clock", 90*time.Minute)
	out, err := exec.Command(program).Output()
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	if off := time.Until(at); off < 89*time.Minute || off > 91*time.Minute {
		t.Errorf("the program's clock is off by %s, want 90m", off)
	}
}
