package errand

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

const (
	maxLease   = 1000             // jobs a Lease
	leaseWait  = 20 * time.Second // how long the server keeps an idle Lease
	maxUnsent  = 2000             // settlements that may wait before no more jobs are taken
	overrunAge = 5 * time.Second  // after the end of its context a handler is reported
	noteEvery  = 5 * time.Second  // progress notes of a job
)

// lease is a job in the worker's hands, from its Lease's answer to its Settle's.
type lease struct {
	s       *session
	job     RawJob
	id      string // the job's, as the wire has it
	place   int    // in the session's held
	handler Handler
	ctx     jobContext
	cancel  context.CancelCauseFunc

	settlement *errandv1.Settlement // once the handler has returned
	success    errandv1.Settlement  // room for the one that most jobs get

	mu     sync.Mutex
	result []byte
	notes  *notes // nil: it left none
	ended  bool   // its context has, before the handler returned
}

// notes are the progress notes of a job.
type notes struct {
	next []byte // not sent yet
	sent []byte // on its way
	at   time.Time
}

func (l *lease) setResult(b []byte) {
	l.mu.Lock()
	l.result = b
	l.mu.Unlock()
}

func (l *lease) getResult() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.result
}

// setNote keeps a progress note for the next Extend, and asks for one if the
// job's last note is old enough.
func (l *lease) setNote(b []byte) {
	l.mu.Lock()
	if l.notes == nil {
		l.notes = &notes{}
	}
	l.notes.next = b
	due := time.Since(l.notes.at) >= noteEvery
	l.mu.Unlock()
	if due {
		signal(l.s.kick)
	}
}

// takeNote returns the note to send now, or nil.
func (l *lease) takeNote() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.notes
	if n == nil || n.next == nil || time.Since(n.at) < noteEvery {
		return nil
	}
	n.sent, n.next, n.at = n.next, nil, time.Now()
	return n.sent
}

// noteFailed takes a note back whose Extend got no answer.
func (l *lease) noteFailed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.notes
	n.at = time.Time{}
	if n.next == nil {
		n.next = n.sent
	}
}

// leaseLoop takes jobs for free hands until active ends.
func (s *session) leaseLoop(active context.Context) {
	idle := 0
	for {
		if err := s.awaitSettles(active); err != nil {
			return
		}
		n, err := s.r.hands.take(active, maxLease)
		if err != nil {
			return
		}
		started := time.Now()
		jobs, draining, err := s.lease(active, n)
		s.r.hands.give(n - len(jobs))
		s.start(jobs)
		switch {
		case active.Err() != nil:
			return
		case err != nil:
			s.log.Error("errand: lease refused; trying on", "error", fromWire(err))
			_ = sleep(active, max(backoff(5), time.Second)) // active's end is seen above
		case len(jobs) > 0 || time.Since(started) > time.Second:
			idle = 0
		case draining || time.Since(started) < 100*time.Millisecond:
			// The server does not keep the call: do not ask without end.
			_ = sleep(active, backoff(idle))
			idle = min(idle+1, 4)
		}
	}
}

