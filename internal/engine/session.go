package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// maxSessions bounds what this process remembers of sessions.
const maxSessions = 20000

// sessions is what this process knows of the workers that call it. It is a
// memory, not a record: whatever it lacks is read from the ledger.
type sessions struct {
	mu    sync.Mutex
	known map[job.ID]*session
}

// session is one worker as seen from here.
type session struct {
	id job.ID

	mu     sync.Mutex
	seenAt time.Duration
	// last is the largest call number seen, and bit i of window says that call
	// last-i was seen here: what is missing went to another server, or nowhere.
	last    int64
	window  uint64
	flights map[int64]*flight // Lease calls under way

	beatAt time.Duration // of the last renewal written, if state is set
	state  ledger.SessionState

	cancels   map[Held]bool // cancellation asked for; true: told
	lostTold  map[Held]bool
	drainTold bool
	waiting   int           // Extend calls that wait
	news      chan struct{} // closed, and replaced, when cancels grew
}

// flight is a Lease call under way.
type flight struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// touch returns the session, remembering it if it is new here.
func (s *sessions) touch(id job.ID, at time.Duration) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.known[id]
	if !ok {
		if len(s.known) >= maxSessions {
			return nil, job.Errorf(job.ResourceExhausted, "", "this server knows %d sessions already: try another", len(s.known))
		}
		one = &session{
			id: id, flights: map[int64]*flight{}, cancels: map[Held]bool{}, lostTold: map[Held]bool{},
			news: make(chan struct{}),
		}
		s.known[id] = one
	}
	one.mu.Lock()
	one.seenAt = at
	one.mu.Unlock()
	return one, nil
}

func (s *sessions) get(id job.ID) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[id]
}

func (s *sessions) forget(id job.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, id)
}

// prune forgets sessions not heard of since before.
func (s *sessions) prune(before time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, one := range s.known {
		one.mu.Lock()
		idle := one.seenAt < before && one.waiting == 0 && len(one.flights) == 0
		one.mu.Unlock()
		if idle {
			delete(s.known, id)
		}
	}
}

// waiting reports whether any session waits in Extend here.
func (s *sessions) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.known {
		one.mu.Lock()
		n := one.waiting
		one.mu.Unlock()
		if n > 0 {
			return true
		}
	}
	return false
}

// saw notes a call number. It reports whether it may have been seen before:
// here, or, if some of the numbers just below it were not seen here, elsewhere.
func (s *session) saw(call int64) (doubtful bool) {
	const recent = 8 // a worker's calls under way at once are fewer
	if call > s.last {
		shift := call - s.last
		s.window = s.window<<min(shift, 64) | 1
		s.last = call
		return (s.window>>1)&(1<<recent-1) != 1<<recent-1
	}
	bit := s.last - call
	if bit >= 64 {
		return true
	}
	seen := s.window>>bit&1 == 1
	s.window |= 1 << bit
	return seen || (s.window>>(bit+1))&(1<<min(recent, 63-bit)-1) != 1<<min(recent, 63-bit)-1
}

// beginLease enters a Lease call. An earlier try of the same call that is still
// under way is ended first, so that not both get jobs. doubtful says that
// the ledger may hold jobs of an earlier try.
func (s *session) beginLease(ctx context.Context, call int64) (_ context.Context, doubtful bool, end func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	mine := &flight{cancel: cancel, done: make(chan struct{})}
	for {
		s.mu.Lock()
		earlier := s.flights[call]
		if earlier == nil {
			doubtful = s.saw(call) || doubtful
			s.flights[call] = mine
			s.mu.Unlock()
			break
		}
		s.mu.Unlock()
		earlier.cancel()
		select {
		case <-earlier.done:
			doubtful = true
		case <-ctx.Done():
			cancel()
			return nil, false, nil, ended(ctx)
		}
	}
	return ctx, doubtful, func() {
		cancel()
		s.mu.Lock()
		delete(s.flights, call)
		s.mu.Unlock()
		close(mine.done)
	}, nil
}

