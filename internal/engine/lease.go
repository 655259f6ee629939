package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
)

// The bounds of a Lease.
const (
	maxLeaseWait   = 30 * time.Second
	maxLeaseNames  = 1000  // queues, and kinds
	maxLeaseWaiter = 10000 // calls that wait at once in this process
)

// Lease gives a worker up to r.Max jobs, from the first of its queues that has
// any, and waits for them up to r.Wait (at most 30 s). An answer without jobs is
// no error; draining tells the worker to go to another server.
//
// Repeating a call with the same number gets the jobs of the first try, as far
// as the session still holds them. It returns job.ErrSessionLost when the
// session is not live. When ctx ends, jobs that were claimed already stay held
// under the call's number: repeating the call gets them, and the next Extend
// that neither names them nor lists the call as pending gives them back.
func (e *Engine) Lease(ctx context.Context, r LeaseRequest) (jobs []job.Job, draining bool, err error) {
	if err := checkLease(&r); err != nil {
		return nil, false, err
	}
	if e.isDraining() {
		return nil, true, nil
	}
	s, err := e.sessions.touch(r.Session, e.conf.Monotonic())
	if err != nil {
		return nil, false, err
	}
	ctx, doubtful, end, err := s.beginLease(ctx, r.Call)
	if err != nil {
		return nil, false, err
	}
	defer end()
	if doubtful {
		if jobs, err = e.heldUnder(ctx, r); err != nil || len(jobs) > 0 {
			return jobs, false, err
		}
	}
	return e.await(ctx, &r)
}

func checkLease(r *LeaseRequest) error {
	bad := func(format string, args ...any) error {
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, format, args...)
	}
	switch {
	case r.Session.IsZero():
		return bad("session_id is missing")
	case r.Call < 1:
		return bad("call %d is not positive", r.Call)
	case r.Max < 1 || r.Max > job.MaxBatch:
		return bad("max %d is not between 1 and %d", r.Max, job.MaxBatch)
	case r.Wait < 0:
		return bad("wait %s is negative", r.Wait)
	case len(r.Queues) == 0:
		return bad("no queue is named")
	}
	r.Wait = min(r.Wait, maxLeaseWait)
	return checkNames(r.Queues, r.Kinds)
}

func checkNames(queues, kinds []string) error {
	if len(queues) > maxLeaseNames || len(kinds) > maxLeaseNames {
		return job.Errorf(job.InvalidArgument, job.ReasonTooLarge, "%d queues and %d kinds; at most %d of each are allowed", len(queues), len(kinds), maxLeaseNames)
	}
	for _, q := range queues {
		if err := job.CheckName("queue", q); err != nil {
			return err
		}
	}
	for _, k := range kinds {
		if err := job.CheckName("kind", k); err != nil {
			return err
		}
	}
	return nil
}

// heldUnder returns the jobs that the session holds from an earlier try of this call.
func (e *Engine) heldUnder(ctx context.Context, r LeaseRequest) ([]job.Job, error) {
	leases, err := e.ledger.Held(ctx, []job.ID{r.Session})
	if err != nil {
		return nil, fmt.Errorf("lease: look for an earlier try: %w", err)
	}
	var ids []job.ID
	for _, l := range leases {
		if l.Call == r.Call {
			ids = append(ids, l.ID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	found, err := e.ledger.Get(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("lease: read the jobs of an earlier try: %w", err)
	}
	jobs := found[:0]
	for _, j := range found {
		if j.State == job.Running && j.Session == r.Session && j.Call == r.Call {
			jobs = append(jobs, j)
		}
	}
	return jobs, nil
}

// await hands the request to the dispatcher and waits for its answer.
func (e *Engine) await(ctx context.Context, r *LeaseRequest) ([]job.Job, bool, error) {
	w := &waiter{
		session: r.Session, call: r.Call, turn: r.Call, queues: r.Queues, kinds: r.Kinds, max: r.Max,
		kindsKey: strings.Join(r.Kinds, "\x00"), once: r.Wait == 0,
		marks: make([]uint64, len(r.Queues)), answer: make(chan leased, 1),
	}
	if err := e.dispatch.join(w, e.carried); err != nil {
		return nil, false, err
	}
	e.expectWaiters(w)
	var timeout <-chan time.Time
	if !w.once {
		t := time.NewTimer(r.Wait)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case a := <-w.answer:
		return a.jobs, false, a.err
	case <-timeout:
	case <-ctx.Done():
	case <-e.draining:
	case <-e.stopped:
	}
	if !e.dispatch.leave(w) {
		// A claim for it is under way. Its answer comes soon, and whoever
		// repeats the call must not overtake it.
		a := <-w.answer
		return a.jobs, false, a.err
	}
	if ctx.Err() != nil {
		return nil, false, ended(ctx)
	}
	return nil, e.isDraining(), nil
}
