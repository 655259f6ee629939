// Package sqlite keeps the ledger in one SQLite file, owned by one process.
//
// All writes go through one goroutine (writer.go) that puts everything waiting
// into one transaction: what gathers during a commit is the next one. Because
// there is one writer, it keeps in memory what the other engine must read or
// lock: the counters, the next sequence number, the archive's slices, the leases (leased.go). Reads use
// a pool of their own, those of the relay a connection beside it, and see the last commit.
//
// There are no late commits, so what a claim has passed by never has to be looked for.
package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	modernc "modernc.org/sqlite"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// MigrateMode says what Open does when migrations are pending.
type MigrateMode string

// The modes of Options.Migrate.
const (
	MigrateAuto  MigrateMode = "auto"  // apply them: the default
	MigrateCheck MigrateMode = "check" // refuse with job.ReasonSchemaTooOld
)

// Options sets Open. The zero value is useful.
type Options struct {
	Migrate MigrateMode  // MigrateAuto by default
	Logger  *slog.Logger // discards by default
}

// readers is the size of the read pool.
const readers = 4

// queryOnly is the setting of connections that never write.
const queryOnly = "_pragma=query_only(1)"

// Ledger is a ledger.Ledger in one SQLite file.
type Ledger struct {
	path  string
	log   *slog.Logger
	lock  *fileLock
	pool  *sql.DB
	store *coldsql.Store
	w     *writer
	heads headReader
}

var _ ledger.Ledger = (*Ledger)(nil)

// Open opens the ledger at path, a file name, making the file if it is not
// there. It returns a *job.Error: with job.ReasonLedgerLocked if a process
// (this one included) has it open, with job.ReasonSchemaTooNew or
// job.ReasonSchemaTooOld if the schema does not fit, with job.ReasonLedgerDown
// if the file cannot be used.
func Open(ctx context.Context, path string, o Options) (_ *Ledger, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if path, err = checkPath(path); err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); o.Migrate == MigrateCheck && errors.Is(err, fs.ErrNotExist) {
		return nil, tooOld(path, len(migrations()))
	}
	l := &Ledger{path: path, log: o.Logger}
	if l.lock, err = takeLock(path); err != nil {
		return nil, err
	}
	if err = makePrivate(path); err == nil {
		err = l.open(ctx, o)
	}
	if err != nil {
		return nil, errors.Join(err, l.lock.release())
	}
	return l, nil
}

// makePrivate makes the file if it is not there, for its owner only: payloads
// are in it. SQLite gives its companions the same mode.
func makePrivate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fileError(path, err)
	}
	return f.Close()
}

func tooOld(path string, n int) error {
	return job.Errorf(job.FailedPrecondition, job.ReasonSchemaTooOld,
		"ledger %s: %d migrations are pending: run errand migrate up, or start with --migrate=auto", path, n)
}

func (l *Ledger) open(ctx context.Context, o Options) error {
	raw, err := connect(ctx, l.path, "")
	if err != nil {
		return wrapError("open "+l.path, err)
	}
	c := newConn(raw)
	if err := l.prepareFile(c, o); err != nil {
		return errors.Join(err, c.close())
	}
	if raw, err = connect(ctx, l.path, queryOnly); err != nil {
		return errors.Join(wrapError("open "+l.path, err), c.close())
	}
	l.heads.c = newConn(raw)
	l.pool = sql.OpenDB(connector{path: l.path, query: queryOnly})
	l.pool.SetMaxOpenConns(readers)
	l.pool.SetMaxIdleConns(readers)
	l.store = &coldsql.Store{DB: l.pool, Dialect: coldsql.Dialect{
		ID:            blobID,
		Live:          liveIn,
		HasTag:        "EXISTS (SELECT 1 FROM json_each(tags) WHERE value = %s)",
		NewestFailure: "json_extract(errors, '$[#-1]')",
		Wrap:          wrapError,
	}}
	if l.w, err = startWriter(c, o.Logger); err != nil {
		return errors.Join(wrapError("open "+l.path, err), c.close(), l.heads.close(), l.pool.Close())
	}
	return nil
}

