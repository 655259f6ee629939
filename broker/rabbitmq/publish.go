package rabbitmq

import (
	"context"
	"fmt"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

const (
	maxPublishers = 8   // channels; more calls at a time wait
	inFlight      = 256 // messages of one call that wait for their confirmation
)

// lull is how long a queue that was deleted stays away, so that its consumers hear of it: to
// RabbitMQ they would belong to the new queue of that name, which sends them nothing.
const lull = time.Second

// sentAt is the header that holds when a message was published, in milliseconds:
// the property that AMQP has for it counts seconds.
const sentAt = "errand-sent-at"

// publisher is a channel in confirm mode. One call at a time has it.
type publisher struct {
	conn    *conn
	ch      *amqp.Channel
	returns chan amqp.Return
	closed  chan *amqp.Error
}

// Publish implements broker.Broker. Messages that no queue takes, because
// somebody deleted it, come back; the queue is made again, once, and they are sent again.
func (b *Broker) Publish(ctx context.Context, topic string, bodies [][]byte) error {
	if err := broker.CheckTopic(topic); err != nil {
		return err
	}
	if err := broker.CheckBodies(bodies); err != nil {
		return err
	}
	ctx, end, err := b.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	return b.wrap(fmt.Sprintf("publish %d messages to %s", len(bodies), topic), b.publish(ctx, topic, bodies))
}

func (b *Broker) publish(ctx context.Context, topic string, bodies [][]byte) error {
	if err := b.declareOnce(ctx, topic); err != nil {
		return err
	}
	back, err := b.send(ctx, topic, bodies)
	if err != nil || len(back) == 0 {
		return err
	}
	b.log.Warn("RabbitMQ gave messages back: the queue had gone, and is made again", "queue", topic, "messages", len(back))
	sleep(ctx, lull)
	if err := b.declare(ctx, topic); err != nil {
		return err
	}
	if back, err = b.send(ctx, topic, back); err == nil && len(back) > 0 {
		err = job.Errorf(job.Unavailable, job.ReasonBrokerDown, "RabbitMQ gave %d messages back twice: somebody deletes the queue", len(back))
	}
	return err
}

// send sends all bodies and returns those that came back.
func (b *Broker) send(ctx context.Context, topic string, bodies [][]byte) (back [][]byte, err error) {
	p, err := b.take(ctx)
	if err != nil {
		return nil, err
	}
	for len(bodies) > 0 && err == nil {
		n := min(inFlight, len(bodies))
		var some [][]byte
		some, err = b.sendSome(ctx, p, topic, bodies[:n])
		back, bodies = append(back, some...), bodies[n:]
	}
	b.giveBack(p, err == nil)
	b.hear(p, topic, err)
	return back, err
}

// take waits for one of the channels to publish by.
func (b *Broker) take(ctx context.Context) (*publisher, error) {
	select {
	case b.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p, err := b.publisher(ctx)
	if err != nil {
		<-b.slots
	}
	return p, err
}

func (b *Broker) publisher(ctx context.Context) (*publisher, error) {
	c, err := b.out.get(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.awaitRoom(ctx); err != nil {
		return nil, err
	}
	for p := b.popIdle(); p != nil; p = b.popIdle() {
		if p.conn == c && !p.ch.IsClosed() {
			return p, nil
		}
	}
	ch, err := b.channel(ctx, c)
	if err != nil {
		return nil, err
	}
	p := &publisher{conn: c, ch: ch, returns: ch.NotifyReturn(make(chan amqp.Return, inFlight)), closed: ch.NotifyClose(make(chan *amqp.Error, 1))}
	if err := b.within(ctx, func() error { return ch.Confirm(false) }); err != nil {
		b.aside(ch)
		return nil, err
	}
	return p, nil
}

func (b *Broker) popIdle() *publisher {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.idle) == 0 {
		return nil
	}
	p := b.idle[len(b.idle)-1]
	b.idle = b.idle[:len(b.idle)-1]
	return p
}

// giveBack keeps a channel for the next call, unless answers to this one may
// still come.
func (b *Broker) giveBack(p *publisher, clean bool) {
	if clean {
		b.mu.Lock()
		b.idle = append(b.idle, p)
		b.mu.Unlock()
	} else {
		b.aside(p.ch)
	}
	<-b.slots
}

// awaitRoom waits while RabbitMQ takes no messages: it would just not read what is sent.
func (c *conn) awaitRoom(ctx context.Context) error {
	for {
		alarm, changed := c.alarmed()
		if alarm == "" {
			return nil
		}
		select {
		case <-changed:
		case <-c.gone:
			return amqp.ErrClosed
		case <-ctx.Done():
			return blocked(alarm, ctx.Err())
		}
	}
}

func blocked(alarm string, err error) error {
	return job.Errorf(job.Unavailable, job.ReasonBrokerDown, "RabbitMQ takes no messages (%s); free memory or disk on its nodes: %w", alarm, err)
}

// sendSome sends bodies, at most inFlight, waits for what becomes of each, and
// returns those that came back.
func (b *Broker) sendSome(ctx context.Context, p *publisher, topic string, bodies [][]byte) ([][]byte, error) {
	sent := make([]*amqp.DeferredConfirmation, len(bodies))
	err := b.within(ctx, func() error {
		for i, body := range bodies {
			var err error
			if sent[i], err = p.ch.PublishWithDeferredConfirm("", topic, true, false, b.publishing(i, body)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, p.explain(err)
	}
	for _, s := range sent {
		select {
		case <-s.Done():
		case <-ctx.Done():
			return nil, p.explain(ctx.Err())
		}
		if !s.Acked() {
			return nil, p.explain(p.unconfirmed())
		}
	}
	return p.returned(bodies)
}

// unconfirmed is the error of a message that RabbitMQ, or the end of the channel, has refused.
func (p *publisher) unconfirmed() error {
	if p.ch.IsClosed() {
		return amqp.ErrClosed
	}
	return job.Errorf(job.Unavailable, job.ReasonBrokerDown, "RabbitMQ could not store a message: too few nodes that hold the queue are up")
}

// explain says what is behind an error: RabbitMQ has closed the channel and said why, or an alarm is on.
func (p *publisher) explain(err error) error {
	select {
	case reason := <-p.closed:
		if reason != nil {
			return reason
		}
	default:
	}
	if alarm, _ := p.conn.alarmed(); alarm != "" {
		return blocked(alarm, err)
	}
	return err
}

// returned reads what came back: RabbitMQ sends that before the confirmation.
func (p *publisher) returned(bodies [][]byte) (back [][]byte, err error) {
	for {
		select {
		case r, open := <-p.returns:
			i, err := strconv.Atoi(r.MessageId)
			if !open || err != nil || i < 0 || i >= len(bodies) {
				return nil, amqp.ErrClosed
			}
			back = append(back, bodies[i])
		default:
			return back, nil
		}
	}
}

func (b *Broker) publishing(i int, body []byte) amqp.Publishing {
	return amqp.Publishing{
		Headers:      amqp.Table{sentAt: time.Now().UnixMilli()},
		DeliveryMode: amqp.Persistent,
		Expiration:   strconv.FormatInt(max(b.ttl.Milliseconds(), 1), 10),
		MessageId:    strconv.Itoa(i),
		Body:         body,
	}
}
