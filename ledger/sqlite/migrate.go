package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql/driver"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/coldsql"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one numbered step of the schema. Steps only go forward, and one
// that was released never changes: its checksum is kept in the database.
type migration struct {
	version  int64
	name     string
	text     string
	checksum string
}

// MigrationStatus tells what has become of one migration.
type MigrationStatus struct {
	Version   int
	Name      string
	Checksum  string    // SHA-256 of its text, in hexadecimal
	AppliedAt time.Time // zero: pending
}

const migrationTable = `CREATE TABLE IF NOT EXISTS schema_migration (
	version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT`

func migrations() []migration {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		panic(err) // the pattern is constant
	}
	list := make([]migration, 0, len(names)) // in order: Glob sorts
	for i, name := range names {
		text, err := migrationFiles.ReadFile(name)
		if err != nil {
			panic(err) // embedded
		}
		base := strings.TrimSuffix(strings.TrimPrefix(name, "migrations/"), ".sql")
		if !strings.HasPrefix(base, fmt.Sprintf("%04d_", i+1)) {
			panic("sqlite: migration " + base + " is out of order")
		}
		sum := sha256.Sum256(text)
		list = append(list, migration{version: int64(i + 1), name: base, text: string(text), checksum: hex.EncodeToString(sum[:])})
	}
	return list
}

// Print returns the text of all migrations, for a person who reviews them.
func Print() string {
	var b strings.Builder
	for _, m := range migrations() {
		fmt.Fprintf(&b, "-- migration %s\n%s\n", m.name, m.text)
	}
	return b.String()
}

// Migrate brings the database at path up to date, making it if it is not there,
// and returns the names of the migrations it applied. It needs the file for
// itself: see Open.
func Migrate(ctx context.Context, path string) (applied []string, err error) {
	err = withFile(ctx, path, func(c *conn) error {
		applied, err = migrate(c, time.Now())
		return err
	})
	return applied, err
}

// Status returns every migration that the binary knows, and when it was
// applied. A database that does not exist is not made: all are pending. One
// that is not this binary's to open is an error, as it is for Open.
func Status(ctx context.Context, path string) ([]MigrationStatus, error) {
	var list []MigrationStatus
	for _, m := range migrations() {
		list = append(list, MigrationStatus{Version: int(m.version), Name: m.name, Checksum: m.checksum})
	}
	if _, err := os.Stat(path); path != "" && errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	path, err := checkPath(path)
	if err != nil {
		return nil, err
	}
	raw, err := connect(ctx, path, "mode=ro")
	if err != nil {
		return nil, wrapError("open "+path, err)
	}
	c := newConn(raw)
	defer func() { _ = c.close() }() // nothing was written
	done, err := appliedMigrations(c)
	if err != nil {
		return nil, wrapError("read migrations", err)
	}
	if _, err := pending(done); err != nil {
		return nil, err
	}
	for i := range list {
		list[i].AppliedAt = done[int64(list[i].Version)].at
	}
	return list, nil
}

// withFile runs fn on the file at path under its lock.
func withFile(ctx context.Context, path string, fn func(*conn) error) (err error) {
	path, err = checkPath(path)
	if err != nil {
		return err
	}
	lock, err := takeLock(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	raw, err := connect(ctx, path, "")
	if err != nil {
		return wrapError("open "+path, err)
	}
	c := newConn(raw)
	return errors.Join(fn(c), c.close())
}

type appliedMigration struct {
	checksum string
	name     string
	at       time.Time
}

// appliedMigrations reads what the database says of itself.
func appliedMigrations(c *conn) (map[int64]appliedMigration, error) {
	var ours, tables int64
	if _, err := c.get(`SELECT count(*) FILTER (WHERE name = 'schema_migration'), count(*) FROM sqlite_schema`, nil, &ours, &tables); err != nil {
		return nil, err
	}
	if ours == 0 {
		if tables > 0 {
			return nil, job.Errorf(job.FailedPrecondition, job.ReasonLedgerDown,
				"the database holds tables of another program and is no ledger: choose another file")
		}
		return nil, nil
	}
	done := make(map[int64]appliedMigration)
	err := c.query("SELECT version, name, checksum, applied_at FROM schema_migration", nil, func(row []driver.Value) error {
		var version, at int64
		var m appliedMigration
		err := assign(row, []any{&version, &m.name, &m.checksum, &at})
		m.at = coldsql.Time(at)
		done[version] = m
		return err
	})
	return done, err
}

// pending checks what was applied against what the binary knows, and returns
// what is missing.
func pending(done map[int64]appliedMigration) ([]migration, error) {
	known := migrations()
	for version, m := range done {
		if version > int64(len(known)) {
			return nil, job.Errorf(job.FailedPrecondition, job.ReasonSchemaTooNew,
				"the database was migrated by a newer Errand (%s); this one knows %d migrations: upgrade it", m.name, len(known))
		}
	}
	var missing []migration
	for _, m := range known {
		was, ok := done[m.version]
		if !ok {
			missing = append(missing, m)
		} else if was.checksum != m.checksum {
			return nil, job.Errorf(job.FailedPrecondition, job.ReasonLedgerDown,
				"migration %s was applied with another text (checksum %.12s, here %.12s): the database is of another build", m.name, was.checksum, m.checksum)
		}
	}
	return missing, nil
}

// migrate applies what is pending, each step in a transaction of its own with
// the record of it.
func migrate(c *conn, now time.Time) ([]string, error) {
	done, err := appliedMigrations(c)
	if err != nil {
		return nil, wrapError("read migrations", err)
	}
	missing, err := pending(done)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range missing {
		if err := c.transaction(func() error {
			if _, err := c.exec(migrationTable); err != nil {
				return err
			}
			if err := c.once(m.text); err != nil {
				return err
			}
			_, err := c.exec("INSERT INTO schema_migration (version, name, checksum, applied_at) VALUES (?, ?, ?, ?)",
				m.version, m.name, m.checksum, coldsql.Micros(now))
			return err
		}); err != nil {
			return names, wrapError("migration "+m.name, err)
		}
		names = append(names, m.name)
	}
	return names, c.forget()
}

// transaction runs fn in a transaction.
func (c *conn) transaction(fn func() error) error {
	if _, err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := fn()
	if err == nil {
		_, err = c.exec("COMMIT")
	}
	if err != nil {
		_, _ = c.exec("ROLLBACK") // fails only where SQLite has rolled back already
	}
	return err
}
