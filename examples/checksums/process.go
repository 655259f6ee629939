//go:build unix

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// process is a child: in a group of its own, so that Ctrl-C reaches only the
// demonstration, which then ends its children in order.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; after done
}

// start starts a child whose standard error is appended to a log.
func start(name, log string, stdout io.Writer, command string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.Command(command, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = stdout, f
	p.cmd.SysProcAttr = childAttributes()
	err = p.cmd.Start()
	_ = f.Close() // the child has it now
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop asks a process to end, insists after a while, and waits until it has.
func (p *process) stop(patience time.Duration) error {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(patience):
		p.kill()
		return fmt.Errorf("%s did not stop within %s", p.name, patience)
	}
}

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// startServer starts "errand serve" on a free port and returns its address.
func startServer(errand, dir, log string) (*process, string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = r.Close() }()
	p, err := start("server", log, w, errand, "serve", "-o", "json", "--listen", "127.0.0.1:0", "--data", dir,
		"--session-ttl", sessionTTL.String(), "--backoff-base", "100ms", "--log-level", "warn")
	_ = w.Close() // the child's copy is the one that counts
	if err != nil {
		return nil, "", err
	}
	_ = r.SetReadDeadline(time.Now().Add(30 * time.Second))
	var answer struct{ URL string }
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &answer)
	}
	if err != nil {
		p.kill()
		text, _ := os.ReadFile(log)
		return nil, "", fmt.Errorf("the server did not start: %w\n%s", errors.Join(err, p.err), text)
	}
	return p, answer.URL, nil
}
