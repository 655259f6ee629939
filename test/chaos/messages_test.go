package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/errandhq/errand/internal/testenv"
)

// handful is how many messages are doubled, dropped or delayed at once.
const handful = 20

// patience bounds a visit to a broker.
const patience = 10 * time.Second

// meddler does to the messages of a broker what networks and brokers may do. It
// reaches the broker itself, past the lines that are made bad. Each method says what it did.
type meddler interface {
	// purge removes all messages.
	purge(ctx context.Context) (string, error)
	// double has some messages come twice.
	double(ctx context.Context) (string, error)
	// drop removes some messages.
	drop(ctx context.Context) (string, error)
	// delay takes some messages away and brings them back after d.
	delay(ctx context.Context, d time.Duration) (string, error)
}

// rabbit meddles with the queue of a RabbitMQ node.
type rabbit struct {
	node  *testenv.RabbitMQ
	queue func(ctx context.Context) (string, error)
}

// with runs f on a channel of its own.
func (r *rabbit) with(ctx context.Context, f func(ch *amqp.Channel, queue string) error) error {
	queue, err := r.queue(ctx)
	if err != nil {
		return err
	}
	conn, err := amqp.DialConfig(r.node.URL(), amqp.Config{Dial: amqp.DefaultDial(patience)})
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	return f(ch, queue)
}

func (r *rabbit) purge(ctx context.Context) (said string, err error) {
	err = r.with(ctx, func(ch *amqp.Channel, queue string) error {
		n, err := ch.QueuePurge(queue, false)
		said = fmt.Sprintf("%d messages", n)
		return err
	})
	return said, err
}

// take removes messages from the queue, as far as there are any.
func take(ch *amqp.Channel, queue string) (taken []amqp.Delivery, err error) {
	for len(taken) < handful {
		m, ok, err := ch.Get(queue, true)
		if err != nil || !ok {
			return taken, err
		}
		taken = append(taken, m)
	}
	return taken, nil
}

