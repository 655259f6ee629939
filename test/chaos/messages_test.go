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

const (
	patience = 10 * time.Second // bounds a visit to a broker
	moment   = 3 * time.Second  // how long it is waited there for messages
)

// meddler does to the messages of a broker what networks and brokers may do. It
// reaches the broker itself, past the lines that are made bad. Each method waits a
// moment for messages and returns how many it got hold of.
type meddler interface {
	// purge removes all messages.
	purge(ctx context.Context) (int, error)
	// double has some messages come twice.
	double(ctx context.Context) (int, error)
	// drop removes some messages.
	drop(ctx context.Context) (int, error)
	// delay takes some messages away and brings them back after d.
	delay(ctx context.Context, d time.Duration) (int, error)
}

// rabbit meddles with the queue of a RabbitMQ node.
type rabbit struct {
	node  *testenv.RabbitMQ
	queue string
}

// with runs f on a channel of its own, again and again until it gets hold of something, for
// a moment.
func (r *rabbit) with(ctx context.Context, f func(ch *amqp.Channel) (int, error)) (n int, err error) {
	conn, err := amqp.DialConfig(r.node.URL(), amqp.Config{Dial: amqp.DefaultDial(patience)})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return 0, err
	}
	for deadline := time.Now().Add(moment); n == 0 && err == nil && time.Now().Before(deadline); {
		if n, err = f(ch); n == 0 {
			pause(ctx, 5*time.Millisecond)
		}
	}
	return n, err
}

func (r *rabbit) purge(ctx context.Context) (int, error) {
	return r.with(ctx, func(ch *amqp.Channel) (int, error) { return ch.QueuePurge(r.queue, false) })
}

// take removes messages from the queue, as far as there are any.
func (r *rabbit) take(ch *amqp.Channel) (taken []amqp.Delivery, err error) {
	for len(taken) < handful {
		m, ok, err := ch.Get(r.queue, true)
		if err != nil || !ok {
			return taken, err
		}
		taken = append(taken, m)
	}
	return taken, nil
}

