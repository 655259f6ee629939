package services

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// Postgres starts PostgreSQL at its default durability: fsync, full_page_writes
// and synchronous_commit are on. Only its memory is more than the default.
func Postgres(ctx context.Context, parent string) (*Server, error) {
	owner, err := servant()
	if err != nil {
		return nil, err
	}
	dir, err := place(parent, "postgres", owner)
	if err != nil {
		return nil, err
	}
	bin, err := postgresPrograms()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions")
	initdb.Dir, initdb.SysProcAttr = dir, apart(owner)
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-p", strconv.Itoa(port), "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories="+dir, "-c", "max_connections=200", "-c", "shared_buffers=1GB")
	cmd.SysProcAttr = apart(owner)
	address := fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port)
	version := ""
	s, err := launch(ctx, "postgres", dir, cmd, func(ctx context.Context) error {
		return query(ctx, address, "SHOW server_version", &version)
	})
	if err != nil {
		return nil, err
	}
	s.Address, s.Version, s.quit = address, "PostgreSQL "+version, syscall.SIGINT // which does not wait for clients
	return s, nil
}

// postgresPrograms finds the directory of initdb, on PATH or where Debian keeps it.
func postgresPrograms() (string, error) {
	if p, err := exec.LookPath("initdb"); err == nil {
		if p, err = filepath.EvalSymlinks(p); err == nil {
			return filepath.Dir(p), nil
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", fmt.Errorf("PostgreSQL is not installed (Debian: postgresql): %w", os.ErrNotExist)
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1]), nil
}

// Database makes an empty database on the server, with nothing of the last one
// left to be written out, and returns its address.
func Database(ctx context.Context, s *Server, name string) (address string, drop func() error, err error) {
	conn, err := pgx.Connect(ctx, s.Address)
	if err != nil {
		return "", nil, err
	}
	defer conn.Close(ctx)
	for _, sql := range []string{"CREATE DATABASE " + name, "CHECKPOINT"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return "", nil, fmt.Errorf("%s: %w", sql, err)
		}
	}
	conf := conn.Config()
	address = fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", conf.Port, name)
	return address, func() error {
		ctx := context.WithoutCancel(ctx)
		return execute(ctx, s.Address, "DROP DATABASE "+name+" WITH (FORCE)")
	}, nil
}

func execute(ctx context.Context, address, sql string) error {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

func query(ctx context.Context, address, sql string, to any) error {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.QueryRow(ctx, sql).Scan(to)
}
