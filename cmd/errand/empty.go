package main

import (
	"context"
	"errors"
	"slices"
	"time"

	errand "github.com/errandhq/errand"
)

// errEmpty is why a worker with --until-empty ends well.
var errEmpty = errors.New("nothing is left to do")

// lookEvery is how often --until-empty looks; it ends at the second look in a
// row that finds nothing, for a job on its way from state to state could slip
// through a single one.
const lookEvery = 200 * time.Millisecond

// untilEmpty returns errEmpty when the worker has nothing left to do, a refusal
// when a queue with jobs to do is paused, or why it cannot tell.
func untilEmpty(ctx context.Context, c *errand.Client, w *workFlags) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for empty := 0; ; {
		paused, left, err := remaining(ctx, c, w)
		switch {
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		case paused != "":
			return refused("queue %s is paused and has jobs left", paused)
		case left:
			empty = 0
		default:
			if empty++; empty == 2 {
				return errEmpty
			}
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// remaining reports whether the worker's queues have jobs of its kinds that are
// not final, and names a paused one that has.
func remaining(ctx context.Context, c *errand.Client, w *workFlags) (paused string, left bool, err error) {
	queues, err := c.Queues(ctx)
	if err != nil {
		return "", false, err
	}
	for _, q := range queues {
		if !slices.Contains(w.queues, q.Queue) || q.Scheduled+q.Ready+q.Running == 0 {
			continue
		}
		has := len(w.kinds) == 0
		if !has {
			if has, err = hasKind(ctx, c, q.Queue, w.kinds); err != nil {
				return "", false, err
			}
		}
		left = left || has
		if has && q.Paused {
			return q.Queue, true, nil
		}
	}
	return "", left, nil
}

// hasKind reports whether the queue has a job of the kinds that is not final.
// The counters do not know kinds in every state, the ledger does.
func hasKind(ctx context.Context, c *errand.Client, queue string, kinds []string) (bool, error) {
	for _, kind := range kinds {
		for _, state := range []errand.State{errand.Running, errand.Ready, errand.Scheduled, errand.Running} {
			page, err := c.ListPage(ctx, errand.ListQuery{Queue: queue, Kind: kind, State: state, PageSize: 1})
			if err != nil || len(page.Jobs) > 0 {
				return err == nil, err
			}
		}
	}
	return false, nil
}
