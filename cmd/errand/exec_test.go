//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/errandhq/errand/job"
)

// shell makes a runner of a shell script.
func shell(t *testing.T, script string) (*runner, *bytes.Buffer) {
	t.Helper()
	stderr := &bytes.Buffer{}
	return &runner{
		path: "/bin/sh", args: []string{"-c", script}, stderr: stderr, grace: 500 * time.Millisecond,
		giveUp: context.Background(), warn: t.Logf,
	}, stderr
}

func TestExecPayloadResultAndEnvironment(t *testing.T) {
	r, stderr := shell(t, `cat; printf %s "$ERRAND_JOB_ID"; echo noise >&2`)
	out := r.run(t.Context(), []byte("in\x00\xff"), []string{"ERRAND_JOB_ID=7"})
	if out.err != nil || string(out.result) != "in\x00\xff7" || stderr.String() != "noise\n" {
		t.Errorf("%+v, stderr %q", out, stderr)
	}
}

func TestExecFailures(t *testing.T) {
	for script, want := range map[string]struct {
		message string
		discard bool
	}{
		"exit 65":                          {"exit status 65", true},
		"echo no >&2; exit 65":             {"no (exit status 65)", true},
		"echo why >&2; exit 3":             {"why (exit status 3)", false},
		"kill -9 $$":                       {"signal: killed", false},
		`printf 'a\000b\377c' >&2; exit 1`: {"abc (exit status 1)", false},
	} {
		r, _ := shell(t, script)
		out := r.run(t.Context(), nil, nil)
		if out.err == nil || out.err.Error() != want.message || out.discard != want.discard {
			t.Errorf("%s: %+v", script, out)
		}
	}
	r, _ := shell(t, "")
	r.path = "/nowhere/at/all"
	if out := r.run(t.Context(), nil, nil); out.err == nil || out.discard {
		t.Errorf("a command that has gone: %+v", out)
	}
}

// A command that reads nothing of a large payload has not failed, and one that
// writes too much keeps the beginning.
func TestExecLargeStreams(t *testing.T) {
	r, _ := shell(t, "exit 0")
	if out := r.run(t.Context(), make([]byte, 1<<20), nil); out.err != nil {
		t.Errorf("unread payload: %v", out.err)
	}
	r, _ = shell(t, "echo begin; head -c 1000000 /dev/zero; head -c 100000 /dev/zero | tr '\\0' e >&2; echo end >&2; exit 1")
	r.args[1] = strings.Replace(r.args[1], "exit 1", "exit 0", 1)
	out := r.run(t.Context(), nil, nil)
	if out.err != nil || len(out.result) != job.MaxResult || !bytes.HasPrefix(out.result, []byte("begin\n")) {
		t.Errorf("%d bytes, %v", len(out.result), out.err)
	}
	r.args[1] = strings.Replace(r.args[1], "exit 0", "exit 1", 1)
	out = r.run(t.Context(), nil, nil)
	if text := out.err.Error(); len(text) > job.MaxErrorMessage || !strings.HasSuffix(text, "eend (exit status 1)") {
		t.Errorf("%d bytes of message, ending in %q", len(text), text[max(0, len(text)-40):])
	}
}

// Cancellation ends the whole group, even grandchildren that ignore SIGTERM.
func TestExecCancelEndsTheGroup(t *testing.T) {
	for name, script := range map[string]string{
		"polite":   `sleep 100 & echo $! >$PIDS; wait`,
		"stubborn": `trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & echo $! >$PIDS; while :; do sleep 1; done`,
		"orphans":  `(trap '' TERM; exec >/dev/null 2>&1; while :; do sleep 1; done) & echo $! >$PIDS; wait`,
	} {
		t.Run(name, func(t *testing.T) {
			pids := filepath.Join(t.TempDir(), "pids")
			r, _ := shell(t, script)
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
					if b, _ := os.ReadFile(pids); bytes.HasSuffix(b, []byte("\n")) {
						break
					}
				}
				cancel(errors.New("told to"))
			}()
			out := r.run(ctx, nil, []string{"PIDS=" + pids})
			if out.err == nil || !strings.Contains(out.err.Error(), "told to") || out.discard {
				t.Errorf("%+v", out)
			}
			b, _ := os.ReadFile(pids)
			child, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			if alive(child) {
				t.Errorf("process %d of the group lives on", child)
			}
		})
	}
}

// alive reports whether a process runs: one that has ended and was not waited
// for yet does not.
func alive(pid int) bool {
	for range 100 {
		if syscall.Kill(pid, 0) != nil {
			return false
		}
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(stat), ") Z ") {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

// A child left in the background that holds the pipes does not hold the job.
func TestExecBackgroundChildDoesNotHang(t *testing.T) {
	r, _ := shell(t, "echo done; sleep 30 & exit 0")
	began := time.Now()
	out := r.run(t.Context(), nil, nil)
	if out.err != nil || string(out.result) != "done\n" || time.Since(began) > 10*time.Second {
		t.Errorf("after %s: %+v", time.Since(began), out)
	}
}

func TestExecGiveUpKillsAtOnce(t *testing.T) {
	r, _ := shell(t, "trap '' TERM; while :; do sleep 1; done")
	r.grace = time.Hour
	giveUp, abandon := context.WithCancel(t.Context())
	r.giveUp = giveUp
	time.AfterFunc(50*time.Millisecond, abandon)
	if out := r.run(t.Context(), nil, nil); out.err == nil {
		t.Error("it ended well")
	}
}

func TestSplitExec(t *testing.T) {
	for in, want := range map[string]string{
		"work --exec cmd -x --queue q": "work --exec cmd -- -x --queue q",
		"work --exec=cmd a":            "work --exec=cmd -- a",
		"work --queue q --exec":        "work --queue q --exec",
		"work --exec cmd":              "work --exec cmd --",
		"work --exec cmd -- a":         "work --exec cmd -- -- a",
		"jobs list":                    "jobs list",
		"work -- --exec cmd":           "work -- --exec cmd",
		"work --exec --exec --exec":    "work --exec --exec -- --exec",
	} {
		if got := splitExec(strings.Fields(in)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: %q", in, got)
		}
	}
}
