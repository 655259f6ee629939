// Package verify holds a running Errand against its promises, from outside: it
// enqueues canaries, works them by hand and with workers of its own, with every fault
// that it can cause without harm, and reports for each promise whether it was kept, with
// the evidence where it was not.
//
// All is done on one queue, by kinds of its own, verify.…, so that no other worker takes its
// jobs and it takes nobody else's. Each check has a kind to itself: they run at the same time.
package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/auth"
)

// Config sets a run. Service, Queue, Jobs and Timeout are needed.
type Config struct {
	Service errand.Service // the server under examination
	Queue   string
	Jobs    int           // canaries of the load, at most 1000
	Timeout time.Duration // of the whole run
	Seed    uint64        // of all that is random
	// Progress, if set, is told of each check that has ended.
	Progress func(ended, total int, c Check)
}

// Status is how a check ended.
type Status string

// The ways in which a check ends.
const (
	Pass Status = "pass"
	Fail Status = "fail"
	Skip Status = "skip" // it says nothing, for the reason given
)

// Check is one promise, or a part of it, held against the server.
type Check struct {
	Promise  int      `json:"promise"` // its number in docs/guarantees.md
	Name     string   `json:"name"`
	Status   Status   `json:"status"`
	Detail   string   `json:"detail"`   // what was done and seen
	Evidence []string `json:"evidence"` // of a failure
	Seconds  float64  `json:"seconds"`
}

// Report is the answer.
type Report struct {
	OK       bool     `json:"ok"`
	Version  string   `json:"version"` // of the server
	Ledger   string   `json:"ledger"`
	Cache    string   `json:"cache"`
	Queue    string   `json:"queue"`
	Route    string   `json:"route"` // by which the queue's jobs went
	Seed     uint64   `json:"seed"`
	Jobs     int      `json:"jobs"` // stored
	Seconds  float64  `json:"seconds"`
	Checks   []Check  `json:"checks"`
	Deleted  int      `json:"deleted"`  // jobs removed at the end
	Retained int      `json:"retained"` // jobs that ended and stay for the server's retention to drop
	Left     []string `json:"left"`     // jobs that could not be ended, by id
}

// check is a check before it has run.
type check struct {
	promise int
	name    string
	run     func(ctx context.Context, b *bench) (detail string, err error)
}

// checks are all of them. Those of the ledger's own agreement come after the others have
// ended.
func checks() (first, after []check) {
	first = slices.Concat(durable, leases, stale, orderly, gentle, bounded)
	return first, truth
}

// bench is what the checks of a run share.
type bench struct {
	conf   Config
	client *errand.Client
	svc    errand.Service
	info   errand.ServerInfo
	role   auth.Role
	route  string
	ttl    time.Duration // of sessions

	mu    sync.Mutex
	ids   map[errand.ID]bool // of all jobs that may have been stored
	hands []*hand
}

// Run carries all checks out and removes what they left. The report is worth
// reading whatever the error, which says that the server could not be examined: it cannot be reached, the
// token does not allow it, the queue is paused, or ctx has ended.
func Run(ctx context.Context, conf Config) (Report, error) {
	began := time.Now()
	b := &bench{conf: conf, svc: conf.Service, client: errand.NewClient(conf.Service, nil), ids: map[errand.ID]bool{}}
	r := Report{Queue: conf.Queue, Seed: conf.Seed, Checks: []Check{}, Left: []string{}}
	run, cancel := context.WithTimeoutCause(ctx, conf.Timeout, errTime)
	defer cancel()
	err := b.prepare(run)
	r.Version, r.Ledger, r.Cache = b.info.Version, b.info.Ledger, b.info.Cache
	if err == nil {
		err = b.all(run, &r)
		r.Route = b.route
		slices.SortStableFunc(r.Checks, func(a, b Check) int { return cmp.Compare(a.Promise, b.Promise) })
		b.clear(context.WithoutCancel(ctx), &r)
	}
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil && !answers(err) && !errors.Is(context.Cause(run), errTime):
		err = &errand.Error{Code: errand.CodeUnavailable, Message: err.Error(), Err: err} // however the calls to it ended
	}
	r.Seconds = time.Since(began).Seconds()
	r.OK = err == nil && len(r.Left) == 0 && !slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Status == Fail })
	return r, err
}

// errTime is the cause of a run's end by its time-out.
var errTime = errors.New("the time-out is over")

// needed are the roles without which little can be examined.
const needed = auth.Producer | auth.Worker | auth.Viewer

// prepare finds out whether the server can be examined at all.
func (b *bench) prepare(ctx context.Context) (err error) {
	if b.info, err = b.client.ServerInfo(ctx); err != nil {
		return err
	}
	b.role = auth.Operator | needed
	if b.info.Role != "" {
		if b.role, err = auth.ParseRole(b.info.Role); err != nil {
			return err
		}
	}
	if lacks := needed &^ b.role; lacks != 0 && b.role&auth.Operator == 0 {
		return &errand.Error{Code: errand.CodePermissionDenied, Reason: "PERMISSION_DENIED", Message: fmt.Sprintf(
			"the token has the role %s; to verify a server takes %s, or operator: it lacks %s", b.role, needed, lacks)}
	}
	if err := b.unpaused(ctx); err != nil {
		return err
	}
	if err := b.alone(ctx); err != nil {
		return err
	}
	h, err := b.hand(ctx, "probe") // until clear: by it other runs know of this one
	if err != nil {
		return err
	}
	b.ttl = h.ttl
	return nil
}

