package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Of ops that share transactions some fail when their work is done. What memory knows of
// leases stays that of the database, no mark hides a job, and no token is given out twice.
func TestMemoryOfLeasesFollowsTheDatabase(t *testing.T) {
	for seed := range uint64(2) {
		w := &world{t: t, l: testOpen(t, testPath(t)), r: rand.New(rand.NewPCG(seed, 1)), now: time.Now(),
			session: newID(), given: map[string]bool{}, jobs: map[job.ID]int64{}}
		if err := w.l.OpenSession(t.Context(), ledger.Session{ID: w.session, OpenedAt: w.now, BeatAt: w.now}); err != nil {
			t.Fatal(err)
		}
		for range 40 {
			w.batch()
			w.check()
		}
		checkCounters(t, w.l)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// world is a ledger whose writer is idle but for batch.
type world struct {
	t       *testing.T
	l       *Ledger
	r       *rand.Rand
	now     time.Time
	session job.ID
	given   map[string]bool  // leases, by job and token
	jobs    map[job.ID]int64 // the last token of each
}

var errOnPurpose = errors.New("on purpose")

// batch runs some ops in one transaction.
func (w *world) batch() {
	w.now = w.now.Add(time.Duration(w.r.IntN(2000)) * time.Millisecond)
	var ops []*op
	var after []func()
	for range 1 + w.r.IntN(5) {
		fn, done := w.op()
		fails := w.r.IntN(4) == 0
		ops = append(ops, &op{ctx: context.Background(), name: "op", fn: func(x *tx) error {
			if err := fn(x); err != nil || !fails {
				return err
			}
			return errOnPurpose
		}, done: make(chan error, 1)})
		after = append(after, done)
	}
	w.l.w.runBatch(ops) // the writer is idle
	for i, o := range ops {
		switch err := <-o.done; {
		case err == nil:
			after[i]()
		case !errors.Is(err, errOnPurpose):
			w.t.Fatal(err)
		}
	}
}

// op is one op, and what to note once it is stored.
func (w *world) op() (func(*tx) error, func()) {
	now := w.now
	switch w.r.IntN(5) {
	case 0:
		var items []ledger.Item
		for range w.r.IntN(30) {
			it := newItem(w.r.IntN(50))
			it.Job.Kind, it.Job.Priority = fmt.Sprint("k", w.r.IntN(2)), w.r.IntN(2)
			it.Job.Lane = job.Lane(it.Job.Priority)
			if w.r.IntN(5) == 0 {
				it.Job.ExpiresAt = now.Add(time.Duration(w.r.IntN(5)) * time.Second).UTC().Truncate(time.Microsecond)
			}
			items = append(items, it)
		}
		return func(x *tx) error {
			in := &insertion{tx: x, now: now, items: items, known: map[job.ID]known{}}
			_, err := in.run()
			return err
		}, func() {}
	case 1, 2:
		req := &ledger.Claim{Session: w.session, Queue: "q", Max: 1 + w.r.IntN(20), MaxBytes: 100 + w.r.IntN(1000), Call: int64(w.r.IntN(2))}
		if w.r.IntN(2) == 0 {
			req.Kinds = []string{"k0"}
		}
		var answer ledger.Claimed
		return func(x *tx) error {
				answer = ledger.Claimed{}
				return (&claim{tx: x, now: now, req: req}).run(&answer)
			}, func() {
				for _, j := range answer.Jobs {
					w.give(&j)
				}
			}
	case 3:
		var items []ledger.Success
		for id, token := range w.jobs {
			if w.r.IntN(3) > 0 {
				items = append(items, ledger.Success{ID: id, Token: token + int64(w.r.IntN(2))})
			}
		}
		return func(x *tx) error {
			s := &success{tx: x, now: now, items: items, done: make([]ledger.Succeeded, len(items)), seen: map[job.ID]bool{}}
			return s.run()
		}, func() {}
	default:
		pick := ledger.Pick{Due: now, Limit: 10}
		event := job.Due
		if id, ok := w.any(); ok && w.r.IntN(4) > 0 {
			pick = ledger.Pick{IDs: []job.ID{id}}
			event = []job.Event{job.Fail, job.Release, job.Crash, job.Cancel, job.Snooze, job.Discard}[w.r.IntN(6)]
		} else if w.r.IntN(2) == 0 {
			pick, event = ledger.Pick{Expired: now, Limit: 10}, job.Expire
		}
		rules := job.DefaultRules(func() float64 { return 0.1 })
		return func(x *tx) error {
			rows, err := x.pick(&pick, nil)
			if err != nil {
				return err
			}
			return x.applyAll(now, rows, func(j *job.Job) error {
				return rules.Step(j, job.Move{Event: event, Now: now, Delay: time.Second})
			})
		}, func() {}
	}
}

func (w *world) any() (job.ID, bool) {
	for id := range w.jobs {
		return id, true
	}
	return job.ID{}, false
}

// give notes a lease that was given out.
func (w *world) give(j *job.Job) {
	k := fmt.Sprint(j.ID, j.Token)
	if w.given[k] {
		w.t.Errorf("job %s is given out twice under token %d", j.ID, j.Token)
	}
	w.given[k] = true
	w.jobs[j.ID] = j.Token
}

// check compares what memory knows with what is stored.
func (w *world) check() {
	w.t.Helper()
	m, c := w.l.w.mem, w.l.w.c // the writer is idle
	stored := &memory{leased: map[int64]int64{}, blocks: map[int64]*block{}}
	if err := stored.loadLeases(c); err != nil {
		w.t.Fatal(err)
	}
	if fmt.Sprint(m.leased) != fmt.Sprint(stored.leased) || len(m.blocks) != len(stored.blocks) {
		w.t.Errorf("leased: %v, stored: %v", m.leased, stored.leased)
	}
	for id, b := range stored.blocks {
		if m.blocks[id] == nil || *m.blocks[id] != *b {
			w.t.Errorf("block %d: %v, stored: %v", id, m.blocks[id], b)
		}
	}
	err := c.query("SELECT kind, lane, seq FROM job_idle WHERE state = 2 AND (expires_at IS NULL OR expires_at > ?)",
		[]any{w.now.UnixMicro()}, func(row []driver.Value) error {
			k := laneKey{queue: "q"}
			var seq int64
			err := assign(row, []any{&k.kind, &k.lane, &seq})
			if m.marks[k] >= seq {
				w.t.Errorf("the mark of %v is %d and hides %d", k, m.marks[k], seq)
			}
			return err
		})
	if err != nil {
		w.t.Fatal(err)
	}
	seen := 0
	err = c.query("SELECT id, rid, token, version, attempt FROM job WHERE state = 3", nil, func(row []driver.Value) error {
		var id job.ID
		var rid, token, version int64
		var attempt int
		err := assign(row, []any{&id, &rid, &token, &version, &attempt})
		l, ok := m.leases[id]
		if !ok {
			return err
		}
		seen++
		if l.rid != rid || l.token != token || l.was.Version != version+1 || l.was.Attempt != attempt {
			w.t.Errorf("job %s: %+v, stored: row %d, token %d, version %d, attempt %d", id, l, rid, token, version, attempt)
		}
		return err
	})
	if err != nil || seen != len(m.leases) {
		w.t.Errorf("%d leases in memory, %d of them of running jobs: %v", len(m.leases), seen, err)
	}
}
