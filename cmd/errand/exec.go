package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
)

// exitDiscard is the exit status by which a command says that its job will
// never succeed: EX_DATAERR of sysexits.
const exitDiscard = 65

// killAfter is how long a command that was told to end (SIGTERM) may take,
// and how long processes that it left behind may keep its output open.
const killAfter = 5 * time.Second

// runner carries out jobs as processes of one command.
type runner struct {
	path   string
	args   []string
	stderr io.Writer // the worker's own; written by several jobs at once
	grace  time.Duration
	giveUp context.Context // its end kills everything at once
	warn   func(format string, args ...any)
}

// outcome is how a process ended.
type outcome struct {
	result  []byte
	discard bool
	err     error // nil: exit status 0
}

// run starts the command in a process group of its own, with the payload on
// its standard input, and waits for it. When ctx ends the group gets SIGTERM,
// and SIGKILL after the grace; run returns when nothing of the group is left.
func (r *runner) run(ctx context.Context, payload []byte, env []string) outcome {
	cmd := exec.CommandContext(ctx, r.path, r.args...)
	cmd.Stdin = bytes.NewReader(payload)
	stdout := &headBuffer{most: job.MaxResult}
	stderr := &tailBuffer{most: job.MaxErrorMessage - 64, through: r.stderr}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Env = append(os.Environ(), env...)
	ownGroup(cmd)
	var asked time.Time // when it was told to end
	cmd.Cancel = func() error { asked = time.Now(); return endGroup(cmd.Process.Pid) }
	// A child in the background that keeps the pipes open must not hold the
	// job: they are closed this long after the command itself has ended.
	cmd.WaitDelay = r.grace
	err := cmd.Start()
	if err == nil {
		stop := context.AfterFunc(r.giveUp, func() { killGroup(cmd.Process.Pid, 0) })
		err = cmd.Wait()
		stop()
	}
	if !asked.IsZero() {
		killGroup(cmd.Process.Pid, r.grace-time.Since(asked))
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // exit status 0, with children left that are none of ours
	}
	if n := stdout.dropped; n > 0 {
		r.warn("the result was cut to its first %d bytes; %d more were dropped", job.MaxResult, n)
	}
	return outcomeOf(ctx, err, stdout.head, stderr.text())
}

func outcomeOf(ctx context.Context, err error, stdout []byte, stderr string) outcome {
	if err == nil {
		return outcome{result: stdout}
	}
	how := err.Error()
	switch {
	case ctx.Err() != nil:
		how = fmt.Sprintf("%v: %v", context.Cause(ctx), err)
	case stderr != "":
		how = fmt.Sprintf("%s (%s)", stderr, how)
	}
	var exit *exec.ExitError
	return outcome{
		discard: errors.As(err, &exit) && exit.ExitCode() == exitDiscard,
		err:     errors.New(how),
	}
}

// headBuffer keeps the first bytes written to it, and counts the others.
type headBuffer struct {
	head    []byte
	most    int
	dropped int
}

func (b *headBuffer) Write(p []byte) (int, error) {
	keep := min(len(p), b.most-len(b.head))
	b.dropped += len(p) - keep
	b.head = append(b.head, p[:keep]...)
	return len(p), nil
}

// tailBuffer keeps the last bytes written to it, and passes all of them on.
type tailBuffer struct {
	most    int
	tail    []byte
	through io.Writer
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	_, _ = b.through.Write(p) // a closed standard error of ours is no failure of the job
	b.tail = append(b.tail, p[max(0, len(p)-b.most):]...)
	if extra := len(b.tail) - b.most; extra > 0 {
		b.tail = b.tail[extra:]
	}
	return len(p), nil
}

// text is the tail as a message: without the NUL bytes and broken characters
// that a database would refuse.
func (b *tailBuffer) text() string {
	s := strings.ToValidUTF8(string(b.tail), "")
	return strings.TrimSpace(strings.ReplaceAll(s, "\x00", ""))
}

// lockedWriter lets several processes write to one stream.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// findCommand resolves what --exec names, once, before any job is taken.
func findCommand(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		var cause *exec.Error
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return "", usageError("--exec: cannot run %q: %w", name, err)
	}
	return path, nil
}

// splitExec makes everything after "--exec CMD" arguments of CMD, so that its
// flags are not taken for ours.
func splitExec(args []string) []string {
	for i, arg := range args {
		if arg == "--" {
			return args
		}
		at := i + 1
		if strings.HasPrefix(arg, "--exec=") {
			at = i
		} else if arg != "--exec" || at >= len(args) {
			continue
		}
		out := append([]string{}, args[:at+1]...)
		out = append(out, "--")
		return append(out, args[at+1:]...)
	}
	return args
}
