package cluster

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Shifted builds a program whose wall clock is off by so much, and whose
// monotonic clock is not. It is the program as it is, compiled against a copy
// of the standard library's time.Now with the offset added, so that no line of
// Errand has to know of it.
func Shifted(t testing.TB, pkg string, by time.Duration) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	const reading = "sec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(source), reading) == 0 {
		t.Fatalf("time.Now of this Go does not read %q: the overlay needs mending", reading)
	}
	shifted := strings.ReplaceAll(string(source), reading, reading+"\tsec += errandShift()\n") + `
// errandOffset is set by the linker: the offset of the wall clock.
var errandOffset string

var errandSeconds int64

func init() {
	d, _ := ParseDuration(errandOffset)
	errandSeconds = int64(d / Second)
}

func errandShift() int64 { return errandSeconds }
`
	dir := t.TempDir()
	copied := filepath.Join(dir, "time.go")
	if err := os.WriteFile(copied, []byte(shifted), 0o644); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: copied}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o644); err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(pkg) + "-shifted-" + by.String()
	return Binary(t, pkg, name, "-overlay", file, "-ldflags", "-X time.errandOffset="+by.String())
}
