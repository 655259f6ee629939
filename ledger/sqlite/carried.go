package sqlite

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// headReader reads for the relay, and the pulse, on a connection of its own, one call at a
// time: it holds up no write, and the slow queries of people, which share the
// readers, do not hold it up. What was committed before a call, it sees.
type headReader struct {
	mu sync.Mutex
	c  *conn // nil: closed
}

// Heads implements ledger.Carried.
func (l *Ledger) Heads(ctx context.Context, now time.Time, reqs []ledger.Head) ([]ledger.Headed, error) {
	if err := ctx.Err(); err != nil || len(reqs) == 0 {
		return nil, err
	}
	var answers []ledger.Headed
	err := l.heads.do("heads", func() (err error) {
		answers, err = l.heads.read(now, reqs)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

// do runs fn, which has the connection to itself.
func (r *headReader) do(op string, fn func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.c == nil {
		return job.Errorf(job.Unavailable, job.ReasonShuttingDown, "ledger: %s: the ledger is closed", op)
	}
	if err := fn(); err != nil {
		return wrapError(op, err)
	}
	return nil
}

// read answers all requests from one state of the database.
func (r *headReader) read(now time.Time, reqs []ledger.Head) (answers []ledger.Headed, err error) {
	if _, err := r.c.exec("BEGIN"); err != nil {
		return nil, err
	}
	defer func() {
		_, e := r.c.exec("ROLLBACK") // there is nothing to commit
		err = errors.Join(err, e)
	}()
	answers = make([]ledger.Headed, len(reqs))
	for i := range reqs {
		if err := r.readOne(now, &reqs[i], &answers[i]); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

func (r *headReader) readOne(now time.Time, req *ledger.Head, answer *ledger.Headed) error {
	if _, err := r.c.get("SELECT paused FROM queue WHERE name = ?", []any{req.Queue}, &answer.Paused); err != nil || answer.Paused {
		return err
	}
	ready, err := r.ready(req.Queue)
	if err != nil {
		return err
	}
	lanes := laneReader{c: r.c, now: now, queue: req.Queue}
	var rids []int64
	for lane := job.LaneFront; lane <= job.LaneLast && len(rids) < req.Max; lane++ {
		more, err := lanes.first(kindsIn(ready, req.Kinds, lane), lane, req.Max-len(rids))
		if err != nil {
			return err
		}
		rids = append(rids, more...)
	}
	answer.Refs, err = r.refs(rids)
	return err
}

// ready reads from the counters where a queue has ready jobs.
func (r *headReader) ready(queue string) (readyLanes, error) {
	ready := make(readyLanes)
	err := r.c.query("SELECT kind, lane, n FROM counter WHERE queue = ? AND state = 2", []any{queue}, func(row []driver.Value) error {
		var kind string
		var lane job.Lane
		var n int64
		err := assign(row, []any{&kind, &lane, &n})
		if ready[kind] == nil {
			ready[kind] = new([lanes]int64)
		}
		ready[kind][lane-job.LaneSuspect] = n
		return err
	})
	return ready, err
}

// refs reads the refs of rows, in the order of claims.
func (r *headReader) refs(rids []int64) ([]ledger.Ref, error) {
	refs := make([]ledger.Ref, 0, len(rids))
	err := r.c.eachRID("SELECT id, token, kind, lane, seq, run_at FROM job_row WHERE rid IN (%s)", nil, rids, func(row []driver.Value) error {
		var ref ledger.Ref
		var since int64
		err := assign(row, []any{&ref.ID, &ref.Token, &ref.Kind, &ref.Lane, &ref.Seq, &since})
		ref.RunAt = coldsql.Time(since)
		refs = append(refs, ref)
		return err
	})
	slices.SortFunc(refs, func(a, b ledger.Ref) int { return cmp.Or(cmp.Compare(a.Lane, b.Lane), cmp.Compare(a.Seq, b.Seq)) })
	return refs, err
}

func (r *headReader) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.c == nil {
		return nil
	}
	err := r.c.close()
	r.c = nil
	return err
}

// HoldRelay implements ledger.Carried.
func (l *Ledger) HoldRelay(ctx context.Context, now time.Time, holder job.ID, ttl time.Duration) (leads bool, epoch int64, err error) {
	err = l.w.do(ctx, "hold the relay", 1, func(t *tx) (err error) {
		leads, epoch, err = l.store.HoldRelay(t.get, now, holder, ttl)
		return err
	})
	return leads && err == nil, epoch, err
}

// Identity implements ledger.Carried.
func (l *Ledger) Identity(ctx context.Context) (string, error) { return l.store.Identity(ctx) }

// SetRoute implements ledger.Queues.
func (l *Ledger) SetRoute(ctx context.Context, now time.Time, queue, route string) error {
	return l.w.do(ctx, "set route", 1, func(t *tx) error {
		text, args := l.store.RouteText(now, queue, route)
		_, err := t.exec(text, args...)
		return err
	})
}

// Routes implements ledger.Queues.
func (l *Ledger) Routes(ctx context.Context) (map[string]string, error) { return l.store.Routes(ctx) }
