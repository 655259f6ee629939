package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// MigrateMode says what Open does about pending migrations.
type MigrateMode string

// The modes of Options.Migrate.
const (
	MigrateAuto  MigrateMode = "auto"  // apply them: the default
	MigrateCheck MigrateMode = "check" // refuse with ReasonSchemaTooOld
)

// Options sets a ledger. The zero value is useful.
type Options struct {
	// MaxConns bounds the connections of this process; 16 by default.
	MaxConns int
	// Migrate is MigrateAuto by default.
	Migrate MigrateMode
	// Pooler says that the address is that of a pooler in transaction mode, such as
	// PgBouncer: no statement is prepared by name and nothing is kept in a
	// session. The parameter pgbouncer=true of the address says the same.
	Pooler bool
	// ListenDSN is a direct address of the server, for LISTEN. It is needed only
	// behind a pooler, where without it Listen just waits, and work of
	// other processes is found by polling.
	ListenDSN string
	// Logger gets what is worth knowing; it discards by default.
	Logger *slog.Logger
}

// Ledger implements ledger.Ledger. Open makes one.
type Ledger struct {
	pool      *pgxpool.Pool
	db        *sql.DB // over the same pool, for the cold statements
	cold      coldsql.Store
	listenDSN string // empty: no line
	pooler    bool
	log       *slog.Logger
	marks     *marks
	leases    *leases
	few       int           // fewClaimed; a test has fewer
	claiming  chan struct{} // holds the one claim that is looking for rows
	slices    sliceSet
	backends  *backends

	rescans sync.WaitGroup
	closed  sync.Once
}

var _ ledger.Ledger = (*Ledger)(nil)

// Open connects to the database at dsn, a URL or a key-value string as libpq
// takes it, and brings its schema up to date as opts.Migrate says.
//
// Errors: Unavailable if the server cannot be reached, FailedPrecondition with
// ReasonSchemaTooNew or ReasonSchemaTooOld if the schema does not fit,
// InvalidArgument for an address that cannot be read.
func Open(ctx context.Context, dsn string, opts Options) (*Ledger, error) {
	cfg, pooler, err := poolConfig(dsn, opts)
	if err != nil {
		return nil, err
	}
	own := &backends{pids: map[uint32]struct{}{}}
	if !pooler {
		own.watch(cfg)
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, wrap("open", err)
	}
	l := &Ledger{pool: pool, db: stdlib.OpenDBFromPool(pool), pooler: pooler, log: opts.Logger, marks: newMarks(), leases: newLeases(), few: fewClaimed, claiming: make(chan struct{}, 1), backends: own}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.cold = newCold(l.db)
	if l.listenDSN = opts.ListenDSN; l.listenDSN == "" && !pooler {
		l.listenDSN = stripPoolerParam(dsn)
	}
	if err := l.prepare(ctx, opts.Migrate); err != nil {
		_ = l.Close() // the first error is the one to tell
		return nil, err
	}
	return l, nil
}

// prepare brings the schema up to date and makes the archive's first slices.
func (l *Ledger) prepare(ctx context.Context, mode MigrateMode) error {
	if err := l.checkDurability(ctx); err != nil {
		return err
	}
	if err := prepareSchema(ctx, l.pool, mode, l.log); err != nil {
		return err
	}
	now, err := l.Now(ctx)
	if err != nil {
		return err
	}
	_, err = l.makeSlices(ctx, now)
	return err
}

// poolConfig reads the address and settles how statements are sent.
func poolConfig(dsn string, opts Options) (*pgxpool.Config, bool, error) {
	plain := stripPoolerParam(dsn)
	pooler := opts.Pooler || plain != dsn
	cfg, err := pgxpool.ParseConfig(plain)
	if err != nil {
		return nil, false, job.Errorf(job.InvalidArgument, job.ReasonBadField, "the ledger's address cannot be read: %v", err)
	}
	cfg.MaxConns = 16
	if opts.MaxConns > 0 {
		cfg.MaxConns = int32(min(opts.MaxConns, 1000))
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	cfg.ConnConfig.RuntimeParams["application_name"] = "errand"
	if pooler {
		// Unnamed statements only, each with the description that this process keeps.
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		delete(cfg.ConnConfig.RuntimeParams, "application_name")
		return cfg, true, nil
	}
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		// The isolation is for transactions that the server begins by itself: see begin. The memory is for the cold
		// statements: see settings.
		_, err := conn.Exec(ctx, durable(false)+`, set_config('default_transaction_isolation', 'read committed', false),
			set_config('work_mem', '64MB', false), `+answerTimeout(false), pgx.QueryExecModeSimpleProtocol)
		return err
	}
	return cfg, false, nil
}

// durable is the expression list that turns synchronous_commit on where it is
// off, and leaves the stronger settings: for the transaction, or the connection.
func durable(local bool) string {
	return fmt.Sprintf(`SELECT set_config('synchronous_commit',
		CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, %t)`, local)
}

// answerTimeout bounds how long the server waits for a process that has stopped while it is to read an answer: until it
// has, its transaction keeps its locks, and no other timeout ends it. Over a Unix socket it has no effect.
func answerTimeout(local bool) string {
	return fmt.Sprintf("set_config('tcp_user_timeout', '10s', %t)", local)
}

// checkDurability refuses connections that would answer before a commit is on
// disk. Behind a pooler every transaction sets it again; the check is for the
// server settings that no client can change.
func (l *Ledger) checkDurability(ctx context.Context) error {
	var fsync string
	if err := l.pool.QueryRow(ctx, "SELECT current_setting('fsync')").Scan(&fsync); err != nil {
		return wrap("open", err)
	}
	if fsync == "off" {
		l.log.Warn("the server runs with fsync=off: a crash of its machine loses accepted jobs")
	}
	return nil
}

// stripPoolerParam takes the parameter pgbouncer out of an address: drivers of
// other languages know it, pgx would send it to the server.
func stripPoolerParam(dsn string) string {
	if u, err := url.Parse(dsn); err == nil && u.Scheme != "" {
		q := u.Query()
		if q.Get("pgbouncer") != "true" {
			return dsn
		}
		q.Del("pgbouncer")
		u.RawQuery = q.Encode()
		return u.String()
	}
	kept := []string{}
	for _, word := range strings.Fields(dsn) {
		if word != "pgbouncer=true" {
			kept = append(kept, word)
		}
	}
	if len(kept) == len(strings.Fields(dsn)) {
		return dsn
	}
	return strings.Join(kept, " ")
}

// Now implements ledger.Ledger: the server's wall clock.
func (l *Ledger) Now(ctx context.Context) (time.Time, error) {
	var us int64
	err := l.pool.QueryRow(ctx, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").Scan(&us)
	if err != nil {
		return time.Time{}, wrap("read the clock", err)
	}
	return coldsql.Time(us), nil
}

// Close implements ledger.Ledger. It waits for the calls under way.
func (l *Ledger) Close() error {
	var err error
	l.closed.Do(func() {
		err = l.db.Close()
		l.pool.Close()
		l.rescans.Wait()
	})
	if err != nil && !errors.Is(err, sql.ErrConnDone) {
		return fmt.Errorf("close the ledger: %w", err)
	}
	return nil
}
