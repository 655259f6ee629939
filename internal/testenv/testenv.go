// Package testenv gives tests the real parts they need: a fresh database on
// the run's PostgreSQL server, a PostgreSQL server of their own that they may
// kill, a small file system that fills up. What cannot be had fails the test
// and says what to do; nothing is skipped in silence.
package testenv

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Env names the environment variable that holds the address of the run's
// PostgreSQL server: a connection string of a role that may create databases.
// `make test` sets it.
const Env = "ERRAND_TEST_POSTGRES"

const hint = `this test needs a PostgreSQL server. Run "make test" (or scripts/test-services COMMAND), which ` +
	`starts one, or set ` + Env + ` to the address of a server on which databases may be made and dropped`

// patience bounds every wait of this package for a database.
const patience = 60 * time.Second

// Postgres makes a fresh, empty database on the run's server and returns its
// connection string. The database is dropped, with whoever is still connected,
// when the test ends. Without Env the test fails and says what to run.
func Postgres(t testing.TB) string {
	t.Helper()
	admin := os.Getenv(Env)
	if admin == "" {
		t.Fatal(hint)
	}
	return freshDatabase(t, admin)
}

func freshDatabase(t testing.TB, admin string) string {
	t.Helper()
	name := "errand_test_" + randomHex(t)
	execAdmin(t, admin, "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING 'UTF8'")
	t.Cleanup(func() { execAdmin(t, admin, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)") })
	dsn, err := withDatabase(admin, name)
	if err != nil {
		t.Fatalf("%s: %v", Env, err)
	}
	return dsn
}

// execAdmin runs one statement on a connection of its own, so that no pool
// outlives the test.
func execAdmin(t testing.TB, dsn, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Errorf("connect to the test server: %v; %s", err, hint)
		t.FailNow()
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// withDatabase returns dsn with its database replaced, in either of the two
// forms of a connection string.
func withDatabase(dsn, name string) (string, error) {
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return dsn + " dbname=" + name, nil
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", fmt.Errorf("not a connection string: %w", err)
	}
	u.Path = "/" + name
	return u.String(), nil
}

func randomHex(t testing.TB) string {
	t.Helper()
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b[:])
}
