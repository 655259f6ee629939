package sqlite

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/errandhq/errand/job"
)

// A directory or a file that may not be written is refused, and left as it is.
// Root may write anywhere, so the test looks at files with other eyes.
func TestReadOnly(t *testing.T) {
	dir, file := t.TempDir(), testPath(t)
	if _, err := Migrate(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{filepath.Dir(dir), filepath.Dir(filepath.Dir(file))} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(file), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file + ".lock"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o444); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 2)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its user
		if os.Geteuid() == 0 {
			if err := unix.Setfsuid(65534); err != nil {
				errs <- err
				errs <- err
				return
			}
		}
		for _, path := range []string{filepath.Join(dir, "errand.db"), file} {
			l, err := Open(t.Context(), path, Options{})
			if err == nil {
				_ = l.Close()
			}
			errs <- err
		}
	}()
	for range 2 {
		wantReason(t, <-errs, job.FailedPrecondition, job.ReasonLedgerDown, "cannot be written")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("files were left behind: %v, %v", entries, err)
	}
}
