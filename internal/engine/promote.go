package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

const (
	promoteBatches = 50                    // of job.MaxBatch, a run; the next run follows at once
	promoteGrain   = 20 * time.Millisecond // known times are gathered to this
)

// promoter makes scheduled jobs ready when their time has come, and cancels
// jobs that nobody took before they expired. It looks when kicked, as by the pulse, which asks
// at every poll interval whether there are any, and at the times it was told of that come sooner.
type promoter struct {
	bell chan struct{}

	mu    sync.Mutex
	times []time.Time // by the ledger's clock, rounded up to promoteGrain, ascending
}

func newPromoter() *promoter {
	return &promoter{bell: make(chan struct{}, 1)}
}

// kick has the promoter look at once.
func (p *promoter) kick() { ring(p.bell) }

// expect has it look when runAt comes, if that is before the next pulse; so the
// list never holds more than an interval's worth of grains.
func (p *promoter) expect(e *Engine, runAt time.Time) {
	if runAt.Sub(e.Now()) >= e.conf.PollInterval || e.conf.Roles&RoleKeeper == 0 {
		return
	}
	at := runAt.Truncate(promoteGrain).Add(promoteGrain)
	p.mu.Lock()
	defer p.mu.Unlock()
	i, found := slices.BinarySearchFunc(p.times, at, time.Time.Compare)
	if found {
		return
	}
	p.times = slices.Insert(p.times, i, at)
	if i == 0 {
		ring(p.bell)
	}
}

// next forgets the times up to now and returns the one after, zero for none.
func (p *promoter) next(now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.times) > 0 && !p.times[0].After(now) {
		p.times = p.times[1:]
	}
	if len(p.times) == 0 {
		p.times = nil
		return time.Time{}
	}
	return p.times[0]
}

func (e *Engine) runPromoter(ctx context.Context) {
	ill := false
	for {
		next := e.promoter.next(e.Now())
		more, err := e.promote(ctx)
		if ctx.Err() != nil {
			return
		}
		ill = e.report("promote", ill, err)
		if more && err == nil {
			continue
		}
		wait := time.Hour // for the bell
		if !next.IsZero() {
			wait = max(next.Sub(e.Now()), 0)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		case <-e.promoter.bell:
			t.Stop()
		}
	}
}

// promote moves what is due and reports whether there is more.
func (e *Engine) promote(ctx context.Context) (more bool, err error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	for range promoteBatches {
		now, err := e.clock.now(ctx)
		if err != nil {
			return false, err
		}
		expired, err := e.move(ctx, now, job.Expire, ledger.Pick{Expired: now, Limit: job.MaxBatch})
		if err != nil {
			return false, fmt.Errorf("expire jobs: %w", err)
		}
		due, err := e.move(ctx, now, job.Due, ledger.Pick{Due: now, Limit: job.MaxBatch})
		if err != nil {
			return false, fmt.Errorf("promote jobs: %w", err)
		}
		if expired < job.MaxBatch && due < job.MaxBatch {
			return false, nil
		}
	}
	return true, nil
}

// move applies an event to all jobs of a pick, and returns how many there were.
func (e *Engine) move(ctx context.Context, now time.Time, ev job.Event, pick ledger.Pick) (int, error) {
	applied, err := e.ledger.Apply(ctx, now, pick, func(j *job.Job) error {
		return e.rules.Step(j, job.Move{Event: ev, Now: now})
	})
	if err != nil {
		return 0, err
	}
	e.follow(now, ev, applied)
	return len(applied), nil
}
