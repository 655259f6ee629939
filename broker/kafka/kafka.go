// Package kafka carries refs by Apache Kafka: through share groups (KIP-932,
// Kafka 4.2 and later), where each message goes to whoever asks next, or
// through classic consumer groups, where each partition belongs to one consumer.
//
// docs/kafka.md says what it makes of a cluster, and why.
package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

// Broker is a connection to a Kafka cluster.
type Broker struct {
	at   address
	tls  *tls.Config
	opts Options
	cl   *kgo.Client // publishes and asks; consumers have clients of their own
	adm  *kadm.Client
	more []kgo.Opt // of all clients: tests watch their connections

	mu     sync.Mutex
	groups Groups          // Auto until the cluster was asked
	topics map[string]bool // those that are there
	subs   map[subscription]bool
	closed bool
}

// subscription is what the Broker has to know of its consumers.
type subscription interface {
	broker.Subscription
	shut() error
}

var _ broker.Broker = (*Broker)(nil)

// Open makes a connection to the cluster at an address
//
//	kafka://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…][?sasl=plain|scram-sha-256|scram-sha-512
//	&tls=true&ca=FILE&group=auto|share|classic&replication=N&partitions=N]
//
// It returns an error of code job.InvalidArgument for a wrong address. It does not
// wait for the cluster, which may be away: the first call finds out.
func Open(_ context.Context, url string, opts Options) (broker.Broker, error) {
	return openWith(url, opts)
}

func openWith(url string, opts Options, more ...kgo.Opt) (*Broker, error) {
	at, err := parse(url)
	if err != nil {
		return nil, err
	}
	conf, err := at.tlsConfig()
	if err != nil {
		return nil, err
	}
	b := &Broker{at: at, tls: conf, opts: opts, more: more, topics: map[string]bool{}, subs: map[subscription]bool{}}
	if at.groups == Classic {
		b.groups = Classic // which every cluster has
	}
	b.cl, err = b.client(
		kgo.RequiredAcks(kgo.AllISRAcks()), // the producer is idempotent unless told otherwise
		// A batch goes to all partitions, so that no consumer gets it all.
		kgo.RecordPartitioner(kgo.RoundRobinPartitioner()),
		kgo.ProducerLinger(0),
		kgo.RecordDeliveryTimeout(sendTimeout),
		kgo.ProduceRequestTimeout(answerTimeout),
		// A caller whose time is over does not wait on; a message that comes twice does no harm.
		kgo.AllowIdempotentProduceCancellation(),
	)
	if err != nil {
		return nil, err
	}
	b.adm = kadm.NewClient(b.cl)
	return b, nil
}

// String shows where the cluster is, and no password.
func (b *Broker) String() string { return b.at.String() }

// client makes a client of its own for one purpose.
func (b *Broker) client(more ...kgo.Opt) (*kgo.Client, error) {
	opts := append([]kgo.Opt{
		kgo.SeedBrokers(b.at.seeds...),
		kgo.ClientID("errand"),
		kgo.DialTimeout(dialTimeout),
		kgo.ConnIdleTimeout(idleTimeout),
		kgo.RequestTimeoutOverhead(answerTimeout),
		kgo.RetryTimeout(retryTimeout),
		kgo.RetryBackoffFn(pauseAfter),
		kgo.MetadataMinAge(leastPause),
		kgo.WithLogger(clientLog{b.opts.Logger}),
	}, more...)
	if b.tls != nil {
		opts = append(opts, kgo.DialTLSConfig(b.tls))
	}
	if m := b.at.mechanism(); m != nil {
		opts = append(opts, kgo.SASL(m))
	}
	opts = append(opts, b.more...)
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, job.Errorf(job.InvalidArgument, job.ReasonBadField, "kafka: %w", err)
	}
	return cl, nil
}

// Publish implements broker.Broker. A topic that somebody has deleted is made anew.
func (b *Broker) Publish(ctx context.Context, topic string, bodies [][]byte) error {
	if err := errors.Join(broker.CheckTopic(topic), broker.CheckBodies(bodies)); err != nil {
		return err
	}
	if len(bodies) == 0 {
		return nil
	}
	for again := false; ; again = true {
		if err := b.ensure(ctx, topic); err != nil {
			return err
		}
		err := b.send(ctx, topic, bodies)
		if !gone(err) || again {
			return wrap(ctx, "publish to "+topic, err)
		}
		b.forget(topic)
		b.cl.PurgeTopicsFromProducing(topic) // the client finds the new one under the old name
	}
}

