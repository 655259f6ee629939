package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Get returns the jobs of the ids that exist, in the order of the ids.
func (e *Engine) Get(ctx context.Context, ids []job.ID) ([]job.Job, error) {
	if err := checkIDs(ids); err != nil {
		return nil, err
	}
	found, err := e.ledger.Get(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	place := make(map[job.ID]int, len(ids))
	for i, id := range slices.Backward(ids) {
		place[id] = i
	}
	slices.SortFunc(found, func(a, b job.Job) int { return place[a.ID] - place[b.ID] })
	return found, nil
}

// List returns a page of jobs, newest first.
func (e *Engine) List(ctx context.Context, q ledger.Query) ([]job.Job, error) {
	if q.Limit < 1 || q.Limit > job.MaxPage {
		return nil, job.Errorf(job.InvalidArgument, job.ReasonBadField, "page size %d is not between 1 and %d", q.Limit, job.MaxPage)
	}
	if q.Error != "" && q.State != 0 && q.State != job.Dead {
		return nil, job.Errorf(job.InvalidArgument, job.ReasonBadField, "an error text chooses among dead jobs only")
	}
	jobs, err := e.ledger.List(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	return jobs, nil
}

// errAsIs leaves a job as it is, without blame: it is so already.
var errAsIs = errors.New("already so")

// Cancel cancels jobs that do not run, and asks for the cancellation of those
// that do: then success still wins, and any other end of the lease is
// Cancelled. Cancelling twice is no error; a job that succeeded answers with
// reason BAD_TRANSITION.
func (e *Engine) Cancel(ctx context.Context, ids []job.ID) ([]JobResult, error) {
	applied, err := e.change(ctx, ids, job.Cancel, func(j *job.Job, m job.Move) error {
		if j.State == job.Cancelled || j.State == job.Running && j.CancelRequested {
			return errAsIs
		}
		return e.rules.Step(j, m)
	})
	if err != nil {
		return nil, err
	}
	for i := range applied {
		if j := &applied[i].Job; j.State == job.Running && j.CancelRequested {
			e.signalCancel(ledger.Lease{ID: j.ID, Session: j.Session, Token: j.Token})
		}
	}
	return results(ids, applied), nil
}

// Delete removes jobs in any state but running.
func (e *Engine) Delete(ctx context.Context, ids []job.ID) ([]JobResult, error) {
	applied, err := e.change(ctx, ids, job.Delete, e.rules.Step)
	if err != nil {
		return nil, err
	}
	return results(ids, applied), nil
}

// change applies fn, with a move of event, to the jobs of ids, with answers in their order.
func (e *Engine) change(ctx context.Context, ids []job.ID, event job.Event, fn func(*job.Job, job.Move) error) ([]ledger.Applied, error) {
	if err := checkIDs(ids); err != nil {
		return nil, err
	}
	now, err := e.clock.now(ctx)
	if err != nil {
		return nil, err
	}
	applied, err := e.applyIDs(ctx, ids, func(j *job.Job) error { return fn(j, job.Move{Event: event, Now: now}) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", event, err)
	}
	e.follow(now, event, applied)
	return applied, nil
}

// applyIDs is Ledger.Apply by ids, each of which may be named more than once:
// rows that are locked at first are tried again one by one, waiting for them,
// so that two such calls never wait for each other in a circle.
func (e *Engine) applyIDs(ctx context.Context, ids []job.ID, fn func(*job.Job) error) ([]ledger.Applied, error) {
	unique, place := make([]job.ID, 0, len(ids)), make(map[job.ID]int, len(ids))
	for _, id := range ids {
		if _, ok := place[id]; !ok {
			place[id] = len(unique)
			unique = append(unique, id)
		}
	}
	now, err := e.clock.now(ctx)
	if err != nil {
		return nil, err
	}
	applied, err := e.ledger.Apply(ctx, now, ledger.Pick{IDs: unique}, fn)
	if err != nil {
		return nil, err
	}
	for k := range applied {
		if !errors.Is(applied[k].Err, job.ErrBusy) {
			continue
		}
		one, err := e.ledger.Apply(ctx, now, ledger.Pick{IDs: unique[k : k+1], Wait: true}, fn)
		switch {
		case err != nil:
			// The others are committed: this one's fate is its own answer.
			applied[k].Err = fmt.Errorf("wait for job %s: %w", unique[k], err)
		case len(one) == 1:
			applied[k] = one[0]
		}
	}
	if len(unique) == len(ids) {
		return applied, nil
	}
	all := make([]ledger.Applied, len(ids))
	for i, id := range ids {
		all[i] = applied[place[id]]
	}
	return all, nil
}

func results(ids []job.ID, applied []ledger.Applied) []JobResult {
	out := make([]JobResult, len(applied))
	for i, a := range applied {
		out[i] = JobResult{Job: a.Job, Err: a.Err}
		if errors.Is(a.Err, errAsIs) {
			out[i].Err = nil
		}
		out[i].Job.ID = ids[i]
	}
	return out
}

func checkIDs(ids []job.ID) error {
	if len(ids) == 0 {
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, "no job id is named")
	}
	if len(ids) > job.MaxBatch {
		return job.Errorf(job.InvalidArgument, job.ReasonTooLarge, "%d ids; at most %d are allowed in a call", len(ids), job.MaxBatch)
	}
	for i, id := range ids {
		if id.IsZero() {
			return job.Errorf(job.InvalidArgument, job.ReasonBadID, "id %d is missing", i)
		}
	}
	return nil
}