// OpenSession opens a session for a worker and returns its time-to-live.
// Opening it again is no error, as long as it lives.
func (e *Engine) OpenSession(ctx context.Context, s ledger.Session) (ttl time.Duration, err error) {
	if err := checkSession(&s); err != nil {
		return 0, err
	}
	if e.isDraining() {
		return 0, errStopped()
	}
	now, err := e.clock.now(ctx)
	if err != nil {
		return 0, err
	}
	found, err := e.ledger.Beat(ctx, now, []job.ID{s.ID})
	if err != nil {
		return 0, fmt.Errorf("open session: %w", err)
	}
	switch found[0].State {
	case ledger.SessionLive:
		return e.conf.SessionTTL, nil
	case ledger.SessionAbsent:
	default:
		return 0, job.ErrSessionLost
	}
	s.TTL, s.State, s.Beat = e.conf.SessionTTL, ledger.SessionLive, 1
	s.OpenedAt, s.BeatAt, s.EndedAt = now, now, time.Time{}
	if err := e.ledger.OpenSession(ctx, s); err != nil {
		return 0, fmt.Errorf("open session: %w", err)
	}
	known, err := e.sessions.touch(s.ID, e.conf.Monotonic())
	if err != nil {
		return 0, err
	}
	known.mu.Lock()
	known.window = ^uint64(0) // opened here: no call went elsewhere before
	known.mu.Unlock()
	e.keeper.meet(s.ID, s.Worker)
	ring(e.routing.bell) // the queue's hands and common kinds have changed
	e.log.Info("session opened", "session", s.ID, "worker", s.Worker, "queues", s.Queues, "concurrency", s.Concurrency)
	return e.conf.SessionTTL, nil
}

func checkSession(s *ledger.Session) error {
	bad := func(format string, args ...any) error {
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, format, args...)
	}
	switch {
	case s.ID.IsZero():
		return bad("session_id is missing")
	case len(s.Worker) > 2*job.MaxName:
		return bad("worker has %d bytes; at most %d are allowed", len(s.Worker), 2*job.MaxName)
	case len(s.Version) > job.MaxName:
		return bad("version has %d bytes; at most %d are allowed", len(s.Version), job.MaxName)
	case s.Concurrency < 0 || s.Concurrency > 1_000_000:
		return bad("concurrency %d is not between 0 and 1000000", s.Concurrency)
	}
	if err := errors.Join(job.CheckText("worker", s.Worker), job.CheckText("version", s.Version)); err != nil {
		return bad("%s", err)
	}
	return checkNames(s.Queues, s.Kinds)
}

// CloseSession is a worker's last call. Without draining the session is gone at
// once; with it, it takes nothing new, and what it holds is given back,
// uncharged, once it has been silent for a moment. Closing a session that is
// gone is no error.
func (e *Engine) CloseSession(ctx context.Context, id job.ID, draining bool) error {
	if id.IsZero() {
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, "session_id is missing")
	}
	now, err := e.clock.now(ctx)
	if err != nil {
		return err
	}
	from, to := []ledger.SessionState{ledger.SessionLive, ledger.SessionDraining}, ledger.SessionAbsent
	if draining {
		from, to = from[:1], ledger.SessionDraining
	}
	moved, err := e.ledger.MoveSession(ctx, now, id, from, to, 0)
	if err != nil {
		return fmt.Errorf("close session: %w", err)
	}
	if moved {
		e.log.Info("session closed", "session", id, "draining", draining)
	}
	e.sessions.forget(id)
	e.keeper.kick()
	return nil
}

// ListSessions returns all sessions, newest first.
func (e *Engine) ListSessions(ctx context.Context) ([]ledger.Session, error) {
	list, err := e.ledger.ListSessions(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return slices.Clip(list), nil
}
