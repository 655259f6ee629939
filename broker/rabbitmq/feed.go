package rabbitmq

import (
	"context"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/errandhq/errand/broker"
)

// mostPrefetch is the most that a quorum queue sends ahead.
const mostPrefetch = 2000

// freshFor is how long a feed that brings nothing is kept. RabbitMQ may send nothing to a
// consumer that it counts: see lull. Another channel costs little.
const freshFor = 30 * time.Second

// feed is one channel that a subscription consumes by, until gone is closed. It has a
// consumer or none: the bound of what RabbitMQ sends ahead belongs to the
// consumer and cannot change, so another bound needs another consumer.
type feed struct {
	b     *Broker
	topic string
	ch    *amqp.Channel
	bell  chan struct{} // rung when something has come, or the consumer was ended by RabbitMQ
	gone  chan struct{}

	mu       sync.Mutex
	left     bool  // by us: it may be in any state
	err      error // why it has gone, if RabbitMQ said so
	ahead    []arrival
	held     map[uint64]uint64 // tags not acknowledged, ahead or returned by Receive, and their consumers
	consumer *consumer         // nil: none
	last     uint64            // consumer's number
	came     time.Time         // the last message, or the feed itself
}

// consumer is one basic.consume.
type consumer struct {
	number   uint64
	tag      string
	prefetch int
	drained  chan struct{} // closed when nothing of it comes any more
}

// arrival is a message that RabbitMQ has sent ahead.
type arrival struct {
	amqp.Delivery
	at time.Time
}

func (b *Broker) newFeed(ctx context.Context, topic string) (*feed, error) {
	c, err := b.in.get(ctx)
	if err != nil {
		return nil, err
	}
	ch, err := b.channel(ctx, c)
	if err != nil {
		return nil, err
	}
	f := &feed{b: b, topic: topic, ch: ch, bell: make(chan struct{}, 1), gone: make(chan struct{}), held: map[uint64]uint64{}, came: time.Now()}
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	b.group.Go(func() {
		if err := <-closed; err != nil {
			f.fail(err)
		}
		close(f.gone)
	})
	return f, nil
}

// fail keeps why the feed has gone. A queue that has gone is made again.
func (f *feed) fail(err error) {
	f.mu.Lock()
	f.err = err
	f.mu.Unlock()
	if hasCode(err, amqp.NotFound) {
		f.b.forget(f.topic)
	}
}

func (b *Broker) forget(topic string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.declared, topic)
}

func (f *feed) reason() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *feed) ended() bool {
	select {
	case <-f.gone:
		return true
	default:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.left || f.ch.IsClosed()
}

// leave gives the feed up after a call whose outcome is unknown.
func (f *feed) leave() {
	f.mu.Lock()
	f.left = true
	f.mu.Unlock()
	f.b.aside(f.ch)
}

// close ends the channel, which gives back what is held. RabbitMQ hands
// acknowledgements on to a quorum queue in the background, a few at a time, and forgets those that are
// left when their channel ends. So this goes two rounds to the server before: by then it has
// heard from the queue. Some may be lost all the same, and their messages come again.
func (f *feed) close() {
	f.mu.Lock()
	c := f.consumer
	f.consumer = nil
	f.mu.Unlock()
	if c != nil && f.ch.Cancel(c.tag, false) == nil {
		_ = f.ch.Qos(1, 0, false)
	}
	_ = f.ch.Close()
}

func (f *feed) holding() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int64(len(f.held))
}

// stale reports whether the feed has nothing and has brought nothing for a while.
func (f *feed) stale() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.held) == 0 && time.Since(f.came) > f.b.fresh
}

// adjust has a consumer run whose bound fits: it may send something, and no more ahead than
// most. It keeps one of more than half of what is wanted, for another one costs two
// rounds to the server.
func (f *feed) adjust(ctx context.Context, most int) error {
	c, busy, waiting := f.state()
	if c != nil {
		room := c.prefetch - busy
		if room <= most && 2*room > most {
			return nil
		}
		if err := f.cancel(ctx); err != nil {
			return err
		}
		if _, _, waiting = f.state(); waiting > most {
			waiting = most
			if err := f.b.within(ctx, func() error { return f.giveBack(most) }); err != nil {
				return err
			}
		}
	}
	if waiting > 0 {
		return nil // first what is there
	}
	return f.consume(ctx, most)
}

// state returns the consumer, how many of its messages were returned by Receive and not
// acknowledged, and how many messages wait here for the next Receive.
func (f *feed) state() (c *consumer, busy, waiting int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.consumer == nil {
		return nil, 0, len(f.ahead)
	}
	for _, number := range f.held {
		if number == f.consumer.number {
			busy++
		}
	}
	return f.consumer, busy - f.aheadOf(f.consumer.number), len(f.ahead)
}

