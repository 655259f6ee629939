package engine

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// deadCountCap is where CountDead stops counting.
const deadCountCap = 100_000

// Redrive sends dead letters back to work: all at once if rate is 0, else
// spread out to rate jobs a second by their run_at, so that no process has to keep the
// pace. A job whose unique key is taken stays dead, and its answer names
// the holder.
func (e *Engine) Redrive(ctx context.Context, ids []job.ID, rate float64) ([]JobResult, error) {
	if err := checkRate(rate); err != nil {
		return nil, err
	}
	pace := newPace(rate, 0)
	applied, err := e.change(ctx, ids, job.Redrive, func(j *job.Job, m job.Move) error {
		m.Delay = pace.delay(j.ID)
		return e.rules.Step(j, m)
	})
	if err != nil {
		return nil, err
	}
	return results(ids, applied), nil
}

// RedriveWhere redrives a page of the dead letters that f chooses. done is how
// many the pages before have redriven, for the pace; the next page is asked for
// with f.AfterID set to the answer's Next, until that is zero.
func (e *Engine) RedriveWhere(ctx context.Context, f ledger.DeadFilter, rate float64, done int) (RedrivePage, error) {
	if err := checkRate(rate); err != nil {
		return RedrivePage{}, err
	}
	if done < 0 {
		return RedrivePage{}, job.Errorf(job.InvalidArgument, job.ReasonBadField, "done %d is negative", done)
	}
	pace := newPace(rate, done)
	applied, err := e.dead(ctx, f, job.Redrive, func(j *job.Job, m job.Move) error {
		m.Delay = pace.delay(j.ID)
		return e.rules.Step(j, m)
	})
	if err != nil {
		return RedrivePage{}, err
	}
	page := RedrivePage{Done: done}
	for i := range applied {
		a := &applied[i]
		if a.Err != nil {
			page.Problems = append(page.Problems, JobResult{Job: a.Job, Err: a.Err})
			continue
		}
		page.Redriven = append(page.Redriven, a.Job.ID)
		page.Done++
	}
	if len(applied) > 0 { // a short page need not be the last: see ledger.Pick
		page.Next = applied[len(applied)-1].Job.ID
	}
	return page, nil
}

// Purge removes a page of the dead letters that f chooses, and reports whether
// there may be more: until a page is empty.
func (e *Engine) Purge(ctx context.Context, f ledger.DeadFilter) (purged int, more bool, err error) {
	applied, err := e.dead(ctx, f, job.Delete, e.rules.Step)
	if err != nil {
		return 0, false, err
	}
	for i := range applied {
		if applied[i].Err == nil {
			purged++
		}
	}
	return purged, purged > 0, nil
}

// CountDead counts the dead letters that f chooses; capped says that there are
// more than the 100,000 that were counted.
func (e *Engine) CountDead(ctx context.Context, f ledger.DeadFilter) (n int, capped bool, err error) {
	n, err = e.ledger.CountDead(ctx, f, deadCountCap+1)
	if err != nil {
		return 0, false, fmt.Errorf("count dead letters: %w", err)
	}
	return min(n, deadCountCap), n > deadCountCap, nil
}

// dead applies fn, with a move of event, to a page of dead letters.
func (e *Engine) dead(ctx context.Context, f ledger.DeadFilter, event job.Event, fn func(*job.Job, job.Move) error) ([]ledger.Applied, error) {
	now, err := e.clock.now(ctx)
	if err != nil {
		return nil, err
	}
	pick := ledger.Pick{Dead: &f, Limit: job.MaxPage}
	applied, err := e.ledger.Apply(ctx, now, pick, func(j *job.Job) error { return fn(j, job.Move{Event: event, Now: now}) })
	if err != nil {
		return nil, fmt.Errorf("%s dead letters: %w", event, err)
	}
	e.follow(now, event, applied)
	return applied, nil
}

// pace spreads redriven jobs out over time. A job keeps its place if it is
// asked about twice, as a transaction that is retried does.
type pace struct {
	rate  float64
	first int
	place map[job.ID]int
}

func newPace(rate float64, first int) *pace {
	return &pace{rate: rate, first: first, place: map[job.ID]int{}}
}

func (p *pace) delay(id job.ID) time.Duration {
	if p.rate == 0 {
		return 0
	}
	i, ok := p.place[id]
	if !ok {
		i = p.first + len(p.place)
		p.place[id] = i
	}
	return time.Duration(min(float64(i)/p.rate*float64(time.Second), float64(job.MaxDelay)))
}

func checkRate(rate float64) error {
	if math.IsNaN(rate) || math.IsInf(rate, 0) || rate < 0 {
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, "rate %v is not a number of jobs a second", rate)
	}
	return nil
}
