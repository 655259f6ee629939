package rabbitmq

import (
	"context"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// silentFor is how long a queue may confirm nothing, over a good connection and
// with no alarm on, before it is deleted and made again.
//
// RabbitMQ writes down within some seconds that it has a quorum queue. A node that dies
// before leaves a queue that is there by name, has no leader and never gets one. Nothing in it is
// worth a person's getting up: what was lost is published again.
const silentFor = time.Minute

// renewPatience bounds the deletion, which RabbitMQ first tries in other ways.
const renewPatience = 30 * time.Second

// hear notes what became of a call to publish: err, or its confirmation.
func (b *Broker) hear(p *publisher, topic string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		delete(b.silent, topic)
		return
	}
	alarm, _ := p.conn.alarmed()
	if b.closed || alarm != "" || p.conn.ended() || !errors.Is(err, context.DeadlineExceeded) {
		return // it says nothing of the queue
	}
	since, before := b.silent[topic]
	switch {
	case !before:
		if len(b.silent) >= mostDeclared {
			clear(b.silent)
		}
		b.silent[topic] = time.Now()
	case time.Since(since) > b.silence:
		delete(b.silent, topic)
		b.group.Go(func() { b.renew(topic) })
	}
}

// renew deletes a queue and makes it again.
func (b *Broker) renew(topic string) {
	b.log.Warn("a queue of RabbitMQ confirms nothing; it is deleted and made again", "queue", topic)
	ctx, cancel := context.WithTimeout(b.ctx, renewPatience)
	defer cancel()
	err := b.briefly(ctx, func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(topic, false, false, false)
		return err
	})
	b.forget(topic)
	if err == nil {
		err = b.declare(ctx, topic)
	}
	if err != nil && b.ctx.Err() == nil {
		b.log.Warn("a queue of RabbitMQ could not be made again", "queue", topic, "err", err)
	}
}