// aheadOf counts the messages of a consumer that wait here. f.mu is held.
func (f *feed) aheadOf(number uint64) (n int) {
	for _, a := range f.ahead {
		if f.held[a.DeliveryTag] == number {
			n++
		}
	}
	return n
}

// consume begins a consumer.
func (f *feed) consume(ctx context.Context, most int) error {
	if err := f.b.declareOnce(ctx, f.topic); err != nil {
		return err
	}
	f.mu.Lock()
	f.last++
	c := &consumer{number: f.last, prefetch: most, drained: make(chan struct{})}
	f.mu.Unlock()
	c.tag = consumerTag(c.number)
	var deliveries <-chan amqp.Delivery
	err := f.b.within(ctx, func() (err error) {
		if err = f.ch.Qos(most, 0, false); err != nil {
			return err
		}
		deliveries, err = f.ch.Consume(f.topic, c.tag, false, false, false, false, nil)
		return err
	})
	if err != nil {
		f.leave()
		return err
	}
	f.mu.Lock()
	f.consumer = c
	f.mu.Unlock()
	f.b.group.Go(func() { f.collect(c, deliveries) })
	return nil
}

// collect takes what comes for a consumer until that has ended.
func (f *feed) collect(c *consumer, deliveries <-chan amqp.Delivery) {
	for d := range deliveries {
		f.mu.Lock()
		f.came = time.Now()
		f.ahead = append(f.ahead, arrival{d, f.came})
		f.held[d.DeliveryTag] = c.number
		f.mu.Unlock()
		ring(f.bell)
	}
	f.mu.Lock()
	byItself := f.consumer == c // not by cancel: the queue was deleted, or the channel has ended
	if byItself {
		f.consumer = nil
	}
	f.mu.Unlock()
	if byItself {
		f.b.forget(f.topic)
		f.leave() // the channel's idea of the queue is that of the old one
	}
	close(c.drained)
	ring(f.bell)
}

func ring(bell chan<- struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// cancel ends the consumer, if there is one. What it has sent stays here.
func (f *feed) cancel(ctx context.Context) error {
	f.mu.Lock()
	c := f.consumer
	f.consumer = nil
	f.mu.Unlock()
	if c == nil {
		return nil
	}
	err := f.b.within(ctx, func() error {
		if err := f.ch.Cancel(c.tag, false); err != nil {
			return err
		}
		<-c.drained
		return nil
	})
	if err != nil {
		f.leave()
	}
	return err
}

// giveBack gives back what waits here, but for the first keep messages.
func (f *feed) giveBack(keep int) error {
	f.mu.Lock()
	surplus := slices.Clone(f.ahead[min(keep, len(f.ahead)):])
	f.ahead = f.ahead[:len(f.ahead)-len(surplus)]
	for _, a := range surplus {
		delete(f.held, a.DeliveryTag)
	}
	f.mu.Unlock()
	// The last one first, for RabbitMQ puts each before the others.
	for _, a := range slices.Backward(surplus) {
		if err := a.Nack(false, true); err != nil {
			return err
		}
	}
	return nil
}

// next takes at most so many of the messages that wait here; those that are too
// old are acknowledged and left out.
func (f *feed) next(ctx context.Context, most int, ttl time.Duration) ([]broker.Message, error) {
	var old []uint64
	var out []broker.Message
	now := time.Now()
	f.mu.Lock()
	for len(f.ahead) > 0 && len(out) < most {
		a := f.ahead[0]
		f.ahead[0] = arrival{}
		f.ahead = f.ahead[1:]
		if tooOld(a.Headers[sentAt], a.at, now, ttl) {
			old = append(old, a.DeliveryTag)
			continue
		}
		out = append(out, broker.Message{Body: a.Body, Tag: delivered{f, a.DeliveryTag}})
	}
	f.mu.Unlock()
	if len(old) == 0 {
		return out, nil
	}
	err := f.b.within(ctx, func() error { return f.ack(old) })
	if len(out) > 0 {
		err = nil // the next call will hear of it
	}
	return out, err
}

// ack acknowledges messages: with one frame for all that come before the first
// that is still held, and one for each other.
func (f *feed) ack(tags []uint64) error {
	f.mu.Lock()
	tags = slices.DeleteFunc(tags, func(t uint64) bool {
		_, held := f.held[t]
		delete(f.held, t)
		return !held // RabbitMQ ends the channel of one who acknowledges twice
	})
	slices.Sort(tags)
	first := uint64(0) // still held
	for t := range f.held {
		if first == 0 || t < first {
			first = t
		}
	}
	f.mu.Unlock()
	n := len(tags)
	if first > 0 {
		n, _ = slices.BinarySearch(tags, first)
	}
	if n > 0 {
		if err := f.ch.Ack(tags[n-1], true); err != nil {
			return err
		}
	}
	for _, t := range tags[n:] {
		if err := f.ch.Ack(t, false); err != nil {
			return err
		}
	}
	return nil
}
