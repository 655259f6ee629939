package errand

import (
	"context"
	"errors"
	"fmt"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// The bounds of one Settle call.
const (
	maxSettle      = 1000
	maxSettleBytes = 3 << 20
)

// settle frees the hand and leaves the settlement to the session's settler.
func (s *session) settle(l *lease, st *errandv1.Settlement) {
	st.Id, st.Token = l.id, l.job.Token
	if l.job.Kind != kindCanary {
		s.r.w.count(st.GetOutcome())
	}
	s.mu.Lock()
	over := s.over
	l.settlement = st
	if !over {
		s.returned = append(s.returned, l)
	}
	s.mu.Unlock()
	l.cancel(nil)
	s.r.hands.give(1)
	if over {
		s.log.Warn("errand: a handler returned after its worker had left; its outcome is not recorded", "job", l.job.ID, "kind", l.job.Kind)
		return
	}
	signal(s.settles)
}

func (w *Worker) count(o errandv1.Outcome) {
	switch o {
	case errandv1.Outcome_OUTCOME_SUCCEED:
		w.stats.succeeded.Add(1)
	case errandv1.Outcome_OUTCOME_FAIL:
		w.stats.failed.Add(1)
	case errandv1.Outcome_OUTCOME_DISCARD:
		w.stats.discarded.Add(1)
	case errandv1.Outcome_OUTCOME_SNOOZE:
		w.stats.snoozed.Add(1)
	case errandv1.Outcome_OUTCOME_RELEASE:
		w.stats.released.Add(1)
	}
}

// settleLoop is the session's one settler: what gathers while a call is under
// way is the next batch.
func (s *session) settleLoop() {
	for {
		batch := s.nextBatch()
		if len(batch) == 0 {
			select {
			case <-s.settles:
				continue
			case <-s.life.Done():
				return
			}
		}
		s.settleBatch(batch)
		if s.life.Err() != nil {
			return
		}
	}
}

// nextBatch takes what one call may carry.
func (s *session) nextBatch() []*lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, bytes := 0, 0
	for n < len(s.returned) && n < maxSettle {
		st := s.returned[n].settlement
		bytes += len(st.GetResult()) + len(st.GetError()) + len(st.GetStack())
		if n > 0 && bytes > maxSettleBytes {
			break
		}
		n++
	}
	batch := s.returned[:n:n]
	s.returned = s.returned[n:]
	if len(s.returned) == 0 {
		s.returned = nil
	}
	return batch
}

// settleBatch repeats the call until it is answered, the session is lost (then
// one more failure ends it), or life ends. Items that a lock held up are
// sent again.
func (s *session) settleBatch(batch []*lease) {
	for try := 0; len(batch) > 0; try++ {
		resp, err := s.settleOnce(batch)
		switch {
		case s.life.Err() != nil && err != nil:
			return // what is held is reported as left
		case err == nil && len(resp.GetResults()) == len(batch):
			batch = s.answered(batch, resp.GetResults())
			if len(batch) == 0 {
				return
			}
		case err != nil && errors.Is(fromWire(err), ErrSessionLost):
			s.lose()
			s.drop(batch, fromWire(err))
			return
		case s.isLost():
			s.drop(batch, err)
			return
		case err != nil && ErrorOf(err).Code == CodeInvalidArgument:
			s.settleRefused(batch, err)
			return
		case try == 0:
			s.log.Warn("errand: settle failed; repeating it", "jobs", len(batch), "error", err)
		}
		if sleep(s.life, backoff(try)) != nil {
			return
		}
	}
}

func (s *session) settleOnce(batch []*lease) (*errandv1.SettleResponse, error) {
	req := &errandv1.SettleRequest{SessionId: s.id.String(), Items: make([]*errandv1.Settlement, len(batch))}
	for i, l := range batch {
		req.Items[i] = l.settlement
	}
	ctx, cancel := context.WithTimeout(s.life, min(tryTimeout, max(s.ttl/2, time.Second)))
	defer cancel()
	began := time.Now()
	resp, err := s.r.c.svc.Settle(ctx, req)
	s.r.c.telemetry.settled(ctx, began, err)
	return resp, err
}

// answered takes the answered jobs out of the hands and returns those to send again.
func (s *session) answered(batch []*lease, results []*errandv1.SettleResult) (again []*lease) {
	var done []*lease
	for i, l := range batch {
		err := fromProblem(results[i].GetProblem())
		if err != nil && (ErrorOf(err).Code == CodeAborted || ErrorOf(err).Code == CodeUnavailable) {
			again = append(again, l)
			continue
		}
		if err != nil {
			s.refusedItem(l, err)
		}
		done = append(done, l)
	}
	s.forget(done)
	return again
}

// refusedItem reports a settlement that was not accepted. A stale one is never
// repeated: the job is somebody else's.
func (s *session) refusedItem(l *lease, err error) {
	if errors.Is(err, ErrStale) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrSessionLost) {
		s.r.w.stats.stale.Add(1)
	}
	s.log.Warn("errand: a settlement was refused", "job", l.job.ID, "kind", l.job.Kind,
		"outcome", l.settlement.GetOutcome(), "error", err)
}

// settleRefused handles a call that the server calls malformed. Nothing of it
// was stored. Singly the good ones go through; the bad one becomes a failed
// attempt that says why, so that it does not come back for ever unexplained.
func (s *session) settleRefused(batch []*lease, err error) {
	if len(batch) > 1 {
		for _, l := range batch {
			s.settleBatch([]*lease{l})
		}
		return
	}
	l := batch[0]
	why := fmt.Sprintf("the handler's outcome was refused: %v", fromWire(err))
	if l.settlement.GetOutcome() == errandv1.Outcome_OUTCOME_FAIL && l.settlement.GetStack() == "" && l.settlement.GetError() == why {
		s.drop(batch, err)
		return
	}
	l.settlement = &errandv1.Settlement{
		Id: l.settlement.GetId(), Token: l.settlement.GetToken(), Outcome: errandv1.Outcome_OUTCOME_FAIL, Error: clipText(why, maxMessage),
	}
	s.settleBatch(batch)
}

// drop forgets jobs whose settlement nobody will take.
func (s *session) drop(batch []*lease, err error) {
	for _, l := range batch {
		s.refusedItem(l, err)
	}
	s.forget(batch)
}

func (s *session) forget(done []*lease) {
	s.mu.Lock()
	for _, l := range done {
		s.let(l)
	}
	s.mu.Unlock()
	signal(s.settled)
}

// let takes a lease out of held, if it is there. s.mu is held.
func (s *session) let(l *lease) {
	if l.place >= len(s.held) || s.held[l.place] != l {
		return
	}
	n := len(s.held) - 1
	last := s.held[n]
	s.held[l.place], last.place = last, l.place
	s.held[n] = nil
	s.held = s.held[:n]
}
