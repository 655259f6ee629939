package rabbitmq

import (
	"context"
	"sync"
	"time"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

// setupPatience bounds how long a Receive may take, beyond its wait, to begin to consume.
const setupPatience = 5 * time.Second

// subscription implements broker.Subscription by one channel at a time. A lost one is
// replaced by the next Receive; RabbitMQ delivers again what it held.
type subscription struct {
	b     *Broker
	topic string
	ctx   context.Context // ends with Close
	stop  context.CancelFunc

	mu     sync.Mutex
	closed bool
	feed   *feed // nil: none
}

// Subscribe implements broker.Broker. Nothing is sent ahead before the first Receive.
func (b *Broker) Subscribe(ctx context.Context, topic string) (broker.Subscription, error) {
	if err := broker.CheckTopic(topic); err != nil {
		return nil, err
	}
	ctx, end, err := b.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := b.declare(ctx, topic); err != nil {
		return nil, b.wrap("subscribe to "+topic, err)
	}
	s := &subscription{b: b, topic: topic}
	s.ctx, s.stop = context.WithCancel(b.ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		s.stop()
		return nil, broker.ErrClosed
	}
	b.subs[s] = true
	return s, nil
}

// begin starts a call: its context ends with the subscription too.
func (s *subscription) begin(ctx context.Context) (context.Context, func(), error) {
	if s.ctx.Err() != nil {
		return nil, nil, broker.ErrClosed
	}
	ctx, end, err := s.b.begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() { stop(); cancel(); end() }, nil
}

func (s *subscription) wrap(op string, err error) error {
	if err != nil && s.ctx.Err() != nil {
		return broker.ErrClosed
	}
	return s.b.wrap(op+" "+s.topic, err)
}

// Receive implements broker.Subscription.
func (s *subscription) Receive(ctx context.Context, most int, wait time.Duration) ([]broker.Message, error) {
	if err := broker.CheckMost(most); err != nil {
		return nil, err
	}
	inner, end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	msgs, err := s.receive(inner, most, wait)
	if err != nil && ctx.Err() != nil && s.ctx.Err() == nil {
		return nil, nil // the caller's context has ended: no error
	}
	return msgs, s.wrap("receive from", err)
}

func (s *subscription) receive(ctx context.Context, most int, wait time.Duration) ([]broker.Message, error) {
	over := time.NewTimer(wait)
	defer over.Stop()
	look := time.NewTicker(s.b.fresh) // at whether the feed is stale
	defer look.Stop()
	setup, cancel := context.WithTimeout(ctx, wait+setupPatience)
	defer cancel()
	for {
		f, err := s.flowing(setup, most)
		if err != nil {
			return nil, err
		}
		msgs, err := f.next(setup, most, s.b.ttl)
		if err != nil || len(msgs) > 0 {
			return msgs, err
		}
		select {
		case <-f.bell:
		case <-f.gone:
		case <-look.C:
		case <-over.C:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// flowing returns the feed, made anew if need be, which sends most messages ahead or fewer.
func (s *subscription) flowing(ctx context.Context, most int) (*feed, error) {
	most = min(most, mostPrefetch)
	f := s.current()
	if f != nil && f.ended() {
		s.b.log.Warn("RabbitMQ ended a consumer; it is made again", "queue", s.topic, "err", f.reason())
		f = nil
	}
	if f != nil && f.stale() {
		f.leave()
		f = nil
	}
	if f == nil {
		var err error
		if f, err = s.b.newFeed(ctx, s.topic); err != nil {
			return nil, err
		}
		if !s.put(f) {
			f.close()
			return nil, broker.ErrClosed
		}
	}
	return f, f.adjust(ctx, most)
}

func (s *subscription) current() *feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.feed
}

func (s *subscription) put(f *feed) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.feed = f
	return true
}

// delivered is what a message's tag holds.
type delivered struct {
	feed *feed
	tag  uint64
}

// Ack implements broker.Subscription. AMQP has no answer to it: what RabbitMQ was told
// just before a connection breaks may come again all the same.
func (s *subscription) Ack(ctx context.Context, msgs []broker.Message) error {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	f := s.current()
	var tags []uint64
	for _, m := range msgs {
		if d, ok := m.Tag.(delivered); ok && d.feed == f && f != nil && !f.ended() {
			tags = append(tags, d.tag)
		}
	}
	if len(tags) > 0 {
		if err := s.b.within(ctx, func() error { return f.ack(tags) }); err != nil {
			return s.wrap("acknowledge messages of", err)
		}
	}
	if gone := len(msgs) - len(tags); gone > 0 {
		return s.wrap("acknowledge messages of", job.Errorf(job.Unavailable, job.ReasonBrokerDown, "%d messages of a connection that was lost: they come again", gone))
	}
	return nil
}

// Rest implements broker.Subscription.
func (s *subscription) Rest(ctx context.Context) error {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	f := s.current()
	if f == nil || f.ended() {
		return nil // RabbitMQ has it all back
	}
	if err := f.cancel(ctx); err != nil {
		return s.wrap("rest the consumer of", err)
	}
	return s.wrap("rest the consumer of", s.b.within(ctx, func() error { return f.giveBack(0) }))
}

// Close implements broker.Subscription.
func (s *subscription) Close() error {
	s.b.mu.Lock()
	delete(s.b.subs, s)
	s.b.mu.Unlock()
	s.end()
	return nil
}

// end closes the channel, which gives everything back, and waits a little for RabbitMQ's word.
func (s *subscription) end() {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	f := s.feed
	s.mu.Unlock()
	s.stop()
	if was || f == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	_ = s.b.within(ctx, func() error { f.close(); return nil })
}

func (s *subscription) holding() int64 {
	f := s.current()
	if f == nil || f.ended() {
		return 0
	}
	return f.holding()
}
