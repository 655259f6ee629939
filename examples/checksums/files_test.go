//go:build unix

package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
)

// oddNames are names that break programs which take them for text, for options
// or for lines.
var oddNames = []string{
	"plain.txt", "with space", "new\nline", "-rf", "--help", "tab\tand \\ backslash", "quote'\"`$x", "\xff\xfe\x80",
	" leading", "trailing ", "*", "ünïcødé", ".hidden", "..two", "\x01\x1b[31m", strings.Repeat("n", 255),
}

// oddDirectory holds a file of every odd name, here and below, beside what is
// no file.
func oddDirectory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"", "sub\ndir", "-sub/deeper"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
		for i, name := range oddNames {
			if err := os.WriteFile(filepath.Join(dir, sub, name), []byte(strings.Repeat(name, i)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, link := range [][2]string{{"plain.txt", "link"}, {"nowhere", "dangling"}, {".", "loop"}} {
		if err := os.Symlink(link[0], filepath.Join(dir, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, ".git", "objects"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".git", "config"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestListFindsEveryRegularFile(t *testing.T) {
	dir := oddDirectory(t)
	l, err := list(t.Context(), dir, filepath.Join(dir, "without"))
	if err != nil {
		t.Fatal(err)
	}
	if len(l.files) != 3*len(oddNames) || l.skipped != 4 {
		t.Errorf("%d files, %d skipped", len(l.files), l.skipped)
	}
	if !slices.ContainsFunc(l.files, func(f file) bool { return f.path == "sub\ndir/\xff\xfe\x80" }) {
		t.Error("a name that is no UTF-8 was lost")
	}
	if l.files[0].changed(dir) {
		t.Error("nothing has changed")
	}
	if err := os.WriteFile(filepath.Join(dir, l.files[0].path), []byte("other, longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !l.files[0].changed(dir) {
		t.Error("a change was not seen")
	}
	if _, err := list(t.Context(), t.TempDir(), ""); err == nil {
		t.Error("an empty directory has files")
	}
	if _, err := list(t.Context(), filepath.Join(dir, "plain.txt"), ""); err == nil {
		t.Error("a file was taken for a directory")
	}
	if _, err := list(t.Context(), filepath.Join(dir, "nowhere"), ""); err == nil {
		t.Error("a directory that is not there has files")
	}
}

// The worker, sha256sum with names, and sha256sum from standard input agree on
// every name.
func TestHashesAgree(t *testing.T) {
	dir := oddDirectory(t)
	l, err := list(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	want, err := reference(t.Context(), dir, l.files)
	if err != nil {
		t.Fatal(err)
	}
	single, err := oneByOne(t.Context(), []string{"sha256sum"}, dir, l.files)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range l.files {
		got, err := hash(t.Context(), filepath.Join(dir, f.path))
		if err != nil || got != want[f.path] || got != single[f.path] {
			t.Errorf("%q: %s, %v; sha256sum %s and %s", f.path, got, err, want[f.path], single[f.path])
		}
	}
	gone := []file{{path: "never there"}, l.files[0]}
	if sums, err := reference(t.Context(), dir, gone); err != nil || len(sums) != 1 {
		t.Errorf("a file that cannot be read: %v, %v", sums, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := hash(ended, filepath.Join(dir, "with space")); err == nil {
		t.Error("hash goes on after its context has ended")
	}
}

// What differs is a problem, unless the file itself has changed meanwhile.
func TestCompare(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := list(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	f := l.files[0]
	done := &errand.JobInfo{State: errand.Succeeded, Result: []byte("abc"), Attempt: 3, Crashes: 1}
	for name, c := range map[string]struct {
		job     *errand.JobInfo
		want    map[string]string
		touch   bool
		problem bool
	}{
		"same":                   {done, map[string]string{"f": "abc"}, false, false},
		"different":              {done, map[string]string{"f": "abd"}, false, true},
		"dead":                   {&errand.JobInfo{State: errand.Dead, Reason: "attempts"}, map[string]string{"f": "abc"}, false, true},
		"unreadable":             {&errand.JobInfo{State: errand.Dead, Reason: "discarded"}, nil, false, false},
		"only one could read it": {done, nil, false, true},
		"changed":                {done, map[string]string{"f": "abd"}, true, false},
	} {
		f := f
		if c.touch {
			f.mod = f.mod.Add(-time.Second)
		}
		r := &report{files: 1}
		r.compare(dir, f, c.job, c.want)
		if (r.verdict() != nil) != c.problem || r.match+r.unreadable+r.changed+r.different != 1 {
			t.Errorf("%s: %+v", name, r)
		}
		if c.job == done && (r.retries != 1 || r.crashes != 1) {
			t.Errorf("%s: %d retries, %d crashes", name, r.retries, r.crashes)
		}
	}
}