func put(ctx context.Context, ch *amqp.Channel, queue string, ms []amqp.Delivery) error {
	for _, m := range ms {
		err := ch.PublishWithContext(ctx, "", queue, false, false, amqp.Publishing{
			Headers: m.Headers, DeliveryMode: m.DeliveryMode, Expiration: m.Expiration, MessageId: m.MessageId, Body: m.Body,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *rabbit) double(ctx context.Context) (said string, err error) {
	err = r.with(ctx, func(ch *amqp.Channel, queue string) error {
		taken, err := take(ch, queue)
		said = fmt.Sprintf("%d messages", len(taken))
		return errors.Join(err, put(ctx, ch, queue, slices.Concat(taken, taken)))
	})
	return said, err
}

func (r *rabbit) drop(ctx context.Context) (said string, err error) {
	err = r.with(ctx, func(ch *amqp.Channel, queue string) error {
		taken, err := take(ch, queue)
		said = fmt.Sprintf("%d messages", len(taken))
		return err
	})
	return said, err
}

func (r *rabbit) delay(ctx context.Context, d time.Duration) (said string, err error) {
	err = r.with(ctx, func(ch *amqp.Channel, queue string) error {
		taken, err := take(ch, queue)
		said = fmt.Sprintf("%d messages", len(taken))
		pause(ctx, d)
		return errors.Join(err, put(ctx, ch, queue, taken))
	})
	return said, err
}

// log meddles with the topic of a Kafka broker. A log keeps what was read, so
// messages can be doubled and delayed that have been delivered long ago.
type log struct{ broker *testenv.Kafka }

func (l *log) with(f func(cl *kgo.Client, adm *kadm.Client) error) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(l.broker.PeerAddress()), kgo.RequestRetries(2), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	return f(cl, kadm.NewClient(cl))
}

// topic is the name of a queue's topic, which has the ledger's name in it.
func (l *log) topic(ctx context.Context, queue string) (name string, err error) {
	err = l.with(func(_ *kgo.Client, adm *kadm.Client) error {
		topics, err := adm.ListTopics(ctx)
		for _, one := range topics.Names() {
			if strings.HasPrefix(one, "errand.") && strings.HasSuffix(one, ".q."+queue) {
				name = one
			}
		}
		return err
	})
	if err == nil && name == "" {
		err = fmt.Errorf("the queue %s has no topic", queue)
	}
	return name, err
}

// cut removes all records but the last so many of each partition.
func (l *log) cut(ctx context.Context, keep int64) (said string, err error) {
	topic, err := l.topic(ctx, kafkaQueue)
	if err != nil {
		return "", err
	}
	err = l.with(func(_ *kgo.Client, adm *kadm.Client) error {
		ends, err := adm.ListEndOffsets(ctx, topic)
		if err != nil {
			return err
		}
		upTo := kadm.Offsets{}
		ends.Each(func(o kadm.ListedOffset) { upTo.AddOffset(o.Topic, o.Partition, max(0, o.Offset-keep), -1) })
		said = fmt.Sprintf("up to %v", upTo)
		removed, err := adm.DeleteRecords(ctx, upTo)
		return errors.Join(err, removed.Error())
	})
	return said, err
}

func (l *log) purge(ctx context.Context) (string, error) { return l.cut(ctx, 0) }

// drop removes records that are likely to be read already, and some that are not.
func (l *log) drop(ctx context.Context) (string, error) { return l.cut(ctx, 1) }

func (l *log) double(ctx context.Context) (string, error) { return l.delay(ctx, 0) }

// delay publishes the last records again, after d.
func (l *log) delay(ctx context.Context, d time.Duration) (said string, err error) {
	topic, err := l.topic(ctx, kafkaQueue)
	if err != nil {
		return "", err
	}
	err = l.with(func(cl *kgo.Client, adm *kadm.Client) error {
		records, err := last(ctx, cl, adm, topic)
		if err != nil {
			return err
		}
		pause(ctx, d)
		again := make([]*kgo.Record, len(records))
		for i, r := range records {
			again[i] = &kgo.Record{Topic: topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}
		}
		said = fmt.Sprintf("%d records", len(again))
		return cl.ProduceSync(ctx, again...).FirstErr()
	})
	return said, err
}

// last reads the last records of the topic, a few of each partition.
func last(ctx context.Context, cl *kgo.Client, adm *kadm.Client, topic string) ([]*kgo.Record, error) {
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	from, want := map[int32]kgo.Offset{}, 0
	ends.Each(func(o kadm.ListedOffset) {
		n := min(handful, o.Offset)
		want += int(n)
		from[o.Partition] = kgo.NewOffset().At(o.Offset - n)
	})
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	var found []*kgo.Record
	for deadline := time.Now().Add(2 * time.Second); len(found) < want && time.Now().Before(deadline); {
		// Some may have been removed: then fewer come.
		poll, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		found = append(found, cl.PollFetches(poll).Records()...)
		cancel()
	}
	return found, nil
}

// pause waits for d, as part of a fault that lasts so long.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// The meddlers must do what they say, or chaos is less than it claims: against
// messages that nobody consumes.
func TestMeddlers(t *testing.T) {
	t.Run("rabbitmq", func(t *testing.T) {
		node := testenv.StartRabbitMQ(t, testenv.RabbitMQOptions{})
		r := &rabbit{node: node, queue: func(context.Context) (string, error) { return "q", nil }}
		count := func() (n int) {
			err := r.with(t.Context(), func(ch *amqp.Channel, queue string) error {
				q, err := ch.QueueDeclare(queue, true, false, false, false, nil)
				n = q.Messages
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		count()
		fill := func(n int) {
			err := r.with(t.Context(), func(ch *amqp.Channel, queue string) error {
				return put(t.Context(), ch, queue, make([]amqp.Delivery, n))
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		fill(handful)
		tryMeddler(t, r, count, 2*handful)
	})
	t.Run("kafka", func(t *testing.T) {
		l := &log{broker: testenv.StartKafka(t, testenv.KafkaOptions{})}
		topic := "errand.x.q." + kafkaQueue
		err := l.with(func(cl *kgo.Client, adm *kadm.Client) error {
			_, err := adm.CreateTopic(t.Context(), 1, 1, nil, topic)
			for range handful {
				err = errors.Join(err, cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		count := func() (n int) {
			err := l.with(func(_ *kgo.Client, adm *kadm.Client) error {
				starts, err := adm.ListStartOffsets(t.Context(), topic)
				if err != nil {
					return err
				}
				ends, err := adm.ListEndOffsets(t.Context(), topic)
				ends.Each(func(o kadm.ListedOffset) {
					first, _ := starts.Lookup(topic, o.Partition)
					n += int(o.Offset - first.Offset)
				})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		tryMeddler(t, l, count, 2*handful)
	})
}

// tryMeddler begins with a handful of messages.
func tryMeddler(t *testing.T, m meddler, count func() int, doubled int) {
	t.Helper()
	await := func(what string, good func(n int) bool) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for !good(count()) {
			if time.Now().After(deadline) {
				t.Fatalf("after %s there are %d messages", what, count())
			}
			pause(t.Context(), 20*time.Millisecond)
		}
	}
	must := func(_ string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	await("the start", func(n int) bool { return n == handful })
	must(m.double(t.Context()))
	await("double", func(n int) bool { return n == doubled })
	must(m.delay(t.Context(), 10*time.Millisecond))
	await("delay", func(n int) bool { return n >= doubled })
	must(m.drop(t.Context()))
	await("drop", func(n int) bool { return n <= doubled-handful })
	must(m.purge(t.Context()))
	await("purge", func(n int) bool { return n == 0 })
}
