package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// held is a settlement on its way to the ledger: with the name of the worker,
// for its failure.
type held struct {
	Settlement
	worker string
}

// Settle ends leases, and answers for each item in order: with the job's state
// now; as Repeated if the same token settled it before, whatever was said then;
// with job.ErrStale, which is counted, if the lease has gone; with
// job.ErrNotFound if there is no such job. It returns after the durable write.
// After an error of the call, such as job.ErrUnknown, repeating it is safe.
func (e *Engine) Settle(ctx context.Context, session job.ID, items []Settlement) ([]Settled, error) {
	if err := checkSettle(items); err != nil {
		return nil, err
	}
	answers := make([]Settled, len(items))
	rest, err := e.succeed(ctx, items, answers)
	if err != nil {
		return nil, fmt.Errorf("settle: %w", err)
	}
	if len(rest) == 0 {
		return answers, nil
	}
	worker := e.keeper.worker(session)
	slow := make([]held, len(rest))
	for k, i := range rest {
		slow[k] = held{Settlement: items[i], worker: worker}
	}
	settled, err := e.settles.do(ctx, slow)
	if err != nil {
		return nil, fmt.Errorf("settle: %w", err)
	}
	for k, i := range rest {
		answers[i] = settled[k]
		if errors.Is(settled[k].Err, job.ErrStale) {
			e.stale.Add(1)
			e.log.Warn("stale result refused", "job", items[i].ID, "token", items[i].Token,
				"event", items[i].Event.String(), "session", session)
		}
	}
	return answers, nil
}

func checkSettle(items []Settlement) error {
	if len(items) == 0 || len(items) > job.MaxBatch {
		return job.Errorf(job.InvalidArgument, job.ReasonTooLarge, "%d items; 1 to %d are allowed in a call", len(items), job.MaxBatch)
	}
	bytes := 0
	for i := range items {
		if err := checkSettlement(&items[i]); err != nil {
			return atItem(i, err)
		}
		bytes += len(items[i].Result)
	}
	if bytes > job.MaxBatchBytes {
		return job.Errorf(job.InvalidArgument, job.ReasonTooLarge, "the results have %d bytes; at most %d are allowed in a call", bytes, job.MaxBatchBytes)
	}
	return nil
}

func checkSettlement(s *Settlement) error {
	bad := func(format string, args ...any) error {
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, format, args...)
	}
	switch s.Event {
	case job.Succeed, job.Fail, job.Discard, job.Snooze, job.Release:
	default:
		return bad("the outcome %s is none that a worker may report", s.Event)
	}
	switch {
	case s.ID.IsZero():
		return bad("job id is missing")
	case s.Token < 1:
		return bad("token %d is not positive", s.Token)
	case s.Delay < 0 || s.Delay > job.MaxDelay:
		return bad("delay %s is not between 0 and %s", s.Delay, job.MaxDelay)
	case len(s.Result) > 0 && s.Event != job.Succeed:
		return bad("a result goes with success only")
	case len(s.Result) > job.MaxResult:
		return job.Errorf(job.InvalidArgument, job.ReasonTooLarge, "result has %d bytes; at most %d are allowed", len(s.Result), job.MaxResult)
	}
	return nil
}

// succeed takes the hot path: successes of many callers in one write. It
// answers those that went through and returns the places of the others.
func (e *Engine) succeed(ctx context.Context, items []Settlement, answers []Settled) (rest []int, err error) {
	rows := make([]ledger.Success, 0, len(items))
	for i := range items {
		if it := &items[i]; it.Event == job.Succeed {
			rows = append(rows, ledger.Success{ID: it.ID, Token: it.Token, Result: it.Result})
		} else {
			rest = append(rest, i)
		}
	}
	if len(rows) == 0 {
		return rest, nil
	}
	settled, err := e.succeeds.do(ctx, rows)
	if err != nil {
		return nil, err
	}
	var done []job.ID // for those who wait, if anybody does
	calls, _ := e.waits.calls()
	for i := range items {
		if items[i].Event != job.Succeed {
			continue
		}
		ok := settled[0].OK
		settled = settled[1:]
		if !ok {
			rest = append(rest, i)
			continue
		}
		answers[i].State = job.Succeeded
		if calls > 0 {
			done = append(done, items[i].ID)
		}
	}
	e.waits.finished(done)
	return rest, nil
}

