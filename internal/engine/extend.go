package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

const (
	maxHeld        = 20 * job.MaxBatch      // jobs that a worker may name in one Extend
	gatherRenewals = 500 * time.Millisecond // at most: so long a renewal waits for others
)

// Extend renews a session, which names all it holds, and tells it what has
// changed: jobs whose cancellation was asked for, and jobs that it holds no
// longer. What the ledger has under the session and it does not name came in a
// reply that was lost, and is given back uncharged, unless it is of a Lease call
// that is pending or later than this call.
//
// It answers at once when there is something new to tell, and else when there is,
// or after r.Wait (at most a sixth of the time-to-live). What was told before is
// told again, but is not news: so a handler that ignores its cancellation
// does not make its worker spin. It returns job.ErrSessionLost when the session
// is dead, closed or unknown.
func (e *Engine) Extend(ctx context.Context, r ExtendRequest) (ExtendReply, error) {
	if err := checkExtend(&r); err != nil {
		return ExtendReply{}, err
	}
	s, err := e.sessions.touch(r.Session, e.conf.Monotonic())
	if err != nil {
		return ExtendReply{}, err
	}
	s.mu.Lock()
	s.saw(r.Call)
	s.mu.Unlock()
	renewed, err := e.renew(ctx, s, &r)
	if err != nil {
		return ExtendReply{}, fmt.Errorf("extend: %w", err)
	}
	if st := renewed[0].State; st != ledger.SessionLive && st != ledger.SessionDraining {
		e.sessions.forget(r.Session)
		return ExtendReply{}, job.ErrSessionLost
	}
	e.notes.put(r.Progress)
	unnamed := s.unnamed(&r, renewed[0].Held)
	if err := e.giveBack(ctx, unnamed); err != nil {
		return ExtendReply{}, fmt.Errorf("extend: give back: %w", err)
	}
	s.compare(&r, renewed[0].Held)
	return e.awaitNews(ctx, s, &r), nil
}

// renew renews the session. A call that waits for news anyway waits for the renewals of
// others, too: not if there are news, if the session was not renewed here within a third
// of its time-to-live, or if the server stops.
func (e *Engine) renew(ctx context.Context, s *session, r *ExtendRequest) ([]ledger.Renewed, error) {
	var within time.Duration
	s.mu.Lock()
	hurry := s.news
	if _, news := s.reply(false); !news && r.Wait > 0 && s.state == ledger.SessionLive && e.conf.Monotonic()-s.beatAt < e.conf.SessionTTL/3 && !e.isDraining() {
		within = min(gatherRenewals, e.conf.SessionTTL/60, r.Wait)
	}
	s.mu.Unlock()
	return e.renewals.doWithin(ctx, []job.ID{r.Session}, within, hurry)
}

func checkExtend(r *ExtendRequest) error {
	bad := func(format string, args ...any) error {
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, format, args...)
	}
	switch {
	case r.Session.IsZero():
		return bad("session_id is missing")
	case r.Call < 1:
		return bad("call %d is not positive", r.Call)
	case r.Wait < 0:
		return bad("wait %s is negative", r.Wait)
	case len(r.Held) > maxHeld || len(r.Pending) > maxHeld:
		return job.Errorf(job.InvalidArgument, job.ReasonTooLarge, "%d jobs and %d calls named; at most %d are allowed", len(r.Held), len(r.Pending), maxHeld)
	case len(r.Progress) > job.MaxBatch:
		return job.Errorf(job.InvalidArgument, job.ReasonTooLarge, "%d progress notes; at most %d are allowed", len(r.Progress), job.MaxBatch)
	}
	for i := range r.Progress {
		if n := len(r.Progress[i].Note); n > job.MaxProgress {
			return job.Errorf(job.InvalidArgument, job.ReasonTooLarge, "progress note %d has %d bytes; at most %d are allowed", i, n, job.MaxProgress)
		}
	}
	return nil
}

