package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/coldsql"
)

// groupMost bounds how many operations share a transaction.
const groupMost = 64

// writer owns the connection that writes. What waits while it commits shares
// the next transaction.
type writer struct {
	c      *conn
	log    *slog.Logger
	ops    chan *op
	quit   chan struct{}
	done   chan struct{}
	seq    int64          // the last number given out
	slices map[int64]bool // the archive's
}

// op is one call waiting for the writer.
type op struct {
	ctx  context.Context
	name string
	fn   func(*tx) error
	err  error
	done chan struct{}
}

func startWriter(c *conn, log *slog.Logger) (*writer, error) {
	w := &writer{c: c, log: log, ops: make(chan *op, groupMost), quit: make(chan struct{}), done: make(chan struct{})}
	var seq int64
	if _, err := c.get("SELECT coalesce(max(seq), 0) FROM job", nil, &seq); err != nil {
		return nil, err
	}
	w.seq = seq
	if err := w.loadSlices(); err != nil {
		return nil, err
	}
	err := c.transaction(func() error { return w.ensureSlice(sliceOf(time.Now())) })
	if err != nil {
		return nil, err
	}
	go w.run()
	return w, nil
}

// do has fn run in a transaction and returns after its commit.
func (w *writer) do(ctx context.Context, name string, fn func(*tx) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("ledger: %s: %w", name, err)
	}
	o := &op{ctx: ctx, name: name, fn: fn, done: make(chan struct{})}
	select {
	case w.ops <- o:
	case <-w.quit:
		return closedError()
	case <-ctx.Done():
		return fmt.Errorf("ledger: %s: %w", name, ctx.Err())
	}
	select {
	case <-o.done:
		return o.err
	case <-w.done:
	}
	select {
	case <-o.done: // answered at the last moment
		return o.err
	default:
		return closedError()
	}
}

func closedError() error {
	return job.Errorf(job.Unavailable, job.ReasonLedgerDown, "the ledger is closed")
}

func (w *writer) stop() error {
	select {
	case <-w.quit:
		<-w.done
		return nil
	default:
	}
	close(w.quit)
	<-w.done
	_, err := w.c.exec("PRAGMA wal_checkpoint(TRUNCATE)")
	return errors.Join(err, w.c.close())
}

func (w *writer) run() {
	defer close(w.done)
	for {
		select {
		case o := <-w.ops:
			w.group(o)
		case <-w.quit:
			return
		}
	}
}

// group runs the first operation and all that wait behind it.
func (w *writer) group(first *op) {
	ops := []*op{first}
	for len(ops) < groupMost {
		select {
		case o := <-w.ops:
			ops = append(ops, o)
			continue
		default:
		}
		break
	}
	if err := w.commit(ops); err != nil {
		// Nothing of it was stored: the in-memory view starts anew.
		for _, o := range ops {
			if o.err == nil {
				o.err = err
			}
		}
		if err := w.loadSlices(); err != nil {
			w.log.Error("cannot read the archive's slices", "err", err)
		}
	}
	for _, o := range ops {
		close(o.done)
	}
}

func (w *writer) commit(ops []*op) error {
	if _, err := w.c.exec("BEGIN IMMEDIATE"); err != nil {
		return wrapError("begin", err)
	}
	for _, o := range ops {
		if o.ctx.Err() != nil {
			o.err = fmt.Errorf("ledger: %s: %w", o.name, o.ctx.Err())
			continue
		}
		if err := w.isolated(o); err != nil {
			_, _ = w.c.exec("ROLLBACK") // SQLite may have rolled back already
			return wrapError(o.name, err)
		}
	}
	if _, err := w.c.exec("COMMIT"); err != nil {
		_, _ = w.c.exec("ROLLBACK")
		return commitError(err)
	}
	return nil
}

// isolated runs one operation so that its failure undoes it alone. The error it
// returns is one that ends the whole transaction.
func (w *writer) isolated(o *op) error {
	if _, err := w.c.exec("SAVEPOINT op"); err != nil {
		return err
	}
	t := &tx{w: w, c: w.c, deltas: map[counterKey]int64{}}
	err := o.fn(t)
	if err == nil {
		err = t.flush()
	}
	if err == nil {
		_, err = w.c.exec("RELEASE op")
		return err
	}
	if fatal(err) {
		return err
	}
	o.err = wrapError(o.name, err)
	if _, err := w.c.exec("ROLLBACK TO op"); err != nil {
		return err
	}
	if _, err := w.c.exec("RELEASE op"); err != nil {
		return err
	}
	return w.loadSlices()
}

// tx is one operation's part of a transaction.
type tx struct {
	w      *writer
	c      *conn
	deltas map[counterKey]int64
}

type counterKey struct {
	queue, kind string
	state       job.State
	slice       int64
	lane        job.Lane
}

// count notes that a job came to (1) or left (-1) the place it stands in.
func (t *tx) count(j *job.Job, n int64) {
	k := counterKey{queue: j.Queue, kind: j.Kind, state: j.State}
	switch {
	case j.State == job.Ready:
		k.lane = j.Lane
	case placeOf(j.State) == archived:
		k.slice = sliceOf(j.DoneAt)
	case j.State == job.Deleted:
		return
	}
	t.deltas[k] += n
}

func (t *tx) flush() error {
	for k, n := range t.deltas {
		if n == 0 {
			continue
		}
		_, err := t.c.exec(`INSERT INTO counter (queue, kind, state, slice, lane, n) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET n = n + excluded.n`,
			k.queue, k.kind, int64(k.state), k.slice, int64(k.lane), n)
		if err != nil {
			return err
		}
	}
	return nil
}

// jobs runs a query of coldsql.Columns.
func (t *tx) jobs(text string, args ...any) ([]job.Job, error) {
	var row coldsql.Row
	var out []job.Job
	err := t.c.query(text, args, func(vals []driver.Value) error {
		if err := assign(vals, row.Dest()); err != nil {
			return err
		}
		j, err := row.Job()
		out = append(out, j)
		return err
	})
	return out, err
}
