package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/errandhq/errand/internal/insight"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// statsInterval is how often what was gathered goes to the ledger, and so what a
// crash of this process loses of the statistics.
const statsInterval = 10 * time.Second

// stats gathers what became of jobs, from the changes that this process
// commits, and folds it into the ledger's sums: the way of a job has no
// statement more for it.
type stats struct {
	recorder *insight.Recorder

	mu      sync.Mutex // one fold at a time
	pending map[ledger.Hour]ledger.Sums
	folded  time.Duration // when the last fold began
}

// newStats returns nil, which is silent, unless statistics are wanted.
func newStats(wanted bool) *stats {
	if !wanted {
		return nil
	}
	return &stats{recorder: insight.NewRecorder(insight.DefaultBounds), pending: map[ledger.Hour]ledger.Sums{}}
}

// Observe implements Observer.
func (s *stats) Observe(changes []Change) {
	if s == nil {
		return
	}
	b := s.recorder.Begin(changes[0].At)
	defer b.End()
	for i := range changes {
		if c := &changes[i]; c.Job.Kind != job.KindCanary {
			record(b, c)
		}
	}
}

// record counts a change. Its event has the number of its outcome, but for
// those that make a job ready.
func record(b *insight.Batch, c *Change) {
	j := c.Job
	switch c.Event {
	case EventEnqueue, job.Due, job.Redrive:
		if j.State == job.Ready {
			b.Count(j.Queue, j.Kind, ledger.OutcomeArrived)
		}
	case job.Lease:
		if j.Lane > job.LaneFront {
			b.Time(j.Queue, j.Kind, ledger.OutcomeLeased, j.LeasedAt.Sub(j.RunAt))
		} else {
			b.Count(j.Queue, j.Kind, ledger.OutcomeLeased) // given back before: nobody knows since when it waits
		}
	case job.Succeed, job.Fail, job.Discard, job.Snooze, job.Release, job.Crash:
		b.Time(j.Queue, j.Kind, ledger.Outcome(c.Event), c.At.Sub(j.LeasedAt))
	}
	switch c.Event {
	case job.Fail, job.Discard, job.Crash:
		b.Fail(j.Queue, j.Kind, j.LastError())
	}
	switch {
	case j.State == c.From:
	case j.State == job.Dead:
		b.Count(j.Queue, j.Kind, ledger.OutcomeDied)
	case j.State == job.Cancelled && j.Reason == job.WhyExpired:
		b.Count(j.Queue, j.Kind, ledger.OutcomeExpired)
	case j.State == job.Cancelled:
		b.Count(j.Queue, j.Kind, ledger.OutcomeCancelled)
	}
}

// repeated counts jobs that a settle found succeeded under its token: by
// CompleteTx, in a transaction that no server saw. After an answer that was lost
// it counts a success twice, which is rare.
func (s *stats) repeated(jobs []job.Job) {
	if s == nil {
		return
	}
	for i := range jobs {
		if j := &jobs[i]; j.State == job.Succeeded {
			s.Observe([]Change{{Event: job.Succeed, From: job.Running, At: j.DoneAt, Job: j}})
		}
	}
}

// runStats folds what was gathered, now and then.
func (e *Engine) runStats(ctx context.Context) {
	e.every(ctx, "statistics", statsInterval, nil, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
		defer cancel()
		return e.foldStats(ctx, 0)
	})
}

// lastStats folds what the last commits of this process left.
func (e *Engine) lastStats() {
	ctx, cancel := context.WithTimeout(context.Background(), lastPatience)
	defer cancel()
	if err := e.foldStats(ctx, 0); err != nil {
		e.log.Warn("the last statistics were not kept", "err", err)
	}
}

// lastPatience bounds how long the end of a process waits for its statistics.
const lastPatience = 3 * time.Second

// mostPending bounds the rows of an hour that wait for a ledger that takes none:
// what comes beyond it is lost.
const mostPending = 10_000

// foldStats adds what was gathered to what the ledger has, unless that began
// less than age ago. What could not be added is kept for the next time; of what may have
// been, nothing is.
func (e *Engine) foldStats(ctx context.Context, age time.Duration) error {
	s := e.stats
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	began := e.conf.Monotonic()
	if began-s.folded < age {
		return nil
	}
	for hour, sums := range s.recorder.Take() {
		if p := s.pending[hour]; len(p.Tallies)+len(p.Faults) < mostPending {
			p.Tallies, p.Faults = append(p.Tallies, sums.Tallies...), append(p.Faults, sums.Faults...)
			s.pending[hour] = p
		}
	}
	for _, hour := range slices.Sorted(maps.Keys(s.pending)) {
		added := s.pending[hour]
		err := e.ledger.FoldStats(ctx, hour, func(stored ledger.Sums) (ledger.Sums, error) {
			return insight.Fold(stored, added, insight.DefaultBounds)
		})
		if err == nil || errors.Is(err, job.ErrUnknown) {
			delete(s.pending, hour)
		}
		if err != nil {
			return fmt.Errorf("fold statistics: %w", err)
		}
	}
	s.folded = began
	return nil
}

// foldFor folds before a caller reads the sums. It is not for this caller alone,
// and does not end with the call.
func (e *Engine) foldFor(ctx context.Context, age time.Duration) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	return e.foldStats(ctx, age)
}

// Insights tells what became of jobs lately, from the ledger's sums, to which
// those of this process are added first. Those of other servers may be ten seconds old.
func (e *Engine) Insights(ctx context.Context, q insight.Query) (insight.Report, error) {
	if err := e.foldFor(ctx, 0); err != nil {
		return insight.Report{}, fmt.Errorf("insights: %w", err)
	}
	now, err := e.clock.now(ctx)
	if err != nil {
		return insight.Report{}, fmt.Errorf("insights: %w", err)
	}
	sums, err := e.ledger.ReadStats(ctx, q.From(now), q.Queue)
	if err != nil {
		return insight.Report{}, fmt.Errorf("insights: %w", err)
	}
	return insight.Make(sums, q, now)
}