// prepareFile migrates and makes sure that a commit means what it says.
func (l *Ledger) prepareFile(c *conn, o Options) error {
	done, err := appliedMigrations(c)
	if err != nil {
		return wrapError("open "+l.path, err)
	}
	missing, err := pending(done)
	if err != nil {
		return err
	}
	if len(missing) > 0 && o.Migrate == MigrateCheck {
		return tooOld(l.path, len(missing))
	}
	applied, err := migrate(c, time.Now())
	if err != nil {
		return err
	}
	for _, name := range applied {
		l.log.Info("migration applied", "ledger", l.path, "migration", name)
	}
	var mode string
	var synchronous, page, every int64
	if _, err := c.get("PRAGMA journal_mode = WAL", nil, &mode); err != nil {
		return wrapError("open "+l.path, err)
	}
	if _, err := c.get("PRAGMA synchronous", nil, &synchronous); err != nil {
		return wrapError("open "+l.path, err)
	}
	if _, err := c.get("PRAGMA page_size", nil, &page); err != nil {
		return wrapError("open "+l.path, err)
	}
	if _, err := c.get(fmt.Sprintf("PRAGMA wal_autocheckpoint = %d", checkpointBytes/page), nil, &every); err != nil {
		return wrapError("open "+l.path, err)
	}
	if mode != "wal" || synchronous < 2 {
		return job.Errorf(job.FailedPrecondition, job.ReasonLedgerDown,
			"ledger %s: SQLite offers journal mode %s, synchronous %d here: an accepted job would not be durable; use a local disk",
			l.path, mode, synchronous)
	}
	return nil
}

// checkPath refuses what is no plain file name, for its settings could put jobs
// at risk, and returns the absolute path without symbolic links, so that two
// names of one file are one ledger.
func checkPath(path string) (string, error) {
	if path == "" || strings.HasPrefix(path, ":memory:") || strings.HasPrefix(path, "file:") || strings.ContainsRune(path, 0) {
		return "", job.Errorf(job.InvalidArgument, job.ReasonBadField,
			"ledger path %q is not a file name: databases in memory and SQLite URIs are not durable ledgers", path)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fileError(path, err)
	}
	if info, err := os.Stat(abs); err == nil && info.IsDir() {
		return "", job.Errorf(job.InvalidArgument, job.ReasonBadField, "ledger path %s is a directory", abs)
	}
	if whole, err := filepath.EvalSymlinks(abs); err == nil {
		return whole, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", fileError(abs, err)
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}

// checkpointBytes is how long the log gets before the writer makes a checkpoint: rarer than by
// default (4 MiB), writing more at once.
const checkpointBytes = 16 << 20

// connector opens connections with our settings, in whatever pool.
type connector struct{ path, query string }

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	return connect(ctx, c.path, c.query)
}

// Driver implements driver.Connector.
func (c connector) Driver() driver.Driver { return &modernc.Driver{} }

// cacheKiB is how much of the file a connection keeps in memory. Writes go to the ends of
// trees, and reads of the operating system's own cache are cheap. The driver's allocator takes
// up to twice as much, for it rounds a page of 8 KiB and its head up.
func cacheKiB(query string) int {
	if query == queryOnly {
		return 2 << 10
	}
	return 8 << 10
}

func connect(ctx context.Context, path, query string) (driver.Conn, error) {
	// Pages are larger than by default, for files that are new: fewer of them are balanced and
	// written. The log file is cut back to 64 MiB after a burst.
	dsn := "file:" + (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath() +
		"?_pragma=busy_timeout(5000)&_pragma=page_size(8192)&_pragma=synchronous(FULL)" +
		"&_pragma=journal_size_limit(67108864)&_pragma=cache_size(" + strconv.Itoa(-cacheKiB(query)) + ")&_pragma=temp_store(MEMORY)&_error_rc=1"
	if query != "" {
		dsn += "&" + query
	}
	c, err := modernc.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	return c.Connect(ctx)
}

// liveIn names the view for live jobs of a state.
func liveIn(state job.State) string {
	if state == job.Running {
		return "job_held"
	}
	return "job_idle"
}

func blobID(id job.ID) any { return id[:] }

// Close implements ledger.Ledger.
func (l *Ledger) Close() error {
	return errors.Join(l.w.stop(), l.heads.close(), l.pool.Close(), l.lock.release())
}

// Now implements ledger.Ledger: the clock of the one process.
func (l *Ledger) Now(context.Context) (time.Time, error) {
	return time.Now().UTC().Truncate(time.Microsecond), nil
}

// Wake implements ledger.Ledger: there is no other process to tell.
func (l *Ledger) Wake(context.Context, []string) error { return nil }

// Listen implements ledger.Ledger.
func (l *Ledger) Listen(ctx context.Context, _ func(string)) error {
	<-ctx.Done()
	return nil
}
