package services

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// Redis starts Redis with an append-only file that is synced every second.
func Redis(ctx context.Context, parent string) (*Server, error) {
	dir, err := place(parent, "redis", nil)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	version, err := exec.CommandContext(ctx, "redis-server", "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("Redis is not installed (Debian: redis-server): %w", err)
	}
	cmd := exec.Command("redis-server", "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir,
		"--save", "", "--appendonly", "yes", "--appendfsync", "everysec")
	cmd.SysProcAttr = apart(nil)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	s, err := launch(ctx, "redis", dir, cmd, answers(address))
	if err != nil {
		return nil, err
	}
	s.Address, s.Version = address, "Redis "+versionAfter(string(version), "v=")
	return s, nil
}

// Flush removes everything from a Redis server.
func Flush(ctx context.Context, s *Server) error {
	_, port, _ := strings.Cut(s.Address, ":")
	out, err := exec.CommandContext(ctx, "redis-cli", "-p", port, "FLUSHALL").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "OK" {
		return fmt.Errorf("FLUSHALL: %s: %w", out, err)
	}
	return nil
}

// versionAfter is the word that follows mark.
func versionAfter(text, mark string) string {
	_, rest, _ := strings.Cut(text, mark)
	word, _, _ := strings.Cut(rest, " ")
	return word
}
