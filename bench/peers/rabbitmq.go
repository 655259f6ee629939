package peers

import (
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/errandhq/errand/internal/bench"
)

// rabbitSystem is RabbitMQ as a carrier: a durable quorum queue, publisher
// confirms, a channel to publish for each producer, consumers that acknowledge
// many messages at once. It keeps no state of a job.
type rabbitSystem struct {
	conn     *amqp.Connection
	channels chan *amqp.Channel // in confirm mode, for one producer at a time
}

const (
	rabbitQueue    = "bench"
	rabbitPrefetch = 2000
	rabbitAckEvery = 200
)

func openRabbitMQ(_ context.Context, address string, p bench.Plan) (bench.System, error) {
	conn, err := amqp.Dial(address)
	if err != nil {
		return nil, err
	}
	s := &rabbitSystem{conn: conn, channels: make(chan *amqp.Channel, p.Producers)}
	if err := s.open(p.Producers); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

func (s *rabbitSystem) open(producers int) error {
	for i := range producers {
		ch, err := s.conn.Channel()
		if err != nil {
			return err
		}
		if i == 0 {
			if _, err := ch.QueueDelete(rabbitQueue, false, false, false); err != nil {
				return err
			}
			if _, err := ch.QueueDeclare(rabbitQueue, true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum}); err != nil {
				return err
			}
		}
		if err := ch.Confirm(false); err != nil {
			return err
		}
		s.channels <- ch
	}
	return nil
}

// Enqueue implements bench.System: all are published before the first confirm
// is waited for.
func (s *rabbitSystem) Enqueue(ctx context.Context, payloads [][]byte) error {
	ch := <-s.channels
	defer func() { s.channels <- ch }()
	confirms := make([]*amqp.DeferredConfirmation, len(payloads))
	for i, p := range payloads {
		var err error
		confirms[i], err = ch.PublishWithDeferredConfirm("", rabbitQueue, false, false,
			amqp.Publishing{DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: p})
		if err != nil {
			return err
		}
	}
	for _, c := range confirms {
		if ok, err := c.WaitContext(ctx); err != nil || !ok {
			return fmt.Errorf("publish: confirmed %t: %w", ok, err)
		}
	}
	return nil
}

// Work implements bench.System. The last acknowledgements are followed by a call
// that the broker answers after them.
func (s *rabbitSystem) Work(_ context.Context, handle func([]byte)) (func() error, <-chan error, error) {
	ch, err := s.conn.Channel()
	if err != nil {
		return nil, nil, err
	}
	if err := ch.Qos(rabbitPrefetch, 0, false); err != nil {
		return nil, nil, err
	}
	messages, err := ch.Consume(rabbitQueue, "bench", false, false, false, false, nil)
	if err != nil {
		return nil, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- consumeRabbit(messages, handle) }()
	return func() error {
		err := ch.Cancel("bench", false)
		return errors.Join(err, <-ended, ch.Close())
	}, nil, nil
}

// consumeRabbit acknowledges in bulk while messages come without a pause, and at
// once when there is none.
func consumeRabbit(messages <-chan amqp.Delivery, handle func([]byte)) error {
	n := 0
	for m := range messages {
		handle(m.Body)
		if n++; n >= rabbitAckEvery || len(messages) == 0 {
			n = 0
			if err := m.Ack(true); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close implements bench.System.
func (s *rabbitSystem) Close() error { return s.conn.Close() }
