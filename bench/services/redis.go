package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience is how long a server may take to come up.
const patience = time.Minute

// Redis starts Redis with an append-only file that is synced every second.
func Redis(ctx context.Context, parent string) (*Server, error) {
	version, err := exec.CommandContext(ctx, "redis-server", "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("redis-server (Debian: redis-server): %w", err)
	}
	dir, err := os.MkdirTemp(parent, "redis-")
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(address, ":")
	cmd := exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", dir,
		"--save", "", "--appendonly", "yes", "--appendfsync", "everysec")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it is stopped here, not by the terminal
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &Server{Address: address, Version: "Redis " + wordAfter(string(version), "v="), Stop: func() error {
		return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
	}}
	return s, stopUnless(s, answers(ctx, address))
}

// freeAddress is on loopback, and nobody listens there at this moment.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return "127.0.0.1:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port), l.Close()
}

// answers waits until somebody listens.
func answers(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(20 * time.Millisecond): // the pace of looking
		case <-ctx.Done():
			return fmt.Errorf("nobody listens on %s: %w", address, err)
		}
	}
}

// Flush removes everything from a Redis server.
func Flush(ctx context.Context, s *Server) error {
	_, port, _ := strings.Cut(s.Address, ":")
	out, err := exec.CommandContext(ctx, "redis-cli", "-p", port, "FLUSHALL").CombinedOutput()
	if err == nil && strings.TrimSpace(string(out)) != "OK" {
		err = fmt.Errorf("it answers %q", out)
	}
	if err != nil {
		return fmt.Errorf("FLUSHALL: %w", err)
	}
	return nil
}

// wordAfter is the word that follows mark.
func wordAfter(text, mark string) string {
	_, rest, _ := strings.Cut(text, mark)
	word, _, _ := strings.Cut(rest, " ")
	return word
}