// commitRenewals renews all sessions that wait for it and reads what they
// hold, in one transaction. A session renewed a moment ago is not written
// again, only read: a worker counts on a third of the time-to-live, of which that moment
// is a small part.
func (e *Engine) commitRenewals(ctx context.Context, ids []job.ID) ([]ledger.Renewed, error) {
	now, err := e.clock.now(ctx)
	if err != nil {
		return nil, err
	}
	of := make(map[job.ID]*ledger.Renewed, len(ids))
	mono, lull := e.conf.Monotonic(), min(time.Second, e.conf.SessionTTL/10)
	var due, fresh []job.ID
	for _, id := range ids {
		if of[id] != nil {
			continue
		}
		of[id] = &ledger.Renewed{}
		if s := e.sessions.get(id); s != nil {
			of[id].State = s.freshState(mono, lull)
		}
		if of[id].State == ledger.SessionAbsent {
			due = append(due, id)
		} else {
			fresh = append(fresh, id)
		}
	}
	if err := e.beat(ctx, now, mono, due, of); err != nil {
		return nil, err
	}
	if err := e.readHeld(ctx, fresh, of); err != nil {
		return nil, err
	}
	out := make([]ledger.Renewed, len(ids))
	for i, id := range ids {
		out[i] = *of[id]
	}
	return out, nil
}

// beat raises the counters of the sessions that are due.
func (e *Engine) beat(ctx context.Context, now time.Time, mono time.Duration, due []job.ID, of map[job.ID]*ledger.Renewed) error {
	if len(due) == 0 {
		return nil
	}
	found, err := e.ledger.Beat(ctx, now, due)
	if err != nil {
		return err
	}
	for i, id := range due {
		*of[id] = found[i]
		if s := e.sessions.get(id); s != nil {
			s.mu.Lock()
			s.beatAt, s.state = mono, found[i].State
			s.mu.Unlock()
		}
	}
	return nil
}

// readHeld reads what sessions hold whose last beat is of just now.
func (e *Engine) readHeld(ctx context.Context, fresh []job.ID, of map[job.ID]*ledger.Renewed) error {
	if len(fresh) == 0 {
		return nil
	}
	leases, err := e.ledger.Held(ctx, fresh)
	if err != nil {
		return err
	}
	for _, l := range leases {
		if r := of[l.Session]; r != nil {
			r.Held = append(r.Held, l)
		}
	}
	return nil
}

// freshState returns the state that a beat less than lull ago found, or
// SessionAbsent if the ledger should be asked.
func (s *session) freshState(mono, lull time.Duration) ledger.SessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mono-s.beatAt >= lull || s.state != ledger.SessionLive && s.state != ledger.SessionDraining {
		return ledger.SessionAbsent
	}
	return s.state
}

// unnamed returns the leases of which the worker, by r, knows nothing.
func (s *session) unnamed(r *ExtendRequest, leases []ledger.Lease) []ledger.Lease {
	named := make(map[Held]bool, len(r.Held))
	for _, h := range r.Held {
		named[h] = true
	}
	var out []ledger.Lease
	for _, l := range leases {
		if l.Call < r.Call && !named[Held{l.ID, l.Token}] && !slices.Contains(r.Pending, l.Call) {
			out = append(out, l)
		}
	}
	return out
}

// giveBack releases leases whose reply was lost, as far as they still stand.
func (e *Engine) giveBack(ctx context.Context, leases []ledger.Lease) error {
	for chunk := range slices.Chunk(leases, job.MaxBatch) {
		now, err := e.clock.now(ctx)
		if err != nil {
			return err
		}
		of := make(map[job.ID]ledger.Lease, len(chunk))
		ids := make([]job.ID, 0, len(chunk))
		for _, l := range chunk {
			of[l.ID] = l
			ids = append(ids, l.ID)
		}
		applied, err := e.applyIDs(ctx, ids, func(j *job.Job) error {
			if l := of[j.ID]; j.State != job.Running || j.Token != l.Token || j.Session != l.Session {
				return errAsIs
			}
			return e.rules.Step(j, job.Move{Event: job.Release, Now: now})
		})
		if err != nil {
			return err
		}
		n := 0
		for i := range applied {
			if applied[i].Err == nil {
				n++
			}
		}
		if n > 0 {
			e.log.Info("leases of a lost reply given back", "session", chunk[0].Session, "jobs", n)
		}
		e.follow(now, job.Release, applied)
	}
	return nil
}

