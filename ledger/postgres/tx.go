package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// tries bounds how often a transaction is run that the server rolled back for
// the sake of another one.
const tries = 8

// settings is what every writing transaction sets for itself. The planner is
// held to nested loops over indexes: the row numbers of a queue's tables
// change faster than their statistics, and every other plan reads a table or
// the dead part of an index whole. One plan serves all calls: which it is does not
// depend on the arguments, and a test looks at it. The memory is for the numbers of leased jobs, which must be hashed
// however many the planner takes them for. The idle timeout bounds how long a process that
// froze inside a transaction keeps its locks.
const settings = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
	set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true),
	set_config('plan_cache_mode', 'force_generic_plan', true), set_config('work_mem', '64MB', true),
	set_config('idle_in_transaction_session_timeout', '10s', true)`

// begin names the isolation, for the server's default may be another: what a statement
// reads must be later than what one before it has found (the lock on pausing, the sample of writers).
const begin = "BEGIN ISOLATION LEVEL READ COMMITTED"

// step is one statement of a pipeline.
type step struct {
	sql  string
	args []any
	scan func(pgx.Rows) error // called for each row; nil: there are none to read
}

// tx is a transaction under way on a connection of its own. Its statements go
// in pipelines; the first one begins it.
type tx struct {
	l         *Ledger
	conn      *pgx.Conn
	lock      int // taken, shared, by the statement that begins it; 0: none
	begun     bool
	committed bool // a commit was sent
}

// inTx runs fn in a transaction, which fn ends by commit. What the server rolled
// back as a deadlock or a serialization failure is run again, so fn must
// start from nothing each time.
func (l *Ledger) inTx(ctx context.Context, op string, fn func(*tx) error) error {
	for try := 1; ; try++ {
		err := l.tryTx(ctx, op, fn)
		if err == nil || try == tries || !transient(err) {
			return err
		}
	}
}

func (l *Ledger) tryTx(ctx context.Context, op string, fn func(*tx) error) error {
	c, err := l.pool.Acquire(ctx)
	if err != nil {
		return wrap(op, err)
	}
	defer c.Release()
	t := &tx{l: l, conn: c.Conn()}
	err = fn(t)
	if t.begun && !t.conn.IsClosed() && t.conn.PgConn().TxStatus() != 'I' {
		t.rollback()
	}
	switch {
	case err == nil:
		return nil
	case t.committed:
		return wrapCommit(op, err)
	default:
		return wrap(op, err)
	}
}

// rollback ends the transaction, with a time of its own: the caller's may be
// up. A connection that cannot even do that is closed, which ends it too.
func (t *tx) rollback() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := t.conn.Exec(ctx, "ROLLBACK", pgx.QueryExecModeSimpleProtocol); err != nil {
		_ = t.conn.Close(ctx) // its error says no more than the one before
	}
	t.begun = false
}

// run sends the steps in one round trip and reads their answers in order.
func (t *tx) run(ctx context.Context, steps ...step) error {
	var b pgx.Batch
	lead := 0
	if !t.begun {
		t.begun = true
		b.Queue(begin)
		b.Queue(t.beginning())
		lead = 2
	}
	for _, s := range steps {
		b.Queue(s.sql, s.args...)
	}
	return readBatch(t.conn.SendBatch(ctx, &b), lead, steps)
}

// commit sends the steps and the commit behind them.
func (t *tx) commit(ctx context.Context, steps ...step) error {
	t.committed = true
	return t.run(ctx, append(steps, step{sql: "COMMIT"})...)
}

// whole sends the steps as a transaction that is nothing else: one that the server itself begins with
// the first statement and commits behind the last, which spares two. A pooler's connections have
// a default isolation that is not Errand's (poolConfig): there it is begun and committed as any other.
func (t *tx) whole(ctx context.Context, steps ...step) error {
	if t.begun || t.l.pooler {
		return t.commit(ctx, steps...)
	}
	t.committed = true
	var b pgx.Batch
	b.Queue(t.beginning())
	for _, s := range steps {
		b.Queue(s.sql, s.args...)
	}
	return readBatch(t.conn.SendBatch(ctx, &b), 1, steps)
}

// end sends the steps and the end of a transaction that changes nothing: there
// is no commit whose fate could be unknown.
func (t *tx) end(ctx context.Context, steps ...step) error {
	return t.run(ctx, append(steps, step{sql: "COMMIT"})...)
}

func (l *Ledger) settings() string {
	if l.pooler {
		return settings + ", (" + durable(true) + "), " + answerTimeout(true)
	}
	return settings
}

// beginning is the transaction's first statement. A lock that is taken in it is held
// before the next one looks at anything.
func (t *tx) beginning() string {
	if t.lock == 0 {
		return t.l.settings()
	}
	return fmt.Sprintf("%s, pg_advisory_xact_lock_shared(%d, %d)", t.l.settings(), lockClass, t.lock)
}

func readBatch(br pgx.BatchResults, lead int, steps []step) (err error) {
	defer func() {
		if cerr := br.Close(); err == nil {
			err = cerr
		}
	}()
	for range lead {
		if _, err := br.Exec(); err != nil {
			return err
		}
	}
	for _, s := range steps {
		if err := readStep(br, s); err != nil {
			return err
		}
	}
	return nil
}

func readStep(br pgx.BatchResults, s step) error {
	if s.scan == nil {
		_, err := br.Exec()
		return err
	}
	rows, err := br.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := s.scan(rows); err != nil {
			return fmt.Errorf("read a row: %w", err)
		}
	}
	return rows.Err()
}

// patiently runs fn behind a savepoint and reports false, with everything as
// it was, if a lock was not to be had in time.
func (t *tx) patiently(ctx context.Context, patience string, fn func() error) (bool, error) {
	err := t.run(ctx,
		step{sql: "SELECT set_config('lock_timeout', $1, true)", args: []any{patience}},
		step{sql: "SAVEPOINT keys"})
	if err != nil {
		return false, err
	}
	switch err := fn(); {
	case err == nil:
		// The lock on the key's row is what the wait was for: nothing else waits.
		return true, t.run(ctx, step{sql: "RELEASE SAVEPOINT keys"},
			step{sql: "SELECT set_config('lock_timeout', '0', true)"})
	case sqlState(err) != stateLockTimeout:
		return false, err
	}
	_, err = t.conn.Exec(ctx, "ROLLBACK TO SAVEPOINT keys", pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return false, err
	}
	return false, t.run(ctx, step{sql: "SELECT set_config('lock_timeout', '0', true)"})
}