func (b *Broker) send(ctx context.Context, topic string, bodies [][]byte) error {
	records := make([]*kgo.Record, len(bodies))
	for i, body := range bodies {
		records[i] = &kgo.Record{Topic: topic, Value: body}
	}
	return b.cl.ProduceSync(ctx, records...).FirstErr()
}

// Subscribe implements broker.Broker.
func (b *Broker) Subscribe(ctx context.Context, topic string) (broker.Subscription, error) {
	if err := broker.CheckTopic(topic); err != nil {
		return nil, err
	}
	groups, err := b.kind(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.ensure(ctx, topic); err != nil {
		return nil, err
	}
	if groups == Share {
		return b.keep(b.subscribeShare(ctx, topic))
	}
	return b.keep(b.subscribeClassic(ctx, topic))
}

// keep remembers a new subscription, to close it with the Broker.
func (b *Broker) keep(s subscription, err error) (broker.Subscription, error) {
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, errors.Join(broker.ErrClosed, s.shut())
	}
	defer b.mu.Unlock()
	b.subs[s] = true
	return s, nil
}

// drop forgets a subscription and ends it.
func (b *Broker) drop(s subscription) error {
	b.mu.Lock()
	delete(b.subs, s)
	b.mu.Unlock()
	return s.shut()
}

// kind returns the kind of group that this cluster is used with. It is decided once, by
// the address and what the cluster says.
func (b *Broker) kind(ctx context.Context) (Groups, error) {
	b.mu.Lock()
	groups, closed := b.groups, b.closed
	b.mu.Unlock()
	if closed {
		return Auto, broker.ErrClosed
	}
	if groups != Auto {
		return groups, nil
	}
	versions, err := b.versions(ctx)
	if err != nil {
		return Auto, wrap(ctx, "ask for the cluster's version", err)
	}
	able := !slices.ContainsFunc(versions, func(v kadm.BrokerApiVersions) bool { return !hasShareGroups(v) })
	if b.at.groups == Share && !able {
		return Auto, job.Errorf(job.FailedPrecondition, job.ReasonBrokerDown, "kafka: %s", noShareGroups)
	}
	groups = b.choose(able)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.groups = groups
	return groups, nil
}

const noShareGroups = "the address asks for share groups, which this cluster has not " +
	"(they need Kafka 4.2 and share.version 1 on every broker): upgrade it, or say group=classic"

// choose returns the kind of group that the address wants of a cluster.
func (b *Broker) choose(able bool) Groups {
	switch {
	case b.at.groups != Auto:
		return b.at.groups
	case able:
		return Share
	}
	return Classic
}

// versions asks each broker what it speaks.
func (b *Broker) versions(ctx context.Context) ([]kadm.BrokerApiVersions, error) {
	all, err := b.adm.ApiVersions(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range all {
		if v.Err != nil {
			return nil, fmt.Errorf("broker %d: %w", v.NodeID, v.Err)
		}
	}
	return all.Sorted(), nil
}

// hasShareGroups reports whether a node serves share groups that can be asked for an exact
// number of messages (Kafka 4.2), and the cluster has turned them on.
func hasShareGroups(v kadm.BrokerApiVersions) bool {
	const exact = 2 // the version of ShareFetch that counts messages
	most, ok := v.KeyMaxVersion(kmsg.ShareFetch.Int16())
	if !ok || most < exact {
		return false
	}
	for _, f := range v.Raw().FinalizedFeatures {
		if f.Name == "share.version" {
			return f.MaxVersionLevel >= 1
		}
	}
	return false
}

// Close implements broker.Broker.
func (b *Broker) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	subs := b.subs
	b.subs = map[subscription]bool{}
	b.mu.Unlock()
	errs := make(chan error, len(subs))
	for s := range subs {
		go func() { errs <- s.shut() }()
	}
	var err error
	for range subs {
		err = errors.Join(err, <-errs)
	}
	b.cl.Close()
	return err
}

// stale reports whether a message that the brokers have stamped is past the time-to-live.
// The producer's clock plays no part; the consumer's should be right within
// seconds, as Check's advice says.
func (b *Broker) stale(stamp, now time.Time) bool {
	return b.opts.TTL > 0 && now.Sub(stamp) > b.opts.TTL
}
