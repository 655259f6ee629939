package errand

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// session is one worker session: what it holds, and the loops that keep it.
//
// A session is active until it is fenced (no renewal succeeded for two thirds
// of its time-to-live), lost (the server says so) or drained. Then it takes no
// more jobs, but is renewed while handlers run: a handler that ignores the end of
// its context keeps its lease.
type session struct {
	r   *run
	id  ID
	ttl time.Duration
	log *slog.Logger

	active     context.Context // ends when no more jobs are to be taken
	deactivate context.CancelCauseFunc
	life       context.Context // ends when nobody is waited for any more
	end        context.CancelFunc
	loops      sync.WaitGroup

	fenceTimer *time.Timer

	mu       sync.Mutex
	call     int64
	held     []*lease           // jobs whose settle has not been answered; each knows its place
	pending  map[int64]struct{} // Lease calls without an answer
	started  []*lease           // handlers to be called
	summoned bool               // a goroutine is on its way to call one
	returned []*lease           // handlers returned: to be settled
	fenced   bool               // no renewal succeeded in time
	lost     bool               // the server knows this session no more
	over     bool               // finish has given up on what is held

	kick    chan struct{} // renew now
	settles chan struct{} // returned has grown
	settled chan struct{} // held has shrunk
}

// open opens a new session, however long it takes, until ctx ends. Of the first
// session a refusal is final: the worker is not set up well.
func (r *run) open(ctx context.Context, first bool) (*session, error) {
	s := &session{
		r: r, id: NewID(), pending: make(map[int64]struct{}),
		kick: make(chan struct{}, 1), settles: make(chan struct{}, 1), settled: make(chan struct{}, 1),
	}
	s.log = r.log.With("session", s.id.String())
	req := &errandv1.OpenSessionRequest{
		SessionId: s.id.String(), Worker: clipText(r.name, 128), Version: Version,
		Queues: r.queues, Kinds: r.kinds, Concurrency: clampInt32(r.hands.all),
	}
	for try := 0; ; try++ {
		sent := time.Now()
		tctx, cancel := context.WithTimeout(ctx, tryTimeout)
		resp, err := r.c.svc.OpenSession(tctx, req)
		cancel()
		if err == nil {
			s.begin(ctx, sent, resp.GetTtl().AsDuration())
			return s, nil
		}
		if ctx.Err() != nil {
			// The call that was cut off may have opened it: nobody would renew it.
			s.closeSession(false)
			return nil, context.Cause(ctx)
		}
		if first && !transient(ctx, err) {
			return nil, fromWire(err)
		}
		if errors.Is(fromWire(err), ErrSessionLost) {
			return r.open(ctx, false) // it died unseen, while we tried: another id
		}
		if try == 0 {
			s.log.Warn("errand: cannot open a session; trying on", "error", err)
		}
		if err := sleep(ctx, backoff(try)); err != nil {
			return nil, err
		}
	}
}

// begin starts the loops. sent is when the call that opened the session was
// sent: its time-to-live counts from then.
func (s *session) begin(ctx context.Context, sent time.Time, ttl time.Duration) {
	if ttl <= 0 {
		ttl = 30 * time.Second
	}
	s.ttl = ttl
	s.active, s.deactivate = context.WithCancelCause(ctx)
	s.life, s.end = context.WithCancel(s.r.base)
	s.fenceTimer = time.AfterFunc(time.Until(sent.Add(ttl*2/3)), s.fence)
	s.r.mu.Lock()
	s.r.sessions[s] = struct{}{}
	s.r.mu.Unlock()
	s.r.w.stats.sessions.Add(1)
	s.log.Debug("errand: session opened", "ttl", ttl)
	s.loops.Add(2)
	go func() { defer s.loops.Done(); s.renewLoop() }()
	go func() { defer s.loops.Done(); s.settleLoop() }()
}