// awaitSettles waits while too many settlements wait to be sent.
func (s *session) awaitSettles(ctx context.Context) error {
	for s.unsent() >= maxUnsent {
		select {
		case <-s.settled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (s *session) unsent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.returned)
}

// lease asks for at most n jobs. A call that fails on the way is repeated with its
// number, which gets the same jobs; one that is given up is followed by an
// Extend at once, which gives back what it may have taken.
func (s *session) lease(ctx context.Context, n int) (jobs []*lease, draining bool, err error) {
	req := &errandv1.LeaseRequest{
		SessionId: s.id.String(), Call: s.nextLease(), Max: clampInt32(n),
		Kinds: s.r.kinds, Wait: durationpb.New(leaseWait),
	}
	if len(s.r.queues) == 1 {
		req.Queue = s.r.queues[0]
	} else {
		req.Queues = s.r.queues
	}
	for try := 0; ; try++ {
		at := s.r.c.here()
		tctx, cancel := context.WithTimeout(ctx, leaseWait+tryTimeout/3)
		began := time.Now()
		jobs, draining, err := s.ask(tctx, req)
		cancel()
		if ctx.Err() == nil {
			s.r.c.telemetry.received(ctx, began, jobs, err)
		}
		switch {
		case err == nil:
			if draining {
				s.r.c.leave(at)
			}
			s.admit(req.GetCall(), jobs)
			return jobs, draining, nil
		case errors.Is(fromWire(err), ErrSessionLost):
			s.giveUp(req.GetCall())
			s.lose()
			return nil, false, nil
		case ctx.Err() != nil:
			s.giveUp(req.GetCall())
			return nil, false, context.Cause(ctx)
		case !transient(ctx, err):
			s.giveUp(req.GetCall())
			return nil, false, err
		}
		if try == 0 {
			s.log.Warn("errand: lease failed; repeating it", "error", fromWire(err))
		}
		_ = sleep(ctx, backoff(try)) // ctx's end is seen by the next try
	}
}

// leaser is a Service in this process, which hands jobs over without making
// messages of them: half a kilobyte and a tenth of this process's time for each.
type leaser interface {
	// LeaseJobs is Lease, but for the jobs: for each it asks for room, and fills
	// all of it that is exported. After an error it has asked for none.
	LeaseJobs(ctx context.Context, r *errandv1.LeaseRequest, room func() *RawJob) (draining bool, err error)
}

// ask makes one call.
func (s *session) ask(ctx context.Context, req *errandv1.LeaseRequest) (jobs []*lease, draining bool, err error) {
	room := func() *RawJob {
		l := &lease{s: s}
		l.job.lease = l
		jobs = append(jobs, l)
		return &l.job
	}
	if svc, ok := s.r.c.svc.(leaser); ok {
		draining, err = svc.LeaseJobs(ctx, req, room)
		return jobs, draining, err
	}
	resp, err := s.r.c.svc.Lease(ctx, req)
	for _, m := range resp.GetJobs() {
		j := room()
		j.read(m)
		j.lease.id = m.GetId()
	}
	return jobs, resp.GetDraining(), err
}

func (s *session) nextLease() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call++
	s.pending[s.call] = struct{}{}
	return s.call
}

func (s *session) giveUp(call int64) {
	s.mu.Lock()
	delete(s.pending, call)
	s.mu.Unlock()
	signal(s.kick)
}

// admit takes the jobs of an answer into the hands, in one step with the end of
// its call: no Extend sees the one without the other.
func (s *session) admit(call int64, jobs []*lease) {
	for _, l := range jobs {
		l.begin()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, call)
	for _, l := range jobs {
		l.place = len(s.held)
		s.held = append(s.held, l)
	}
}

// begin makes the handler's context.
func (l *lease) begin() {
	if l.id == "" {
		l.id = l.job.ID.String()
	}
	ctx := l.s.r.base
	if l.job.TraceParent != "" {
		ctx = ContextWithTrace(ctx, l.job.TraceParent, l.job.TraceState)
	}
	ctx, l.cancel = context.WithCancelCause(ctx)
	l.ctx = jobContext{Context: ctx, job: &l.job}
}

// jobContext is the context of a handler, which carries the job.
type jobContext struct {
	context.Context
	job *RawJob
}

// Value implements context.Context.
func (c *jobContext) Value(key any) any {
	if _, ok := key.(jobKey); ok {
		return c.job
	}
	return c.Context.Value(key)
}

// kindCanary is the kind of the jobs by which a server tests its queues. There
// is nothing to do, and no handler hears of them.
const kindCanary = "errand.canary"

