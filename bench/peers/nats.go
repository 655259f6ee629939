package peers

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/errandhq/errand/internal/bench"
)

// natsSystem is NATS JetStream as a carrier: a work-queue stream on disk, whose
// server syncs at its default interval rather than before it answers,
// asynchronous publishing and a pull consumer. It keeps no state of a job.
type natsSystem struct {
	conn   *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
}

const natsPending = 5000

func openNATS(ctx context.Context, address string, _ bench.Plan) (bench.System, error) {
	conn, err := nats.Connect(address)
	if err != nil {
		return nil, err
	}
	s := &natsSystem{conn: conn}
	if err := s.open(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *natsSystem) open(ctx context.Context) (err error) {
	if s.js, err = jetstream.New(s.conn, jetstream.WithPublishAsyncMaxPending(natsPending)); err != nil {
		return err
	}
	if err := s.js.DeleteStream(ctx, "bench"); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	s.stream, err = s.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "bench", Subjects: []string{"bench"}, Storage: jetstream.FileStorage, Retention: jetstream.WorkQueuePolicy,
	})
	return err
}

// Enqueue implements bench.System.
func (s *natsSystem) Enqueue(ctx context.Context, payloads [][]byte) error {
	acks := make([]jetstream.PubAckFuture, len(payloads))
	for i, p := range payloads {
		var err error
		if acks[i], err = s.js.PublishAsync("bench", p); err != nil {
			return err
		}
	}
	for _, a := range acks {
		select {
		case <-a.Ok():
		case err := <-a.Err():
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Work implements bench.System. The end waits for an answer of the server that
// comes after it has read the last acknowledgement.
func (s *natsSystem) Work(ctx context.Context, handle func([]byte)) (func() error, <-chan error, error) {
	c, err := s.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10 * natsPending,
	})
	if err != nil {
		return nil, nil, err
	}
	var acked atomic.Pointer[error]
	working, err := c.Consume(func(m jetstream.Msg) {
		handle(m.Data())
		if err := m.Ack(); err != nil {
			acked.Store(&err)
		}
	}, jetstream.PullMaxMessages(natsPending))
	if err != nil {
		return nil, nil, err
	}
	return func() error {
		working.Drain()
		<-working.Closed()
		err := s.conn.Flush()
		if e := acked.Load(); e != nil {
			err = errors.Join(err, *e)
		}
		return errors.Join(err, s.stream.DeleteConsumer(context.WithoutCancel(ctx), c.CachedInfo().Name))
	}, nil, nil
}

// Close implements bench.System.
func (s *natsSystem) Close() error { s.conn.Close(); return nil }
