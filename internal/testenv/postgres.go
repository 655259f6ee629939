package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Options sets a server made by StartPostgres. The zero value is a server
// with default durability on a free loopback port.
type Options struct {
	// Dir is where the data directory is made; a temporary directory if empty.
	Dir string
	// Settings are lines for postgresql.conf, such as "wal_level": "replica".
	Settings map[string]string
	// FakeClock runs the server under libfaketime, so that SetClock can shift
	// its wall clock while it runs.
	FakeClock bool
}

// Server is a PostgreSQL server that belongs to one test, which may crash,
// freeze, restart and promote it. It is stopped, and its data removed, when
// the test ends. Its methods are for one goroutine at a time.
type Server struct {
	t     testing.TB
	opts  Options
	base  string // holds data, log and clock
	port  int
	owner *syscall.Credential
	proc  *process
}

// StartPostgres makes a server with initdb and starts it. It fails the test
// if PostgreSQL is not installed.
func StartPostgres(t testing.TB, opts Options) *Server {
	t.Helper()
	s := newServer(t, opts)
	s.run("initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	s.configure(opts.Settings)
	s.Start()
	return s
}

func newServer(t testing.TB, opts Options) *Server {
	t.Helper()
	owner := unprivileged(t)
	s := &Server{t: t, opts: opts, base: home(t, opts.Dir, "errand-pg-", owner), port: FreePort(t), owner: owner}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("the end of PostgreSQL's log:\n%s", tail(s.logFile()))
		}
	})
	s.writeClock(0)
	return s
}

func (s *Server) data() string    { return filepath.Join(s.base, "data") }
func (s *Server) logFile() string { return filepath.Join(s.base, "log") }
func (s *Server) clock() string   { return filepath.Join(s.base, "clock") }

// configure appends to the configuration; later lines win.
func (s *Server) configure(settings map[string]string) {
	s.t.Helper()
	lines := []string{
		"listen_addresses = '127.0.0.1'",
		fmt.Sprintf("port = %d", s.port),
		fmt.Sprintf("unix_socket_directories = '%s'", s.base),
		"max_connections = 200",
		"logging_collector = off",
	}
	for k, v := range settings {
		lines = append(lines, fmt.Sprintf("%s = '%s'", k, strings.ReplaceAll(v, "'", "''")))
	}
	f, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = f.WriteString("\n" + strings.Join(lines, "\n") + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		s.t.Fatal(err)
	}
}

// Start starts the server and waits until it takes connections (a standby:
// read-only ones). After a crash the memory of the dead server may be held for
// a moment by its last children, so a start that ends early is tried again.
func (s *Server) Start() {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := s.tryStart(deadline)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("start PostgreSQL: %v\n%s", err, tail(s.logFile()))
		}
		pause()
	}
}

func (s *Server) tryStart(deadline time.Time) error {
	p, err := launch(s.command("postgres", "-D", s.data()), s.logFile())
	if err != nil {
		return err
	}
	s.proc = p
	return p.await(s.ping, deadline)
}

func (s *Server) ping() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.Ping(ctx)
}

// Kill ends the server as kill -9 would and waits until the process is gone.
// It does nothing to a server that is not running.
func (s *Server) Kill() {
	s.proc.kill()
	s.proc = nil
}

// Signal sends a signal to the server's main process and all its children.
func (s *Server) Signal(sig syscall.Signal) { s.proc.signal(sig) }

// DSN returns the connection string of a database on this server.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
}

// Address returns host:port.
func (s *Server) Address() string { return local(s.port) }

// Exec runs one statement as the superuser in the database named.
func (s *Server) Exec(database, sql string) {
	s.t.Helper()
	execAdmin(s.t, s.DSN(database), sql)
}

// SetClock shifts the server's wall clock by offset from the true one, at
// once. The server must have been started with Options.FakeClock.
func (s *Server) SetClock(offset time.Duration) {
	s.t.Helper()
	if !s.opts.FakeClock {
		s.t.Fatal("testenv: SetClock on a server without FakeClock")
	}
	s.writeClock(offset)
}

func (s *Server) writeClock(offset time.Duration) {
	s.t.Helper()
	line := fmt.Sprintf("%+.3f\n", offset.Seconds())
	if err := os.WriteFile(s.clock(), []byte(line), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// Standby makes a copy of s that follows it by streaming, and makes s wait for
// it at every commit: what s acknowledged, the standby has.
func (s *Server) Standby() *Server {
	s.t.Helper()
	b := newServer(s.t, s.opts)
	b.run("pg_basebackup", "-d", s.DSN("postgres")+"&application_name=standby", "-D", b.data(),
		"-X", "stream", "-C", "-S", "standby", "-R", "-c", "fast", "--no-sync")
	b.configure(nil)
	b.Start()
	s.Exec("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
	s.Exec("postgres", "SELECT pg_reload_conf()")
	s.awaitSync()
	return b
}

func (s *Server) awaitSync() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(ctx)
	for {
		var n int
		err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").Scan(&n)
		if err != nil {
			s.t.Fatalf("wait for the standby: %v", err)
		}
		if n > 0 {
			return
		}
		pause()
	}
}

// Promote makes a standby the primary and waits until it takes writes. The
// promoted server waits for no standby of its own.
func (s *Server) Promote() {
	s.t.Helper()
	s.run("pg_ctl", "promote", "-D", s.data(), "-w", "-t", "60")
	s.Exec("postgres", "ALTER SYSTEM RESET synchronous_standby_names")
	s.Exec("postgres", "SELECT pg_reload_conf()")
}

// run runs a program of PostgreSQL to its end, or fails the test.
func (s *Server) run(name string, args ...string) {
	s.t.Helper()
	var out bytes.Buffer
	cmd := s.command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("%s: %v\n%s", name, err, out.String())
	}
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command(program(s.t, name), args...)
	cmd.Dir = s.base
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PGDATA=", "PGUSER=", "PGDATABASE=")
	cmd.SysProcAttr = attributes(s.owner, syscall.SIGQUIT)
	if s.opts.FakeClock && name == "postgres" {
		cmd.Env = append(cmd.Env, "LD_PRELOAD="+fakeTimeLibrary(s.t), "FAKETIME_TIMESTAMP_FILE="+s.clock(),
			"FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1")
	}
	return cmd
}

// program finds a program of PostgreSQL, on PATH or where Debian keeps it.
func program(t testing.TB, name string) string {
	t.Helper()
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		t.Fatalf("%s is not installed (Debian: postgresql). %s", name, hint)
	}
	slices.Sort(found)
	return found[len(found)-1]
}

func fakeTimeLibrary(t testing.TB) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
	if len(found) == 0 {
		t.Fatal(`libfaketime is not installed (Debian: faketime). Run "make test", which installs it`)
	}
	return found[0]
}

// ServePostgres starts the server of a whole run. fsync is off for it alone:
// that only makes the tests faster. The tests that crash a database start
// servers of their own, with fsync on.
func ServePostgres(dir string) (*Service, error) {
	return Serve(Env, func(t testing.TB) string {
		s := StartPostgres(t, Options{Dir: dir, Settings: map[string]string{
			"fsync": "off", "full_page_writes": "off", "max_connections": "300", "shared_buffers": "256MB",
		}})
		return s.DSN("postgres")
	})
}
