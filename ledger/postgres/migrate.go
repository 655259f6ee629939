package postgres

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/errandhq/errand/job"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one numbered step of the schema, forward only.
type migration struct {
	number int
	name   string // the file's, without its ending
	text   string
	sum    string // SHA-256 of text, hexadecimal
}

// migrations returns the embedded steps in order. The numbers run from 1
// without gaps, which a test holds.
func migrations() []migration {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	all := make([]migration, 0, len(names))
	for _, file := range names {
		text, err := migrationFiles.ReadFile(file)
		if err != nil {
			panic(err) // it was listed a moment ago
		}
		name := strings.TrimSuffix(path.Base(file), ".sql")
		number, err := strconv.Atoi(strings.SplitN(name, "_", 2)[0])
		if err != nil {
			panic(fmt.Sprintf("migration %s has no number", file))
		}
		sum := sha256.Sum256(text)
		all = append(all, migration{number: number, name: name, text: string(text), sum: hex.EncodeToString(sum[:])})
	}
	return all
}

// Applied says where one migration stands in a database.
type Applied struct {
	Name      string
	AppliedAt time.Time // zero: pending
}

// ensureHistory makes the schema and the table of applied migrations. Its statements
// run under the migration lock.
const ensureHistory = `CREATE SCHEMA IF NOT EXISTS errand;
	CREATE TABLE IF NOT EXISTS errand.migration (
		number     integer     PRIMARY KEY,
		name       text        NOT NULL,
		checksum   text        NOT NULL,
		applied_at timestamptz NOT NULL DEFAULT now())`

// Migrate brings the database at dsn up to date, all pending migrations in one
// transaction, and returns the names of those it applied. Of several callers at
// once one applies them and the others wait.
func Migrate(ctx context.Context, dsn string) ([]string, error) {
	var names []string
	err := withPool(ctx, dsn, func(pool *pgxpool.Pool) (err error) {
		names, err = migrate(ctx, pool)
		return err
	})
	return names, err
}

// Status lists the migrations of this binary and when the database at dsn
// applied them. It changes nothing. A database that is not this binary's to
// open is an error, as it is for Open.
func Status(ctx context.Context, dsn string) ([]Applied, error) {
	var all []Applied
	err := withPool(ctx, dsn, func(pool *pgxpool.Pool) error {
		done, err := history(ctx, pool)
		if err != nil {
			return err
		}
		if _, err := compare(done); err != nil {
			return err
		}
		for _, m := range migrations() {
			all = append(all, Applied{Name: m.name, AppliedAt: done[m.number].at})
		}
		return nil
	})
	return all, err
}

// Print returns the SQL of all migrations, for people who apply it by hand. It
// records itself, so that Open finds the schema up to date.
func Print() string {
	var b strings.Builder
	b.WriteString("BEGIN;\n" + ensureHistory + ";\n")
	for _, m := range migrations() {
		fmt.Fprintf(&b, "\n-- %s\n%s\nINSERT INTO errand.migration (number, name, checksum) VALUES (%d, '%s', '%s');\n",
			m.name, m.text, m.number, m.name, m.sum)
	}
	b.WriteString("COMMIT;\n")
	return b.String()
}

// withPool runs fn on a pool of its own, as migrations come before a ledger.
func withPool(ctx context.Context, dsn string, fn func(*pgxpool.Pool) error) error {
	cfg, _, err := poolConfig(dsn, Options{MaxConns: 2})
	if err != nil {
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return wrap("migrate", err)
	}
	defer pool.Close()
	return fn(pool)
}

// prepareSchema is what Open does about migrations.
func prepareSchema(ctx context.Context, pool *pgxpool.Pool, mode MigrateMode, log *slog.Logger) error {
	done, err := history(ctx, pool)
	if err != nil {
		return err
	}
	pending, err := compare(done)
	if err != nil || len(pending) == 0 {
		return err
	}
	if mode == MigrateCheck {
		return job.Errorf(job.FailedPrecondition, job.ReasonSchemaTooOld,
			"%d migrations are pending, the first is %s: run \"errand migrate up\"", len(pending), pending[0].name)
	}
	names, err := migrate(ctx, pool)
	if len(names) > 0 {
		log.Info("migrated the ledger", "applied", names)
	}
	return err
}