// compare holds what the worker names against what the ledger has, and keeps
// the difference for the reply.
func (s *session) compare(r *ExtendRequest, leases []ledger.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := make(map[Held]bool, len(leases))
	for _, l := range leases {
		h := Held{l.ID, l.Token}
		have[h] = true
		if _, known := s.cancels[h]; l.CancelRequested && !known {
			s.cancels[h] = false
		}
	}
	lost := make(map[Held]bool)
	for _, h := range r.Held {
		if !have[h] {
			lost[h] = s.lostTold[h]
		}
	}
	s.lostTold = lost
	for h := range s.cancels {
		if !have[h] {
			delete(s.cancels, h)
		}
	}
}

// cancel notes that the cancellation of a job was asked for and tells the
// worker, if it waits here.
func (s *session) cancel(h Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.cancels[h]; known {
		return
	}
	s.cancels[h] = false
	close(s.news)
	s.news = make(chan struct{})
}

// reply makes the answer to r, and says whether it has news. It tells of
// cancellations whether or not r names the job: the worker may have leased it
// while this very call was waiting here.
func (s *session) reply(draining bool) (reply ExtendReply, news bool) {
	for h, told := range s.cancels {
		reply.Cancelled = append(reply.Cancelled, h)
		news = news || !told
	}
	for h, told := range s.lostTold {
		reply.Lost = append(reply.Lost, h)
		news = news || !told
	}
	reply.Draining = draining
	return reply, news || draining && !s.drainTold
}

// told notes that a reply to r was sent. The cancellation of a job that r does
// not name stays news: its Lease's reply may still be on the way.
func (s *session) told(r *ExtendRequest, reply *ExtendReply) {
	for _, h := range r.Held {
		if _, ok := s.cancels[h]; ok {
			s.cancels[h] = true
		}
	}
	for _, h := range reply.Lost {
		s.lostTold[h] = true
	}
	s.drainTold = reply.Draining
}

// awaitNews answers when there are news or the wait is over.
func (e *Engine) awaitNews(ctx context.Context, s *session, r *ExtendRequest) ExtendReply {
	timeout := time.NewTimer(min(r.Wait, e.conf.SessionTTL/6))
	defer timeout.Stop()
	draining := e.draining
	s.mu.Lock()
	s.waiting++
	defer func() {
		s.waiting--
		s.mu.Unlock()
	}()
	for over := r.Wait == 0; ; {
		reply, news := s.reply(e.isDraining())
		if reply.Draining {
			draining = nil
		}
		if news || over {
			s.told(r, &reply)
			return reply
		}
		changed := s.news
		s.mu.Unlock()
		select {
		case <-changed:
		case <-draining:
		case <-timeout.C:
			over = true
		case <-ctx.Done():
			over = true
		case <-e.stopped:
			over = true
		}
		s.mu.Lock()
	}
}

// signalCancel tells the holder of a lease, if it is connected here, that its
// cancellation was asked for. Others find out within a second.
func (e *Engine) signalCancel(l ledger.Lease) {
	if s := e.sessions.get(l.Session); s != nil {
		s.cancel(Held{l.ID, l.Token})
	}
}

// runCancelWatch finds the cancellations that were asked for at other servers,
// when the pulse has seen some.
func (e *Engine) runCancelWatch(ctx context.Context) {
	e.at(ctx, "cancel", e.cancels, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
		defer cancel()
		leases, err := e.ledger.Held(ctx, nil)
		if err != nil {
			return fmt.Errorf("look for cancellations: %w", err)
		}
		for _, l := range leases {
			if l.CancelRequested {
				e.signalCancel(l)
			}
		}
		return nil
	})
}
