package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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

	turn    turn // one fold or reading at a time: of what is being folded, neither more nor less is told
	pending map[ledger.Hour]*insight.Pile
}

// newStats returns nil, which is silent, unless statistics are wanted.
func newStats(wanted bool) *stats {
	if !wanted {
		return nil
	}
	return &stats{
		recorder: insight.NewRecorder(insight.DefaultBounds), pending: map[ledger.Hour]*insight.Pile{},
		turn: newTurn(),
	}
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

// runStats folds what was gathered, now and then.
func (e *Engine) runStats(ctx context.Context) {
	e.every(ctx, "statistics", statsInterval, nil, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
		defer cancel()
		return e.foldStats(ctx)
	})
}

// lastStats folds what the last commits of this process left.
func (e *Engine) lastStats() {
	ctx, cancel := context.WithTimeout(context.Background(), lastPatience)
	defer cancel()
	if err := e.foldStats(ctx); err != nil {
		e.log.Warn("the last statistics were not kept", "err", err)
	}
}

// lastPatience bounds how long the end of a process waits for its statistics.
const lastPatience = 3 * time.Second

// foldStats adds what was gathered to what the ledger has. What could not be
// added is kept for the next time; of what may have been, nothing is.
func (e *Engine) foldStats(ctx context.Context) error {
	s := e.stats
	if s == nil {
		return nil
	}
	free, err := s.turn.take(ctx)
	if err != nil {
		return err
	}
	defer free()
	if err := s.gather(); err != nil {
		return err
	}
	for _, hour := range slices.Sorted(maps.Keys(s.pending)) {
		added := s.pending[hour].Sums()
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
	return nil
}

// gather takes what the recorder has to what waits for the ledger, which is
// bounded as an hour in the ledger is. It is called by whoever has the turn.
func (s *stats) gather() error {
	for hour, sums := range s.recorder.Take() {
		if s.pending[hour] == nil {
			s.pending[hour] = insight.NewPile(insight.DefaultBounds)
		}
		if err := s.pending[hour].Add(sums); err != nil {
			return fmt.Errorf("gather statistics: %w", err)
		}
	}
	return nil
}

// readStats passes on what this process has not folded yet, and then what the
// ledger has, as ledger.Stats does: a row may come in two parts. Nothing is
// written, so that those who ask often cost no more than a look.
func (e *Engine) readStats(ctx context.Context, from ledger.Hour, queue string, tally func(ledger.Tally) bool, fault func(ledger.Fault) bool) error {
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	if s := e.stats; s != nil {
		free, err := s.turn.take(ctx)
		if err != nil {
			return err
		}
		defer free()
		if err := s.gather(); err != nil {
			return err
		}
		if !s.tell(from, queue, tally, fault) {
			return nil
		}
	}
	return e.ledger.ReadStats(ctx, from, queue, tally, fault)
}

// tell passes on what waits for the ledger, and says whether more is wanted.
func (s *stats) tell(from ledger.Hour, queue string, tally func(ledger.Tally) bool, fault func(ledger.Fault) bool) bool {
	for hour, pile := range s.pending {
		if hour < from {
			continue
		}
		sums := pile.Sums()
		for _, t := range sums.Tallies {
			if (queue == "" || t.Queue == queue) && !tally(t) {
				return false
			}
		}
		for _, f := range sums.Faults {
			if fault != nil && (queue == "" || f.Queue == queue) && !fault(f) {
				return false
			}
		}
	}
	return true
}