// migrate applies what is pending. The lock belongs to the transaction, so it
// holds behind a pooler too.
func migrate(ctx context.Context, pool *pgxpool.Pool) (names []string, err error) {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return nil, wrap("migrate", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // after a commit it does nothing
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1, $2)", lockClass, lockMigrate); err != nil {
		return nil, wrap("migrate: wait for the lock", err)
	}
	done, err := readHistory(ctx, tx)
	if err != nil {
		return nil, err
	}
	pending, err := compare(done)
	if err != nil || len(pending) == 0 {
		return nil, err
	}
	if _, err := tx.Exec(ctx, ensureHistory, pgx.QueryExecModeSimpleProtocol); err != nil {
		return nil, wrap("migrate: make the schema", err)
	}
	for _, m := range pending {
		if _, err := tx.Exec(ctx, m.text, pgx.QueryExecModeSimpleProtocol); err != nil {
			return nil, wrap("migrate: "+m.name, err)
		}
		if _, err := tx.Exec(ctx, "INSERT INTO errand.migration (number, name, checksum) VALUES ($1, $2, $3)",
			m.number, m.name, m.sum); err != nil {
			return nil, wrap("migrate: "+m.name, err)
		}
		names = append(names, m.name)
	}
	if err := tx.Commit(ctx); err != nil {
		return nil, wrapCommit("migrate", err)
	}
	return names, nil
}

// record is a row of errand.migration.
type record struct {
	name, sum string
	at        time.Time
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func history(ctx context.Context, pool *pgxpool.Pool) (map[int]record, error) {
	return readHistory(ctx, pool)
}

func readHistory(ctx context.Context, q querier) (map[int]record, error) {
	done := map[int]record{}
	var exists bool
	if err := q.QueryRow(ctx, "SELECT to_regclass('errand.migration') IS NOT NULL").Scan(&exists); err != nil || !exists {
		return done, wrap("read the schema's version", err)
	}
	rows, err := q.Query(ctx, "SELECT number, name, checksum, applied_at FROM errand.migration")
	if err != nil {
		return nil, wrap("read the schema's version", err)
	}
	var number int
	var r record
	_, err = pgx.ForEachRow(rows, []any{&number, &r.name, &r.sum, &r.at}, func() error {
		done[number] = r
		return nil
	})
	return done, wrap("read the schema's version", err)
}

// compare returns the pending migrations, or why this binary must not touch
// the database: it was migrated by a newer one, or by another text.
func compare(done map[int]record) (pending []migration, err error) {
	known := map[int]bool{}
	for _, m := range migrations() {
		known[m.number] = true
		r, ok := done[m.number]
		switch {
		case !ok:
			pending = append(pending, m)
		case r.sum != m.sum:
			return nil, job.Errorf(job.FailedPrecondition, job.ReasonSchemaTooNew,
				"migration %s was applied from another text than this binary's: use the binary that applied it", m.name)
		}
	}
	for number, r := range done {
		if !known[number] {
			return nil, job.Errorf(job.FailedPrecondition, job.ReasonSchemaTooNew,
				"the database was migrated by a newer Errand (it has %s): use that version", r.name)
		}
	}
	return pending, nil
}

// fenceStep is how much Fence adds to a token: more than any job was leased
// after the point to which the database was put back.
const fenceStep = 1_000_000

// Fence raises the tokens of all live and dead jobs, after the database was
// put back to an earlier point: what workers hold from before is then stale.
// It returns how many jobs it raised. Run it before any server starts again.
func (l *Ledger) Fence(ctx context.Context) (int64, error) {
	var n int64
	err := l.inTx(ctx, "fence", func(t *tx) error {
		n = 0
		for _, table := range []string{liveTable, "dead"} {
			if err := t.run(ctx); err != nil {
				return err
			}
			tag, err := t.conn.Exec(ctx, fmt.Sprintf(
				"UPDATE errand.%s SET token = token + %d, version = version + %[2]d", table, fenceStep))
			if err != nil {
				return err
			}
			n += tag.RowsAffected()
		}
		return t.commit(ctx)
	})
	return n, err
}
