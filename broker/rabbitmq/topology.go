package rabbitmq

import (
	"context"
	"maps"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

const (
	// unusedFor is how long a queue without any consumer stays.
	unusedFor = 24 * time.Hour

	// deliveryLimit is out of reach within a message's life. A message is given
	// back whenever hands are busy, which says nothing against it; RabbitMQ 4 would drop
	// it after 20 times by default. That there is a limit keeps the place of
	// what is given back at the head of the queue.
	deliveryLimit = 1_000_000

	mostDeclared = 10_000 // topics remembered
)

// queueArguments are the same for all queues and never change, for RabbitMQ
// refuses to declare a queue with other arguments than it has. So the
// time-to-live, which is a setting, is a property of each message instead.
func queueArguments() amqp.Table {
	return amqp.Table{
		amqp.QueueTypeArg:  amqp.QueueTypeQuorum,
		"x-expires":        int64(unusedFor / time.Millisecond),
		"x-delivery-limit": int64(deliveryLimit),
	}
}

// declare makes the queue of a topic if it is not there.
func (b *Broker) declare(ctx context.Context, topic string) error {
	err := b.briefly(ctx, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(topic, true, false, false, false, queueArguments())
		return err
	})
	switch {
	case hasCode(err, amqp.PreconditionFailed):
		return job.Errorf(job.FailedPrecondition, job.ReasonBrokerRefused,
			"queue %s is there with other arguments than Errand's (see docs/rabbitmq.md): delete it, and Errand makes it anew; no job is lost: %w", topic, err)
	case err != nil:
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.declared) >= mostDeclared {
		clear(b.declared)
	}
	b.declared[topic] = true
	return nil
}

// declareOnce makes the queue of a topic unless this was done before.
func (b *Broker) declareOnce(ctx context.Context, topic string) error {
	b.mu.Lock()
	known := b.declared[topic]
	b.mu.Unlock()
	if known {
		return nil
	}
	return b.declare(ctx, topic)
}

// briefly runs f with a channel of its own, which a refusal would close.
func (b *Broker) briefly(ctx context.Context, f func(ch *amqp.Channel) error) error {
	c, err := b.in.get(ctx)
	if err != nil {
		return err
	}
	ch, err := b.channel(ctx, c)
	if err != nil {
		return err
	}
	defer b.aside(ch)
	return b.within(ctx, func() error { return f(ch) })
}

// Depth implements broker.Broker. RabbitMQ tells how many messages wait in the queue;
// those that this process holds are added, those that others hold are not known.
func (b *Broker) Depth(ctx context.Context, topic string) (int64, error) {
	if err := broker.CheckTopic(topic); err != nil {
		return 0, err
	}
	ctx, end, err := b.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	var waiting int64
	err = b.briefly(ctx, func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(topic, true, false, false, false, nil)
		waiting = int64(q.Messages)
		return err
	})
	switch {
	case hasCode(err, amqp.NotFound):
		return 0, nil
	case err != nil:
		return 0, b.wrap("ask for the depth of "+topic, err)
	}
	return waiting + b.holding(topic), nil
}

// holding counts what the subscriptions of a topic have and did not acknowledge.
func (b *Broker) holding(topic string) (n int64) {
	b.mu.Lock()
	subs := slices.Collect(maps.Keys(b.subs))
	b.mu.Unlock()
	for _, s := range subs {
		if s.topic == topic {
			n += s.holding()
		}
	}
	return n
}
