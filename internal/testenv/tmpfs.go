package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Tmpfs mounts a file system of its own that holds at most so many bytes, for
// tests of a full disk, and unmounts it at the end. Mounting needs root: for
// anybody else the test is skipped, saying so.
func Tmpfs(t testing.TB, bytes int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED LOUDLY: a full disk needs a small tmpfs, and only root may mount one; run as root")
	}
	base, err := os.MkdirTemp("", "errand-tmpfs-")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0777", bytes), "tmpfs", dir).CombinedOutput()
	if err != nil {
		t.Skipf("SKIPPED LOUDLY: this machine lets not even root mount a tmpfs: %v: %s", err, out)
	}
	if err := os.Chmod(base, 0o755); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount the tmpfs: %v: %s", err, out)
			return
		}
		if err := os.RemoveAll(base); err != nil {
			t.Error(err)
		}
	})
	return dir
}