// unpaused says no if the queue is paused, and finds its route, once it has jobs.
func (b *bench) unpaused(ctx context.Context) error {
	queues, err := b.client.Queues(ctx)
	if err != nil {
		return err
	}
	for _, q := range queues {
		if q.Queue != b.conf.Queue {
			continue
		}
		b.route = q.Route
		if q.Paused {
			return &errand.Error{Code: errand.CodeFailedPrecondition, Message: fmt.Sprintf(
				"the queue %s is paused: resume it (errand queues resume %s), or name another", q.Queue, q.Queue)}
		}
	}
	return nil
}

// alone refuses to share the queue with another run, which would take its jobs, and
// clears up after runs that were killed.
func (b *bench) alone(ctx context.Context) error {
	sessions, err := b.client.Sessions(ctx)
	if err != nil {
		return err
	}
	for _, s := range sessions {
		if s.State == "live" && slices.ContainsFunc(s.Kinds, isKind) && slices.Contains(s.Queues, b.conf.Queue) {
			return &errand.Error{Code: errand.CodeFailedPrecondition, Message: fmt.Sprintf(
				"another verification (%s) works on the queue %s: wait for its end, or name another queue", s.Worker, b.conf.Queue)}
		}
	}
	for _, state := range []errand.State{errand.Scheduled, errand.Ready, errand.Running, errand.Dead} {
		for j, err := range b.client.List(ctx, errand.ListQuery{Queue: b.conf.Queue, State: state, Tag: tag, PageSize: 1000}) {
			if err != nil {
				return err
			}
			if isKind(j.Kind) {
				b.remember(j.ID)
			}
		}
	}
	return b.end(ctx)
}

// all runs the checks and reports them. A server that cannot be reached ends all of them.
func (b *bench) all(ctx context.Context, r *Report) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	first, after := checks()
	total, ended := len(first)+len(after), 0
	r.Checks = make([]Check, total)
	var mu sync.Mutex
	var problem error
	one := func(i int, c check) {
		found, err := b.one(ctx, c)
		mu.Lock()
		defer mu.Unlock()
		r.Checks[i] = found
		if err != nil && problem == nil {
			problem = err
			giveUp(err)
		}
		if ended++; b.conf.Progress != nil {
			b.conf.Progress(ended, total, found)
		}
	}
	var running sync.WaitGroup
	for i, c := range first {
		running.Go(func() { one(i, c) })
	}
	running.Wait()
	for i, c := range after {
		one(len(first)+i, c)
	}
	if problem != nil {
		return problem
	}
	failed := slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Status == Fail })
	if failed && !errors.Is(context.Cause(ctx), errTime) {
		return b.unpaused(ctx) // somebody may have paused it meanwhile
	}
	return nil
}

// one runs a check. Problem says that the server could not be examined.
func (b *bench) one(ctx context.Context, c check) (found Check, problem error) {
	began := time.Now()
	found = Check{Promise: c.promise, Name: c.name, Status: Pass, Evidence: []string{}}
	detail, err := c.run(ctx, b)
	found.Detail, found.Seconds = detail, time.Since(began).Seconds()
	var broken *brokenError
	var skipped *skippedError
	switch {
	case err == nil:
	case errors.As(err, &broken):
		found.Status, found.Evidence = Fail, broken.evidence
	case errors.As(err, &skipped):
		found.Status, found.Detail = Skip, skipped.why
	case errors.Is(context.Cause(ctx), errTime):
		found.Status, found.Evidence = Fail, []string{"it had not ended when the time-out was over: " + err.Error()}
	case !answers(err):
		found.Status, found.Detail = Skip, "it could not be examined: "+err.Error()
		problem = err
	default:
		found.Status, found.Evidence = Fail, []string{"the server refused a call that it is to carry out: " + err.Error()}
	}
	return found, problem
}

// answers reports whether err is what a server says, and not that none could be reached.
func answers(err error) bool {
	e := errand.ErrorOf(err)
	return e.Code != errand.CodeUnavailable && e.Code != errand.CodeCanceled && e.Code != errand.CodeDeadlineExceeded &&
		(e.Code != errand.CodeUnknown || e.Reason != "")
}

// brokenError says that a promise was not kept.
type brokenError struct{ evidence []string }

func (e *brokenError) Error() string { return "broken: " + e.evidence[0] }

func broken(format string, args ...any) error {
	return &brokenError{[]string{fmt.Sprintf(format, args...)}}
}

// skippedError says that a check could not say anything here.
type skippedError struct{ why string }

func (e *skippedError) Error() string { return "skipped: " + e.why }

func skipped(format string, args ...any) error { return &skippedError{fmt.Sprintf(format, args...)} }
