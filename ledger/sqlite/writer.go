package sqlite

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"

	"github.com/errandhq/errand/job"
)

// batchWeight bounds the items of one transaction, so that a short call does
// not wait for the whole of a long line.
const batchWeight = 5000

// op is one call's work. fn may run more than once: it starts its answers anew.
type op struct {
	ctx    context.Context
	name   string
	weight int
	fn     func(*tx) error
	done   chan error
}

// writer owns the write connection. What waits when a transaction ends is the
// next transaction; an idle writer starts at once.
type writer struct {
	c   *conn
	log *slog.Logger
	mem *memory // nil after a failure that left it behind the database

	mu     sync.Mutex
	queue  []*op
	closed bool

	work    chan struct{} // one signal for any number of ops
	stopped chan struct{}
	err     error // of the end; read after stopped
}

func startWriter(c *conn, log *slog.Logger) (*writer, error) {
	mem, err := loadMemory(c)
	if err != nil {
		return nil, err
	}
	w := &writer{c: c, log: log, mem: mem, work: make(chan struct{}, 1), stopped: make(chan struct{})}
	go w.run()
	return w, nil
}

// do hands fn to the writer and waits for its commit. A ctx that ends while the
// op waits in line ends the call, with nothing changed; once its transaction
// has begun the answer is waited for, which takes milliseconds and is precise.
func (w *writer) do(ctx context.Context, name string, weight int, fn func(*tx) error) error {
	o := &op{ctx: ctx, name: name, weight: weight, fn: fn, done: make(chan error, 1)}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return job.Errorf(job.Unavailable, job.ReasonShuttingDown, "ledger: %s: the ledger is closed", name)
	}
	w.queue = append(w.queue, o)
	w.mu.Unlock()
	w.signal()
	return <-o.done
}

func (w *writer) signal() {
	select {
	case w.work <- struct{}{}:
	default:
	}
}

// stop ends the writer once everything in line is done.
func (w *writer) stop() error {
	w.mu.Lock()
	first := !w.closed
	w.closed = true
	w.mu.Unlock()
	w.signal()
	<-w.stopped
	if first {
		return w.err
	}
	return nil
}

func (w *writer) run() {
	defer close(w.stopped)
	for range w.work {
		for {
			// Callers that were just answered often come back at once: let those
			// that can run get in line, so that they share the next commit. This
			// is a place in the scheduler's queue, not a delay.
			runtime.Gosched()
			ops, closed := w.next()
			if len(ops) > 0 {
				w.runBatch(ops)
				continue
			}
			if closed {
				w.err = w.finish()
				return
			}
			break
		}
	}
}

// next takes what fits into one transaction from the line.
func (w *writer) next() (ops []*op, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, weight := 0, 0
	for n < len(w.queue) && (n == 0 || weight+w.queue[n].weight <= batchWeight) {
		weight += w.queue[n].weight
		n++
	}
	ops, w.queue = w.queue[:n:n], w.queue[n:]
	if len(w.queue) == 0 {
		w.queue = nil
	}
	return ops, w.closed
}

// finish leaves a single file behind where it can.
func (w *writer) finish() error {
	var busy, log, done int64
	if _, err := w.c.get("PRAGMA wal_checkpoint(TRUNCATE)", nil, &busy, &log, &done); err != nil {
		w.log.Warn("checkpoint at close failed; the next start makes up for it", "error", err)
	}
	return w.c.close()
}

// runBatch runs ops in one transaction. If the database failed it, each is
// tried alone: one call that does not fit on the disk fails alone.
func (w *writer) runBatch(ops []*op) {
	errs := make([]error, len(ops))
	err := w.try(ops, errs)
	if err != nil && len(ops) > 1 && job.CodeOf(err) != job.Unknown {
		for i := range ops {
			errs[i] = nil
			if err := w.try(ops[i:i+1], errs[i:i+1]); err != nil {
				errs[i] = err
			}
		}
		err = nil
	}
	for i, o := range ops {
		if err != nil {
			errs[i] = err
		}
		o.done <- errs[i]
	}
}

// try is one transaction. Its error is of the whole of it: nothing was stored.
// Else each op has its own error, and only those without one were stored.
func (w *writer) try(ops []*op, errs []error) error {
	if w.mem == nil {
		mem, err := loadMemory(w.c)
		if err != nil {
			return wrapError("reload", err)
		}
		w.mem = mem
	}
	if _, err := w.c.exec("BEGIN IMMEDIATE"); err != nil {
		return wrapError("begin", err)
	}
	stored := 0
	for i, o := range ops {
		if errs[i] = o.ctx.Err(); errs[i] != nil {
			continue
		}
		errs[i] = w.runOp(o, len(ops) > 1)
		if fatal(errs[i]) {
			w.abort()
			return wrapError(o.name, errs[i])
		}
		if errs[i] == nil {
			stored++
		} else {
			errs[i] = wrapError(o.name, errs[i])
		}
	}
	if stored == 0 {
		_, err := w.c.exec("ROLLBACK")
		w.mem.dirty = map[counterKey]struct{}{}
		return err
	}
	err := w.mem.store(w.c)
	if err == nil {
		if _, err = w.c.exec("COMMIT"); err == nil {
			return nil
		}
		err = commitError(err)
	}
	w.abort()
	return wrapError("commit", err)
}

// abort rolls back and forgets what was in memory of the transaction.
func (w *writer) abort() {
	_, _ = w.c.exec("ROLLBACK") // fails only where SQLite has rolled back already
	w.mem = nil
}

// runOp runs one op, apart from its neighbours if it has some: what fails
// leaves neither rows nor memory behind.
func (w *writer) runOp(o *op, apart bool) error {
	if apart {
		if _, err := w.c.exec("SAVEPOINT op"); err != nil {
			return err
		}
	}
	t := &tx{conn: w.c, mem: w.mem, deltas: make(map[counterKey]int64)}
	err := o.fn(t)
	if err == nil {
		if apart {
			if _, err := w.c.exec("RELEASE op"); err != nil {
				return err
			}
		}
		w.mem.add(t.deltas)
		return nil
	}
	for i := len(t.undo) - 1; i >= 0; i-- {
		t.undo[i]()
	}
	if apart && !fatal(err) {
		for _, text := range []string{"ROLLBACK TO op", "RELEASE op"} {
			if _, e := w.c.exec(text); e != nil {
				return errors.Join(e, err)
			}
		}
	}
	return err
}

// tx is an op's view of the transaction.
type tx struct {
	*conn
	mem    *memory
	deltas map[counterKey]int64
	undo   []func() // takes back what the op changed in memory
}

// count adds n to the counter of a job as it stands; slice is 0 but for
// archived jobs.
func (t *tx) count(j *job.Job, slice, n int64) {
	t.countKey(counterKey{queue: j.Queue, kind: j.Kind, state: j.State, slice: slice, lane: j.Lane}, n)
}

func (t *tx) countKey(k counterKey, n int64) {
	if k.state != job.Ready {
		k.lane = 0
	}
	t.deltas[k] += n
}
