package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/errandhq/errand/internal/insight"
	"github.com/errandhq/errand/ledger"
)

// reports lets one report be made at a time, however many ask.
type reports struct {
	turn turn
	last reported
}

// reported is a report for those who asked for it before it was begun.
type reported struct {
	insight.Query
	insight.Report
	begun time.Duration
}

func newReports() *reports { return &reports{turn: newTurn()} }

// turn is had by one at a time, and waited for no longer than a context lasts.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for the turn, and returns what gives it back.
func (t turn) take(ctx context.Context) (free func(), err error) {
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, ended(ctx)
	}
}

// Insights tells what became of jobs lately, from the ledger's sums and what
// this process has not added to them yet. Those of other servers may be ten seconds old.
//
// One report is made at a time; who waits for one and wants the same has it too.
func (e *Engine) Insights(ctx context.Context, q insight.Query) (insight.Report, error) {
	asked := e.conf.Monotonic()
	free, err := e.reports.turn.take(ctx)
	if err != nil {
		return insight.Report{}, fmt.Errorf("insights: %w", err)
	}
	defer free()
	last := &e.reports.last
	if last.Query == q && last.begun > asked {
		return last.Report, nil
	}
	begun := e.conf.Monotonic()
	r, err := e.makeReport(ctx, q)
	if err != nil {
		return insight.Report{}, fmt.Errorf("insights: %w", err)
	}
	*last = reported{q, r, begun}
	return r, nil
}

// makeReport reads the sums row by row: it holds a report, not the history.
func (e *Engine) makeReport(ctx context.Context, q insight.Query) (insight.Report, error) {
	now, err := e.clock.now(ctx)
	if err != nil {
		return insight.Report{}, err
	}
	draft := insight.NewDraft(q, now)
	var bad error
	err = e.readStats(ctx, q.From(now), q.Queue,
		func(t ledger.Tally) bool { bad = draft.Tally(t); return bad == nil },
		func(f ledger.Fault) bool { draft.Fault(f); return true })
	if err == nil {
		err = bad
	}
	if err != nil {
		return insight.Report{}, err
	}
	return draft.Report(), nil
}