func (r *rabbit) put(ctx context.Context, ch *amqp.Channel, ms []amqp.Delivery) error {
	for _, m := range ms {
		err := ch.PublishWithContext(ctx, "", r.queue, false, false, amqp.Publishing{
			Headers: m.Headers, DeliveryMode: m.DeliveryMode, Expiration: m.Expiration, MessageId: m.MessageId, Body: m.Body,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *rabbit) double(ctx context.Context) (int, error) {
	return r.with(ctx, func(ch *amqp.Channel) (int, error) {
		taken, err := r.take(ch)
		return len(taken), errors.Join(err, r.put(ctx, ch, slices.Concat(taken, taken)))
	})
}

func (r *rabbit) drop(ctx context.Context) (int, error) {
	return r.with(ctx, func(ch *amqp.Channel) (int, error) {
		taken, err := r.take(ch)
		return len(taken), err
	})
}

func (r *rabbit) delay(ctx context.Context, d time.Duration) (int, error) {
	return r.with(ctx, func(ch *amqp.Channel) (int, error) {
		taken, err := r.take(ch)
		if len(taken) > 0 {
			pause(ctx, d)
		}
		return len(taken), errors.Join(err, r.put(ctx, ch, taken))
	})
}

// log meddles with the topic of a Kafka broker. A log keeps what was read, so
// messages can be doubled and delayed that have been delivered long ago.
type log struct {
	broker *testenv.Kafka
	topic  string
}

func (l *log) with(f func(cl *kgo.Client, adm *kadm.Client) (int, error)) (int, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(l.broker.PeerAddress()), kgo.RequestRetries(2), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	return f(cl, kadm.NewClient(cl))
}

// find looks for a queue's topic, which has the ledger's name in it.
func (l *log) find(ctx context.Context, queue string) error {
	_, err := l.with(func(_ *kgo.Client, adm *kadm.Client) (int, error) {
		topics, err := adm.ListTopics(ctx)
		for _, one := range topics.Names() {
			if strings.HasPrefix(one, "errand.") && strings.HasSuffix(one, ".q."+queue) {
				l.topic = one
			}
		}
		return 0, err
	})
	if err == nil && l.topic == "" {
		err = fmt.Errorf("the queue %s has no topic", queue)
	}
	return err
}

// cut removes all records but the last so many of each partition.
func (l *log) cut(ctx context.Context, keep int64) (int, error) {
	return l.with(func(_ *kgo.Client, adm *kadm.Client) (n int, err error) {
		starts, err := adm.ListStartOffsets(ctx, l.topic)
		if err != nil {
			return 0, err
		}
		ends, err := adm.ListEndOffsets(ctx, l.topic)
		if err != nil {
			return 0, err
		}
		upTo := kadm.Offsets{}
		ends.Each(func(o kadm.ListedOffset) {
			first, _ := starts.Lookup(o.Topic, o.Partition)
			if to := o.Offset - keep; to > first.Offset {
				n += int(to - first.Offset)
				upTo.AddOffset(o.Topic, o.Partition, to, -1)
			}
		})
		removed, err := adm.DeleteRecords(ctx, upTo)
		return n, errors.Join(err, removed.Error())
	})
}

func (l *log) purge(ctx context.Context) (int, error) { return l.cut(ctx, 0) }

// drop removes records that are likely to be read already, and some that are not.
func (l *log) drop(ctx context.Context) (int, error) { return l.cut(ctx, 1) }

func (l *log) double(ctx context.Context) (int, error) { return l.delay(ctx, 0) }

// delay publishes the last records again, after d.
func (l *log) delay(ctx context.Context, d time.Duration) (int, error) {
	return l.with(func(cl *kgo.Client, adm *kadm.Client) (int, error) {
		records, err := last(ctx, cl, adm, l.topic)
		if err != nil {
			return 0, err
		}
		pause(ctx, d)
		again := make([]*kgo.Record, len(records))
		for i, r := range records {
			again[i] = &kgo.Record{Topic: l.topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}
		}
		return len(again), cl.ProduceSync(ctx, again...).FirstErr()
	})
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
		r := &rabbit{node: testenv.StartRabbitMQ(t, testenv.RabbitMQOptions{}), queue: "q"}
		count := func() (n int, err error) {
			_, err = r.with(t.Context(), func(ch *amqp.Channel) (int, error) {
				q, err := ch.QueueDeclare("q", true, false, false, false, nil)
				n = q.Messages
				return 1, err
			})
			return n, err
		}
		fill := func() error {
			_, err := r.with(t.Context(), func(ch *amqp.Channel) (int, error) {
				return 1, r.put(t.Context(), ch, make([]amqp.Delivery, handful))
			})
			return err
		}
		tryMeddler(t, r, count, fill)
	})
	t.Run("kafka", func(t *testing.T) {
		l := &log{broker: testenv.StartKafka(t, testenv.KafkaOptions{})}
		fill := func() error {
			_, err := l.with(func(cl *kgo.Client, adm *kadm.Client) (int, error) {
				var err error
				if l.topic == "" {
					_, err = adm.CreateTopic(t.Context(), 1, 1, nil, "errand.x.q."+kafkaQueue)
				}
				for range handful {
					record := &kgo.Record{Topic: "errand.x.q." + kafkaQueue, Value: []byte("x")}
					err = errors.Join(err, cl.ProduceSync(t.Context(), record).FirstErr())
				}
				return 0, err
			})
			return errors.Join(err, l.find(t.Context(), kafkaQueue))
		}
		count := func() (int, error) {
			if l.topic == "" {
				return 0, nil
			}
			return l.with(func(_ *kgo.Client, adm *kadm.Client) (n int, err error) {
				starts, err1 := adm.ListStartOffsets(t.Context(), l.topic)
				ends, err2 := adm.ListEndOffsets(t.Context(), l.topic)
				ends.Each(func(o kadm.ListedOffset) {
					first, _ := starts.Lookup(o.Topic, o.Partition)
					n += int(o.Offset - first.Offset)
				})
				return n, errors.Join(err1, err2)
			})
		}
		tryMeddler(t, l, count, fill)
	})
}

// tryMeddler begins with no messages; fill adds a handful.
func tryMeddler(t *testing.T, m meddler, count func() (int, error), fill func() error) {
	t.Helper()
	await := func(what string, good func(n int) bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; pause(t.Context(), 20*time.Millisecond) {
			n, err := count()
			if err == nil && good(n) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("after %s there are %d messages, %v", what, n, err)
			}
		}
	}
	must := func(n int, err error) {
		t.Helper()
		if err != nil || n == 0 {
			t.Fatalf("%d messages, %v", n, err)
		}
	}
	await("the start", func(n int) bool { return n == 0 })
	must(1, fill())
	await("the filling", func(n int) bool { return n == handful })
	must(m.double(t.Context()))
	await("double", func(n int) bool { return n == 2*handful })
	must(m.delay(t.Context(), 10*time.Millisecond))
	await("delay", func(n int) bool { return n >= 2*handful })
	must(m.drop(t.Context()))
	await("drop", func(n int) bool { return n <= handful })
	must(1, fill())
	must(m.purge(t.Context()))
	await("purge", func(n int) bool { return n == 0 })
}
