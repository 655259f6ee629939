package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

const (
	maxWait      = time.Minute
	maxWaitCalls = 10000
	maxAwaited   = 50000           // jobs that all calls together may wait for
	waitFloor    = 5 * time.Second // between two looks at the ledger, while news come by the cache
)

// waits holds the Wait calls of this process by the jobs they wait for.
type waits struct {
	mu  sync.Mutex
	of  map[job.ID]map[*waitCall]bool
	all int

	joins int           // calls that ever joined
	first chan struct{} // rings when a call joins

	look   chan struct{} // rings when the ledger is to be looked at now
	looked time.Duration // when it was last; zero: it is due
}

// waitCall is one Wait, or Watch by ids; its bell rings when it should look again.
type waitCall struct{ bell chan struct{} }

func newWaits() *waits {
	return &waits{of: map[job.ID]map[*waitCall]bool{}, first: make(chan struct{}, 1), look: make(chan struct{}, 1)}
}

func (w *waits) join(c *waitCall, ids []job.ID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.of)+len(ids) > maxAwaited || w.all >= maxWaitCalls {
		return job.Errorf(job.ResourceExhausted, "", "%d calls wait for %d jobs already: try again later", w.all, len(w.of))
	}
	w.all++
	w.joins++
	ring(w.first)
	w.add(c, ids)
	return nil
}

// company returns when a call is there, or reports false if ctx ended.
func (w *waits) company(ctx context.Context) bool {
	for ctx.Err() == nil {
		if all, _ := w.calls(); all > 0 {
			return true
		}
		select {
		case <-w.first:
		case <-ctx.Done():
		}
	}
	return false
}

// lull returns when no call has been there from one look to the next, which are d apart.
func (w *waits) lull(ctx context.Context, d time.Duration) {
	for last := -1; pause(ctx, d); {
		all, joins := w.calls()
		switch {
		case all > 0:
			last = -1
		case joins == last:
			return
		default:
			last = joins
		}
	}
}

func (w *waits) calls() (all, joins int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all, w.joins
}

func (w *waits) add(c *waitCall, ids []job.ID) {
	for _, id := range ids {
		if w.of[id] == nil {
			w.of[id] = map[*waitCall]bool{}
		}
		w.of[id][c] = true
	}
}

func (w *waits) leave(c *waitCall, ids []job.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all--
	w.remove(c, ids)
}

func (w *waits) remove(c *waitCall, ids []job.ID) {
	for _, id := range ids {
		if delete(w.of[id], c); len(w.of[id]) == 0 {
			delete(w.of, id)
		}
	}
}

// follow has c, which has joined, wait for id, or not any more.
func (w *waits) follow(c *waitCall, id job.ID, open bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if open {
		w.add(c, []job.ID{id})
	} else {
		w.remove(c, []job.ID{id})
	}
}

// finished tells those who wait that jobs have ended, or are gone.
func (w *waits) finished(ids []job.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.of) == 0 {
		return
	}
	for _, id := range ids {
		for c := range w.of[id] {
			ring(c.bell)
		}
	}
}

func (w *waits) awaited() []job.ID {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := make([]job.ID, 0, len(w.of))
	for id := range w.of {
		ids = append(ids, id)
	}
	return ids
}

// Wait returns those of the jobs that are final, as soon as one is, and none at
// the timeout (at most a minute). It returns job.ErrNotFound if none
// of the jobs exists, or any more.
func (e *Engine) Wait(ctx context.Context, ids []job.ID, timeout time.Duration) ([]job.Job, error) {
	if err := checkIDs(ids); err != nil {
		return nil, err
	}
	if timeout < 0 {
		return nil, job.Errorf(job.InvalidArgument, job.ReasonBadField, "timeout %s is negative", timeout)
	}
	c := &waitCall{bell: make(chan struct{}, 1)}
	if err := e.waits.join(c, ids); err != nil {
		return nil, err
	}
	defer e.waits.leave(c, ids)
	over := time.NewTimer(min(timeout, maxWait))
	defer over.Stop()
	for {
		jobs, err := e.Get(ctx, ids)
		if err != nil {
			return nil, fmt.Errorf("wait: %w", err)
		}
		if len(jobs) == 0 {
			return nil, job.ErrNotFound
		}
		jobs = slices.DeleteFunc(jobs, func(j job.Job) bool { return !j.State.Final() })
		if len(jobs) > 0 {
			return jobs, nil
		}
		select {
		case <-c.bell:
		case <-over.C:
			return nil, nil
		case <-e.draining:
			return nil, nil
		case <-e.stopped:
			return nil, nil
		case <-ctx.Done():
			return nil, ended(ctx)
		}
	}
}

// lookNow has the ledger looked at soon, because news may have been missed.
func (w *waits) lookNow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looked = 0
	ring(w.look)
}

// due reports whether the ledger is to be looked at: always, unless news come in
// (linked), and then each waitFloor.
func (w *waits) due(now time.Duration, linked bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if linked && w.looked > 0 && now-w.looked < waitFloor {
		return false
	}
	w.looked = now
	return true
}

// runWaits looks at all awaited jobs together, for those that ended elsewhere.
func (e *Engine) runWaits(ctx context.Context) {
	e.every(ctx, "wait", e.conf.PollInterval, e.waits.look, func(ctx context.Context) error {
		if !e.waits.due(e.conf.Monotonic(), e.view.line.linked()) {
			return nil
		}
		for ids := range slices.Chunk(e.waits.awaited(), job.MaxBatch) {
			if err := e.lookAt(ctx, ids); err != nil {
				return err
			}
		}
		return nil
	})
}

// lookAt asks the ledger what jobs are doing, and tells those who wait for them
// or watch them.
func (e *Engine) lookAt(ctx context.Context, ids []job.ID) error {
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	now, err := e.clock.now(ctx)
	if err != nil {
		return err
	}
	jobs, err := e.ledger.Get(ctx, ids)
	if err != nil {
		return fmt.Errorf("look at awaited jobs: %w", err)
	}
	there := make(map[job.ID]bool, len(jobs))
	for i := range jobs {
		there[jobs[i].ID] = true
	}
	gone := slices.DeleteFunc(slices.Clone(ids), func(id job.ID) bool { return there[id] })
	e.glimpse(now, jobs, gone)
	return nil
}

// glimpse takes what was read of jobs and may be news to whoever follows them,
// such as a success in a transaction of the worker's own.
func (e *Engine) glimpse(now time.Time, jobs []job.Job, gone []job.ID) {
	entries, done := make([]cache.Entry, len(jobs)), gone
	for i := range jobs {
		entries[i] = cache.Of(&jobs[i], now)
		entries[i].Tell = true
		if jobs[i].State.Final() {
			done = append(done, jobs[i].ID)
		}
	}
	e.view.write(entries)
	e.watches.tellByID(entries, gone)
	e.waits.finished(done)
}
