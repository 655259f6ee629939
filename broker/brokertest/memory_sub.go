package brokertest

import (
	"context"
	"time"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

// memorySub sends nothing ahead. Its fields are of the carrier's lock.
type memorySub struct {
	m      *Memory
	topic  *memoryTopic
	held   map[*memoryItem]bool
	closed bool
}

// Receive implements broker.Subscription.
func (s *memorySub) Receive(ctx context.Context, most int, wait time.Duration) ([]broker.Message, error) {
	if err := broker.CheckMost(most); err != nil {
		return nil, err
	}
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		msgs, changed, err := s.look(most)
		if err != nil || len(msgs) > 0 {
			return msgs, err
		}
		select {
		case <-changed:
		case <-over.C:
			return nil, nil
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// look takes what is there; if nothing is, it returns what tells of a change.
func (s *memorySub) look(most int) ([]broker.Message, <-chan struct{}, error) {
	c := s.m.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.refusal(context.Background()); err != nil {
		return nil, nil, err
	}
	if c.stalled {
		return nil, c.changed, nil
	}
	s.topic.expire(c.ttl)
	n := min(most, len(s.topic.waiting))
	msgs := make([]broker.Message, n)
	for i, it := range s.topic.waiting[:n] {
		msgs[i] = broker.Message{Body: it.body, Tag: it}
		s.held[it] = true
	}
	s.topic.waiting = s.topic.waiting[n:]
	s.topic.held += n
	return msgs, c.changed, nil
}

func (s *memorySub) refusal(ctx context.Context) error {
	if s.closed {
		return broker.ErrClosed
	}
	return s.m.refusal(ctx)
}

// Ack implements broker.Subscription.
func (s *memorySub) Ack(ctx context.Context, msgs []broker.Message) error {
	s.m.c.mu.Lock()
	defer s.m.c.mu.Unlock()
	if err := s.refusal(ctx); err != nil {
		return err
	}
	gone := 0
	for _, m := range msgs {
		it, _ := m.Tag.(*memoryItem)
		if !s.held[it] {
			gone++
			continue
		}
		delete(s.held, it)
		s.topic.held--
	}
	if gone > 0 {
		return job.Errorf(job.Unavailable, job.ReasonBrokerDown, "%d messages are not held any more: they come again", gone)
	}
	return nil
}

// Rest implements broker.Subscription.
func (s *memorySub) Rest(ctx context.Context) error {
	s.m.c.mu.Lock()
	defer s.m.c.mu.Unlock()
	return s.refusal(ctx)
}

// Close implements broker.Subscription.
func (s *memorySub) Close() error {
	s.m.change(func(*carrier) { s.end() })
	return nil
}

func (s *memorySub) end() {
	s.giveBack()
	s.closed = true
	delete(s.m.subs, s)
}

func (s *memorySub) giveBack() {
	for it := range s.held {
		s.topic.waiting = append(s.topic.waiting, it)
		s.topic.held--
	}
	clear(s.held)
}