// start has the jobs of an answer performed, each in a goroutine of its own if its handler takes
// its time. Those that came after the worker stopped taking any are given back without being started.
func (s *session) start(jobs []*lease) {
	stopped := s.active.Err() != nil
	ready := jobs[:0]
	for _, l := range jobs {
		l.handler = s.r.handler(l.job.Kind)
		switch {
		case l.job.Kind == kindCanary && !stopped:
			s.settle(l, &errandv1.Settlement{Outcome: errandv1.Outcome_OUTCOME_SUCCEED})
		case stopped:
			s.settle(l, &errandv1.Settlement{Outcome: errandv1.Outcome_OUTCOME_RELEASE})
		case l.handler == nil:
			s.log.Error("errand: a job came whose kind was not asked for", "job", l.job.ID, "kind", l.job.Kind, "error", errNoHandler)
			s.settle(l, &errandv1.Settlement{Outcome: errandv1.Outcome_OUTCOME_RELEASE})
		default:
			ready = append(ready, l)
		}
	}
	s.r.w.stats.started.Add(int64(len(ready)))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = append(s.started, ready...)
	s.summon()
}

// summon has one more goroutine come for a job, if any waits and none is on its way. Whoever takes a
// job summons the next: so no handler keeps others waiting, and handlers that return at once are
// called by few goroutines, whose stacks have grown already. s.mu is held.
func (s *session) summon() {
	if len(s.started) > 0 && !s.summoned {
		s.summoned = true
		go s.work()
	}
}

// work performs one job after another, until none is left.
func (s *session) work() {
	for first := true; ; first = false {
		s.mu.Lock()
		if first {
			s.summoned = false
		}
		if len(s.started) == 0 {
			s.mu.Unlock()
			return
		}
		l := s.started[0]
		s.started[0] = nil
		s.started = s.started[1:]
		s.summon()
		s.mu.Unlock()
		s.perform(l)
	}
}

// perform calls the handler and hands its outcome to the settler. A panic and
// a runtime.Goexit are failed attempts.
func (s *session) perform(l *lease) {
	var ctx context.Context = &l.ctx
	stop := func() {}
	if l.job.Timeout > 0 {
		ctx, stop = l.limited()
	}
	ctx, attempt := s.r.c.telemetry.process(ctx, &l.job)
	var st *errandv1.Settlement
	began := time.Now()
	s.r.observer.JobStarted(&l.job)
	defer func() {
		if v := recover(); v != nil {
			st = panicked(v, debug.Stack())
			s.log.Error("errand: a handler panicked", "job", l.job.ID, "kind", l.job.Kind, "panic", v)
		} else if st == nil {
			st = &errandv1.Settlement{Outcome: errandv1.Outcome_OUTCOME_FAIL, Error: "the handler ended its goroutine"}
		}
		stop()
		ran, outcome := time.Since(began), outcomeOf(st.GetOutcome())
		attempt.end(ctx, outcome, st.GetError(), ran)
		s.r.observer.JobEnded(&l.job, outcome, ran)
		s.settle(l, st)
	}()
	if err := l.handler(ctx, &l.job); err != nil {
		st = settlementOf(ctx, l.job.Timeout, err)
	} else {
		st = &l.success
		st.Outcome, st.Result = errandv1.Outcome_OUTCOME_SUCCEED, l.getResult()
	}
}

// limited returns a context that ends with the job's timeout as well, and what
// releases it.
func (l *lease) limited() (context.Context, func()) {
	ctx, cancel := context.WithTimeoutCause(&l.ctx, l.job.Timeout, ErrTimeout)
	unwatch := context.AfterFunc(ctx, func() { l.watchOverrun(context.Cause(ctx)) })
	return ctx, func() {
		unwatch()
		cancel()
	}
}

// end ends the handler's context, before the handler has returned.
func (l *lease) end(cause error) {
	l.cancel(cause)
	l.watchOverrun(cause)
}

// watchOverrun reports a handler that goes on long after the end of its context.
func (l *lease) watchOverrun(cause error) {
	l.mu.Lock()
	again := l.ended
	l.ended = true
	l.mu.Unlock()
	if again {
		return
	}
	time.AfterFunc(overrunAge, func() {
		if s := l.s; !s.hasReturned(l) {
			s.r.w.stats.overrun.Add(1)
			s.log.Warn("errand: overrun: a handler goes on after the end of its context", "job", l.job.ID, "kind", l.job.Kind, "cause", cause)
		}
	})
}

func (s *session) hasReturned(l *lease) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.settlement != nil
}
