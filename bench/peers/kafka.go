package peers

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/errandhq/errand/internal/bench"
)

// kafkaSystem is Kafka as a carrier: a topic of a few partitions, an idempotent
// producer that waits for all replicas, a consumer group that commits after each
// poll. It keeps no state of a job.
type kafkaSystem struct {
	address  string
	topic    string
	producer *kgo.Client
}

const kafkaPartitions = 4

func openKafka(ctx context.Context, address string, _ bench.Plan) (bench.System, error) {
	s := &kafkaSystem{address: address, topic: "bench-" + uuid.NewString()}
	var err error
	s.producer, err = kgo.NewClient(kgo.SeedBrokers(address), kgo.DefaultProduceTopic(s.topic), kgo.ProducerLinger(time.Millisecond))
	if err != nil {
		return nil, err
	}
	if _, err := kadm.NewClient(s.producer).CreateTopic(ctx, kafkaPartitions, 1, nil, s.topic); err != nil {
		s.producer.Close()
		return nil, fmt.Errorf("create the topic: %w", err)
	}
	return s, nil
}

// Enqueue implements bench.System.
func (s *kafkaSystem) Enqueue(ctx context.Context, payloads [][]byte) error {
	records := make([]*kgo.Record, len(payloads))
	for i, p := range payloads {
		records[i] = kgo.SliceRecord(p)
	}
	return s.producer.ProduceSync(ctx, records...).FirstErr()
}

// Work implements bench.System.
func (s *kafkaSystem) Work(ctx context.Context, handle func([]byte)) (func() error, <-chan error, error) {
	c, err := kgo.NewClient(kgo.SeedBrokers(s.address), kgo.ConsumerGroup(s.topic), kgo.ConsumeTopics(s.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return nil, nil, err
	}
	working, stop := context.WithCancel(ctx)
	ended, failed := make(chan error, 1), make(chan error, 1)
	go func() {
		err := consumeKafka(ctx, working, c, handle)
		if err != nil {
			failed <- err
		}
		ended <- err
	}()
	return func() error {
		stop()
		err := <-ended
		c.Close()
		return err
	}, failed, nil
}

// consumeKafka commits, within ctx, what was handled of each poll until working ends.
func consumeKafka(ctx, working context.Context, c *kgo.Client, handle func([]byte)) error {
	for {
		fetches := c.PollFetches(working)
		if working.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) { handle(r.Value) })
		if err := c.CommitUncommittedOffsets(ctx); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
}

// Close implements bench.System. The topic is removed, so that the next
// measurement finds the disk as this one did.
func (s *kafkaSystem) Close() error {
	defer s.producer.Close()
	if _, err := kadm.NewClient(s.producer).DeleteTopic(context.Background(), s.topic); err != nil {
		return fmt.Errorf("delete the topic: %w", err)
	}
	return nil
}