func (e *Engine) commitSucceeds(ctx context.Context, rows []ledger.Success) ([]ledger.Succeeded, error) {
	now, err := e.clock.now(ctx)
	if err != nil {
		return nil, err
	}
	settled, err := e.ledger.Succeed(ctx, now, rows)
	e.doubts.successes(rows, settled, err)
	if err != nil {
		return nil, err
	}
	e.observeSucceeded(now, rows, settled)
	var queues []string
	for i := range settled {
		if s := &settled[i]; s.OK && s.Crashes > 0 {
			queues = add(queues, s.Queue) // its session may have another suspect
		}
	}
	e.wake(queues...)
	return settled, nil
}

// commitSettles settles by the rules, one Apply for all jobs. Of two
// settlements of one job in a batch the later waits for the next Apply.
func (e *Engine) commitSettles(ctx context.Context, items []held) ([]Settled, error) {
	answers := make([]Settled, len(items))
	left := make([]int, len(items))
	for i := range items {
		left[i] = i
	}
	for len(left) > 0 {
		var later []int
		now := make(map[job.ID]int, len(left))
		for _, i := range left {
			if _, twice := now[items[i].ID]; twice {
				later = append(later, i)
				continue
			}
			now[items[i].ID] = i
		}
		if err := e.settleOnce(ctx, items, now, answers); err != nil {
			return nil, err
		}
		left = later
	}
	return answers, nil
}

// settleOnce settles the items at the places in, by job, and writes their answers.
func (e *Engine) settleOnce(ctx context.Context, items []held, in map[job.ID]int, answers []Settled) error {
	now, err := e.clock.now(ctx)
	if err != nil {
		return err
	}
	ids := make([]job.ID, 0, len(in))
	for id := range in {
		ids = append(ids, id)
	}
	applied, err := e.applyIDs(ctx, ids, func(j *job.Job) error { return e.settle(j, &items[in[j.ID]], now) })
	if err != nil {
		e.doubts.settlements(items, in, err)
		return err
	}
	var moved []ledger.Applied
	var repeated []job.Job
	for k, a := range applied {
		it := &items[in[ids[k]]]
		answer := Settled{State: a.Job.State, Err: a.Err}
		if a.Err == nil && a.From != job.Running || errors.Is(a.Err, errRepeated) {
			answer.Repeated, answer.Err = true, nil
			repeated = append(repeated, a.Job)
			e.tellLate(now, &a, it.Token)
		} else {
			moved = append(moved, a)
		}
		answers[in[ids[k]]] = answer
	}
	e.follow(now, 0, moved)
	e.glimpse(now, repeated, nil)
	e.doubts.clear(items, in)
	return nil
}

// errRepeated leaves a job as it is: the same token settled it before.
var errRepeated = errors.New("settled before")

// settle settles a job by the rules. One that its worker completed in a
// transaction is from now on told of.
func (e *Engine) settle(j *job.Job, it *held, now time.Time) error {
	repeated, err := e.rules.Settle(j, it.Token, job.Move{
		Event: it.Event, Now: now, Result: it.Result, Delay: it.Delay,
		Failure: job.Failure{Message: it.Error, Stack: it.Stack, Worker: it.worker},
	})
	if !repeated {
		return err
	}
	if j.Call != job.CallUntold {
		return errRepeated
	}
	j.Call = 0
	return nil
}

// follow tells whoever is concerned what became of jobs: waiting workers of
// those that are ready, the promoter of those that soon will be, and
// whoever waits for those that ended. event is what moved them: see observeApplied.
func (e *Engine) follow(now time.Time, event job.Event, applied []ledger.Applied) {
	e.observeApplied(now, event, applied)
	var ready work
	var done []job.ID
	for i := range applied {
		a := &applied[i]
		if a.Err == nil && a.From == job.Running && a.Job.Crashes > 0 {
			ready.queues = add(ready.queues, a.Job.Queue) // its session may have another suspect
		}
		switch {
		case a.Err != nil:
		case a.Job.State == job.Ready:
			ready.add(&a.Job)
		case a.Job.State == job.Scheduled:
			e.promoter.expect(e, a.Job.RunAt)
		case a.Job.State.Final() || a.Job.State == job.Deleted:
			done = append(done, a.Job.ID)
		}
	}
	e.wakeFor(ready)
	e.waits.finished(done)
}
