package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/testenv"
)

// Process is a program under test. Its methods are for one goroutine at a time.
type Process struct {
	t    testing.TB
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process was waited for
}

// start runs a program with its output in a file, and kills it at the end of
// the test if it still runs. env is added to the environment.
func start(t testing.TB, dir, name string, env []string, program string, args ...string) *Process {
	t.Helper()
	log := filepath.Join(dir, name+".log")
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, name: name, log: log, cmd: cmd, done: make(chan struct{})}
	go func() { defer close(p.done); _ = cmd.Wait() }()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("the end of the output of %s:\n%s", name, tail(log))
		}
	})
	return p
}

// Run starts another program beside the cluster, killed at the end of the test
// if it still runs.
func (c *Cluster) Run(name, program string, args ...string) *Process {
	c.T.Helper()
	return start(c.T, c.Dir, name, nil, program, args...)
}

// Kill ends the process as kill -9 does, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// Signal sends a signal to a process that runs.
func (p *Process) Signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Errorf("signal %s: %v", p.name, err)
	}
}

// Wait waits for the process to end by itself and returns its exit status.
func (p *Process) Wait(patience time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("%s still runs after %s:\n%s", p.name, patience, tail(p.log))
		return -1
	}
}

// CPU is the processor time of a process that has ended.
func (p *Process) CPU() time.Duration {
	<-p.done
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// CPUSoFar is the processor time of a process that runs.
func (p *Process) CPUSoFar() time.Duration {
	p.t.Helper()
	d, err := testenv.CPUOf(p.cmd.Process.Pid)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

// Log is all that the process has written so far.
func (p *Process) Log() string {
	p.t.Helper()
	b, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-6000):])
}

// binaries are built once for a test binary, all into one directory.
var binaries struct {
	sync.Mutex
	dir  string
	made map[string]string
}

// Main is for TestMain: it runs the tests and removes what was built for them.
func Main(m *testing.M) {
	code := m.Run()
	if binaries.dir != "" {
		_ = os.RemoveAll(binaries.dir)
	}
	os.Exit(code)
}

// Binary builds a program of this module, once, and returns its path. flags
// are added to `go build`.
func Binary(t testing.TB, pkg, name string, flags ...string) string {
	t.Helper()
	binaries.Lock()
	defer binaries.Unlock()
	if binaries.dir == "" {
		dir, err := os.MkdirTemp("", "errand-bin-")
		if err != nil {
			t.Fatal(err)
		}
		binaries.dir, binaries.made = dir, map[string]string{}
	}
	if path, ok := binaries.made[name]; ok {
		return path
	}
	path := filepath.Join(binaries.dir, name)
	args := append(append([]string{"build", "-o", path}, flags...), module+pkg)
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	binaries.made[name] = path
	return path
}

const module = "github.com/errandhq/errand/"

// Errand returns the path of the errand binary.
func Errand(t testing.TB) string { return Binary(t, "cmd/errand", "errand") }