// fence stops everything that the leases covered, because they may end before
// the server can be told: a third of the time-to-live is left for handlers to stop.
func (s *session) fence() {
	s.mu.Lock()
	if s.over || s.lost {
		s.mu.Unlock()
		return
	}
	s.fenced = true
	s.mu.Unlock()
	s.log.Error("errand: the session could not be renewed in time; its handlers are cancelled", "ttl", s.ttl)
	s.deactivate(ErrLeaseLost)
	s.cancelAll(ErrLeaseLost)
	signal(s.kick)
}

// lose does the same when the server says that the session is no more.
func (s *session) lose() {
	s.mu.Lock()
	was := s.lost
	s.lost = true
	s.mu.Unlock()
	if was {
		return
	}
	s.log.Error("errand: the session is lost; its handlers are cancelled")
	s.fenceTimer.Stop()
	s.deactivate(ErrLeaseLost)
	s.cancelAll(ErrLeaseLost)
	signal(s.settles)
}

func (s *session) isLost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// cancelAll cancels the handlers that still run.
func (s *session) cancelAll(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.held {
		l.end(cause)
	}
}

// finish waits until nothing is held, or until graceOver, ends the loops, and
// closes the session: the worker's last call for it.
func (s *session) finish(graceOver context.Context) {
	for s.holds() > 0 {
		select {
		case <-s.settled:
			continue
		case <-graceOver.Done():
		}
		break
	}
	s.mu.Lock()
	s.over = true
	var left []ID
	for _, l := range s.held { // a job is there twice if it came again before its last settle was answered
		left = append(left, l.job.ID)
		l.end(ErrShutdown)
	}
	slices.SortFunc(left, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	left = slices.Compact(left)
	lost := s.lost
	s.mu.Unlock()
	s.deactivate(ErrShutdown)
	s.end()
	s.loops.Wait()
	s.fenceTimer.Stop()
	s.r.mu.Lock()
	delete(s.r.sessions, s)
	s.r.left = append(s.r.left, left...)
	s.r.mu.Unlock()
	if !lost {
		s.closeSession(len(left) > 0)
	}
}

func (s *session) holds() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// closeSession tells the server, for at most 5 s: without it the session dies
// of itself, but its jobs would then be charged.
func (s *session) closeSession(draining bool) {
	ctx, cancel := context.WithTimeout(s.r.base, 5*time.Second)
	defer cancel()
	req := &errandv1.CloseSessionRequest{SessionId: s.id.String(), Draining: draining}
	for try := 0; ; try++ {
		_, err := s.r.c.svc.CloseSession(ctx, req)
		if err == nil || errors.Is(fromWire(err), ErrSessionLost) {
			return
		}
		if !transient(ctx, err) || sleep(ctx, backoff(try)) != nil {
			s.log.Warn("errand: could not close the session", "error", err)
			return
		}
	}
}

// renewLoop sends one Extend after another. The server keeps each for a sixth
// of the time-to-live, so that news of a cancellation find one waiting. A kick
// breaks that wait off; the Extend after it does not wait and cannot be
// broken off, so that however many kicks come, the session is renewed.
func (s *session) renewLoop() {
	failures, early, patient := 0, 0, true
	for s.life.Err() == nil && !s.isLost() {
		sent := time.Now()
		news, err := s.extend(patient)
		patient = !errors.Is(err, errKicked)
		switch {
		case err == nil:
			failures = 0
			s.renewed(sent)
		case s.life.Err() != nil:
			return
		case !patient:
		case errors.Is(fromWire(err), ErrSessionLost):
			s.lose()
			return
		default:
			if failures == 0 {
				s.log.Warn("errand: cannot renew the session; trying on", "error", fromWire(err))
			}
			failures++
		}
		if early++; !news {
			early = 0
		}
		s.pace(sent, early, failures)
	}
}

// renewed puts the fence off: the time-to-live counts from when the renewal was sent.
func (s *session) renewed(sent time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fenced && !s.lost && !s.over {
		s.fenceTimer.Reset(time.Until(sent.Add(s.ttl * 2 / 3)))
	}
}

// errKicked ends an Extend that waits at the server, to send the next.
var errKicked = errors.New("errand: renew now")

// pace waits before the next Extend: for the back-off after a failure, and
// longer with each answer that came early, so that a server which answers at
// once, again and again, is not asked without end.
func (s *session) pace(sent time.Time, early, failures int) {
	least := min(200*time.Millisecond, s.ttl/30)
	switch {
	case failures > 0:
		least = time.Since(sent) + min(backoff(failures), s.ttl/12)
	case early > 0:
		// A kick is not held up by that.
		t := time.NewTimer(min(s.ttl/12, 25*time.Millisecond<<min(early, 6), time.Second))
		defer t.Stop()
		select {
		case <-s.kick:
			signal(s.kick)
		case <-t.C:
		case <-s.life.Done():
		}
	}
	_ = sleep(s.life, time.Until(sent.Add(least))) // its error is life's end, which the loop sees
}

// extend sends one Extend and acts on the answer. news reports that the answer
// came before its time.
func (s *session) extend(patient bool) (news bool, err error) {
	select {
	case <-s.kick: // what it was for is in the request that is made now
	default:
	}
	req, notes := s.extendRequest()
	ctx, cancel := context.WithTimeout(s.life, s.ttl/3)
	defer cancel()
	kicked := func() bool { return false }
	if patient {
		req.Wait = wireDuration(s.ttl / 6)
		ctx, kicked = s.untilKicked(ctx)
	}
	at, sent := s.r.c.here(), time.Now()
	resp, err := s.r.c.svc.Extend(ctx, req)
	if kicked() {
		if err == nil {
			signal(s.kick) // it came too late to break this one off
		} else {
			err = errKicked
		}
	}
	if err != nil {
		for _, l := range notes {
			l.noteFailed()
		}
		return false, err
	}
	for _, h := range resp.GetCancelled() {
		s.cancelHeld(h, ErrCancelled)
	}
	for _, h := range resp.GetLost() {
		s.cancelHeld(h, ErrLeaseLost)
	}
	if resp.GetDraining() {
		s.r.c.leave(at)
	}
	return patient && time.Since(sent) < s.ttl/12, nil
}

// untilKicked returns a context that a kick ends. stop must be called, and
// reports whether one did.
func (s *session) untilKicked(parent context.Context) (ctx context.Context, stop func() bool) {
	ctx, cancel := context.WithCancelCause(parent)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-s.kick:
			cancel(errKicked)
		case <-ctx.Done():
		}
	}()
	return ctx, func() bool {
		cancel(nil)
		<-ended
		return errors.Is(context.Cause(ctx), errKicked)
	}
}

// extendRequest names all that is held and pending. Number and names are taken
// in one step: a job of a Lease with a smaller number is in held by now, or its
// call is pending, or it was lost on the way.
func (s *session) extendRequest() (*errandv1.ExtendRequest, []*lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call++
	req := &errandv1.ExtendRequest{
		SessionId: s.id.String(), Call: s.call,
		Held: make([]*errandv1.Held, 0, len(s.held)),
	}
	for call := range s.pending {
		req.PendingCalls = append(req.PendingCalls, call)
	}
	var notes []*lease
	for _, l := range s.held {
		req.Held = append(req.Held, &errandv1.Held{Id: l.id, Token: l.job.Token})
		if note := l.takeNote(); note != nil {
			req.Progress = append(req.Progress, &errandv1.Progress{Id: l.id, Token: l.job.Token, Note: note})
			notes = append(notes, l)
		}
	}
	return req, notes
}

// cancelHeld cancels a handler, unless it has returned: then its settle will
// get the answer.
func (s *session) cancelHeld(h *errandv1.Held, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := wireID(h.GetId())
	for _, l := range s.held {
		if l.job.ID == id && l.settlement == nil && l.job.Token == h.GetToken() {
			l.end(cause)
		}
	}
}
