package testenv

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// process is one run of a server; done is closed when it was waited for.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// launch starts cmd with its output at the end of the file log. It ends with
// us: a test binary that is killed leaves no server behind.
func launch(cmd *exec.Cmd, log string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() { defer close(p.done); _ = cmd.Wait() }()
	return p, nil
}

// await waits until ready returns nil. It gives up when the process ends, or at the deadline.
func (p *process) await(ready func() error, deadline time.Time) error {
	var err error
	for time.Now().Before(deadline) {
		if p.ended() {
			return fmt.Errorf("the server ended at once: %s", p.cmd.ProcessState)
		}
		if err = ready(); err == nil {
			return nil
		}
		pause()
	}
	return fmt.Errorf("it takes no connections: %w", err)
}

// signal sends a signal to the process and all that it has started (SIGSTOP
// must reach each of them to freeze the whole, and is waited for). It does nothing to one that has
// ended, or nil.
func (p *process) signal(sig syscall.Signal) {
	if p == nil || p.ended() {
		return // its number may be another's by now
	}
	pid := p.cmd.Process.Pid
	all := append([]int{pid}, descendantsOf(pid)...)
	for _, one := range all {
		_ = syscall.Kill(one, sig) // one that has just ended is no error
	}
	for deadline := time.Now().Add(patience); sig == syscall.SIGSTOP && slices.ContainsFunc(all, runs) && time.Now().Before(deadline); {
		pause() // the kernel stops each thread at its next chance
	}
}

// runs reports whether a thread of the process has neither stopped nor ended, by the
// process table.
func runs(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	return slices.ContainsFunc(threads, func(path string) bool {
		state, _, ok := threadState(path)
		return ok && state != "T" && state != "Z" && state != "X"
	})
}

// threadState reads a line of the process table: the state, and the parent's number. A
// thread that has ended has none.
func threadState(path string) (state, parent string, ok bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", "", false
	}
	// The fields after the name, which is in parentheses, are state and parent.
	rest := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(rest) < 2 {
		return "", "", false
	}
	return rest[0], rest[1], true
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the process as kill -9 would, with all that it has started, and waits until it is
// gone. It is stopped first: a child that it begets while we kill the others would outlive them, as a
// backend of PostgreSQL that waits for ever for a lock of the dead, and holds their memory.
func (p *process) kill() {
	if p == nil {
		return
	}
	p.signal(syscall.SIGSTOP)
	p.signal(syscall.SIGKILL)
	<-p.done
}

// tail returns the end of a log.
func tail(log string) string {
	b, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// home makes a temporary directory in dir for a server that runs as owner, and removes it when
// the test ends.
func home(t testing.TB, dir, pattern string, owner *syscall.Credential) string {
	t.Helper()
	base, err := os.MkdirTemp(dir, pattern)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(base); err != nil {
			t.Errorf("remove the test server's files: %v", err)
		}
	})
	give(t, base, owner)
	return base
}

// give makes a file or directory the owner's.
func give(t testing.TB, path string, owner *syscall.Credential) {
	t.Helper()
	if owner == nil {
		return
	}
	if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
		t.Fatal(err)
	}
}

// unprivileged returns the user that servers which refuse root run as; nil for
// "as we are".
func unprivileged(t testing.TB) *syscall.Credential {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	t.Fatal("testenv: as root a user named postgres or nobody is needed to run servers")
	return nil
}

// descendantsOf returns the processes that pid has started, and those that they
// have, by the process table.
func descendantsOf(pid int) []int {
	var out []int
	children := childrenOfAll()
	for next := children[pid]; len(next) > 0; next = next[1:] {
		out = append(out, next[0])
		next = append(next, children[next[0]]...)
	}
	return out
}

// childrenOfAll returns the process table by parent.
func childrenOfAll() map[int][]int {
	out := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		_, of, ok := threadState(path)
		if !ok {
			continue
		}
		parent, err1 := strconv.Atoi(of)
		child, err2 := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err1 == nil && err2 == nil {
			out[parent] = append(out[parent], child)
		}
	}
	return out
}

// FreePort returns a loopback port that nobody listens on at this moment, and that this process has not returned before: a
// server that starts slowly listens on its own much later. It is below those
// that systems hand out to connections (from 32768 on Linux, 49152 elsewhere): one of these may
// be a client's by the time that the server starts.
func FreePort(t testing.TB) int {
	t.Helper()
	const first, ports = 20_000, 12_000
	// Processes that run at once, whose ids are close together, begin far from one another.
	const apart = 97
	var err error
	for range 100 {
		n := int64(os.Getpid())*apart + portsTaken.Add(1)
		var l net.Listener
		if l, err = net.Listen("tcp", local(first+int(n%ports))); err == nil {
			defer l.Close()
			return l.Addr().(*net.TCPAddr).Port
		}
	}
	t.Fatal(err)
	return 0
}

var portsTaken atomic.Int64

// local returns the address of a loopback port.
func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// pause is the interval between two looks at something outside of this
// process that cannot signal.
func pause() { <-time.After(20 * time.Millisecond) }
