package testenv

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func query[T any](t *testing.T, dsn, sql string) (out T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, sql).Scan(&out); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}

func TestPostgresGivesAFreshDatabaseAndDropsIt(t *testing.T) {
	var name string
	t.Run("use", func(t *testing.T) {
		dsn := Postgres(t)
		name = query[string](t, dsn, "SELECT current_database()")
		if !strings.HasPrefix(name, "errand_test_") {
			t.Errorf("database %q", name)
		}
		if other := query[string](t, Postgres(t), "SELECT current_database()"); other == name {
			t.Errorf("two calls gave the same database %s", name)
		}
	})
	left := query[int](t, os.Getenv(Env), "SELECT count(*) FROM pg_database WHERE datname = '"+name+"'")
	if left != 0 {
		t.Errorf("%s was not dropped", name)
	}
}

func TestWithDatabaseReplacesTheDatabaseInBothForms(t *testing.T) {
	for in, want := range map[string]string{
		"postgres://u@h:1/old?sslmode=disable": "postgres://u@h:1/new?sslmode=disable",
		"host=h dbname=old":                    "host=h dbname=old dbname=new",
	} {
		if got, err := withDatabase(in, "new"); err != nil || got != want {
			t.Errorf("withDatabase(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

// A server of the test's own outlives kill -9 with what it had committed, its
// clock can be moved, and a synchronous standby takes over with everything.
func TestServerCrashClockAndFailOver(t *testing.T) {
	s := StartPostgres(t, Options{FakeClock: true})
	s.Exec("postgres", "CREATE TABLE kept (n int)")
	s.Exec("postgres", "INSERT INTO kept VALUES (1)")
	s.Kill()
	s.Start()
	s.SetClock(2 * time.Hour)
	now := query[time.Time](t, s.DSN("postgres"), "SELECT clock_timestamp()")
	if ahead := time.Until(now); ahead < 119*time.Minute || ahead > 121*time.Minute {
		t.Errorf("the server's clock is %s ahead, want 2h", ahead)
	}
	s.SetClock(0)

	b := s.Standby()
	s.Exec("postgres", "INSERT INTO kept VALUES (2)")
	s.Kill()
	b.Promote()
	b.Exec("postgres", "INSERT INTO kept VALUES (3)")
	if n := query[int](t, b.DSN("postgres"), "SELECT count(*) FROM kept"); n != 3 {
		t.Errorf("after the fail-over %d rows, want 3", n)
	}
	b.Signal(syscall.SIGSTOP)
	b.Signal(syscall.SIGCONT)
	if n := query[int](t, b.DSN("postgres"), "SELECT count(*) FROM kept"); n != 3 {
		t.Errorf("after a freeze %d rows, want 3", n)
	}
}

func TestTmpfsFillsUp(t *testing.T) {
	dir := Tmpfs(t, 1<<20)
	err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 2<<20), 0o644)
	if err == nil {
		t.Error("2 MiB fit into a file system of 1 MiB")
	}
}

// processesWith returns the processes whose command line contains text.
func processesWith(t *testing.T, text string) (out []string) {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), text) {
			out = append(out, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}
