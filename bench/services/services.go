// Package services starts the servers that are measured against each other, as
// durable as a person would run them, on free loopback ports with their data in
// one temporary directory, and stops them again.
//
// They are not the servers of the tests: scripts/test-services starts PostgreSQL
// without fsync, which would flatter everything that is built on it.
package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Server is a process that was started here.
type Server struct {
	Address string
	Version string

	name  string
	cmd   *exec.Cmd
	log   string
	done  chan struct{}
	quit  syscall.Signal // asks it to stop
	after func()         // once it has stopped; may be nil
}

// startPatience bounds every wait for a server to come up, stopPatience for it to go.
const (
	startPatience = 90 * time.Second
	stopPatience  = 30 * time.Second
)

// launch starts a server and waits until ready says that it answers.
func launch(ctx context.Context, name, dir string, cmd *exec.Cmd, ready func(context.Context) error) (*Server, error) {
	s := &Server{name: name, cmd: cmd, log: filepath.Join(dir, name+".log"), done: make(chan struct{}), quit: syscall.SIGTERM}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { defer close(s.done); _ = cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		if err = ready(ctx); err == nil {
			return s, nil
		}
		select {
		case <-s.done:
			return nil, fmt.Errorf("%s ended at once: %w\n%s", name, err, s.tail())
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%s did not come up: %w\n%s", name, err, s.tail()), s.Stop())
		case <-time.After(50 * time.Millisecond): // the pace of looking
		}
	}
}

// Stop ends the server and waits until it is gone.
func (s *Server) Stop() error {
	if s.after != nil {
		defer s.after()
	}
	_ = s.cmd.Process.Signal(s.quit) // it may have ended by itself
	select {
	case <-s.done:
		return nil
	case <-time.After(stopPatience):
	}
	_ = s.cmd.Process.Kill()
	<-s.done
	return fmt.Errorf("%s did not stop within %s and was killed", s.name, stopPatience)
}

func (s *Server) tail() string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// freePort returns a loopback port that nobody listens on at this moment.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// answers reports whether somebody listens.
func answers(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// apart runs a process as owner, and out of reach of the terminal's Ctrl-C: it is
// stopped here, when what uses it has ended.
func apart(owner *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: owner, Setpgid: true}
}

// servant is the user that servers run as which refuse root, or nil: as we are.
func servant() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
	}
	return nil, errors.New("as root a user named postgres or nobody is needed to run PostgreSQL and RabbitMQ")
}

// place makes a directory for a server that runs as owner.
func place(parent, name string, owner *syscall.Credential) (string, error) {
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if owner == nil {
		return dir, nil
	}
	return dir, os.Chown(dir, int(owner.Uid), int(owner.Gid))
}
