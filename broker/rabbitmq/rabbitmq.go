// Package rabbitmq carries refs over RabbitMQ: a topic is a durable quorum queue
// of the same name, behind the default exchange. It needs RabbitMQ 3.10 or later and is
// written for 4.x: it asks for nothing that was taken out there.
//
// A Broker has two connections, for RabbitMQ stops reading from one that
// publishes while an alarm is on: messages go out on one, and everything else goes over the other.
package rabbitmq

import (
	"context"
	"crypto/tls"
	"log/slog"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/errandhq/errand/broker"
)

// DefaultTTL is how long messages live: after that the relay publishes what is still ready again.
const DefaultTTL = 30 * time.Second

// Options sets a broker. The zero value is useful.
type Options struct {
	// TTL is how long messages live; DefaultTTL if 0.
	TTL time.Duration
	// Logger gets what is worth knowing of the connection; it discards by default.
	Logger *slog.Logger
	// TLS is the base of the configuration for amqps://, which the address's
	// parameters cacertfile, certfile, keyfile and server_name_indication add to. Nil: the system's authorities,
	// TLS 1.2 or later.
	TLS *tls.Config
}

// Broker implements broker.Broker. Open makes one.
type Broker struct {
	address address
	ttl     time.Duration
	log     *slog.Logger
	out     *link // publishes
	in      *link // does everything else
	slots   chan struct{}
	silence time.Duration // see silentFor
	fresh   time.Duration // see freshFor

	ctx    context.Context // ends with the last step of Close
	cancel context.CancelFunc
	group  sync.WaitGroup // of all goroutines
	calls  sync.WaitGroup // under way

	mu       sync.Mutex
	closed   bool
	idle     []*publisher
	declared map[string]bool      // topics known to be there, until a message comes back
	silent   map[string]time.Time // topics that confirm nothing, since when
	subs     map[*subscription]bool
}

var _ broker.Broker = (*Broker)(nil)

// Open begins to connect to the RabbitMQ at address,
// amqp://user:password@host:port,host:port/vhost or amqps://…, of which any host may
// be down, and waits for the outcome of the first attempt, or the end of ctx.
//
// A server that cannot be reached, or refuses, is no error of Open: the Broker goes on trying, and its
// calls say what is the matter. Who wants to know asks Check. The errors of Open are of code
// InvalidArgument: an address, or a file that it names, cannot be read.
func Open(ctx context.Context, address string, opts Options) (*Broker, error) {
	a, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	conf, err := a.tlsConfig(opts.TLS)
	if err != nil {
		return nil, err
	}
	b := &Broker{
		address: a, ttl: opts.TTL, log: opts.Logger, slots: make(chan struct{}, maxPublishers),
		silence: silentFor, fresh: freshFor, declared: map[string]bool{}, silent: map[string]time.Time{}, subs: map[*subscription]bool{},
	}
	if b.ttl <= 0 {
		b.ttl = DefaultTTL
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.ctx, b.cancel = context.WithCancel(context.WithoutCancel(ctx))
	b.out = newLink("publish", dialer(a, conf, "publish"), b.log)
	b.in = newLink("consume", dialer(a, conf, "consume"), b.log)
	for _, l := range []*link{b.out, b.in} {
		b.group.Go(func() { l.run(b.ctx) })
	}
	_, _ = b.in.get(ctx) // the calls say it
	return b, nil
}

// String shows where the broker is, and no password.
func (b *Broker) String() string { return b.address.String() }

// GoString implements fmt.GoStringer.
func (b *Broker) GoString() string { return b.String() }

// begin starts a call: its context ends with the broker too.
func (b *Broker) begin(ctx context.Context) (context.Context, func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil, broker.ErrClosed
	}
	b.calls.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(b.ctx, cancel)
	return ctx, func() { stop(); cancel(); b.calls.Done() }, nil
}

// wrap is the package's, for calls: one that Close has cut short says so.
func (b *Broker) wrap(op string, err error) error {
	if err != nil && b.ctx.Err() != nil {
		return broker.ErrClosed
	}
	return wrap(op, err)
}

// within runs f, which the client library does not let be cut short, and goes on
// without it when ctx ends. f then ends with its connection at the latest.
func (b *Broker) within(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	b.group.Go(func() { done <- f() })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// channel opens a channel of a connection. The caller closes it.
func (b *Broker) channel(ctx context.Context, c *conn) (*amqp.Channel, error) {
	opened := make(chan *amqp.Channel)
	err := b.within(ctx, func() error {
		ch, err := c.Channel()
		if err != nil {
			return err
		}
		b.group.Go(func() {
			select {
			case opened <- ch:
			case <-ctx.Done():
				_ = ch.Close() // nobody waits for it any more
			}
		})
		return nil
	})
	if err != nil {
		return nil, err
	}
	select {
	case ch := <-opened:
		return ch, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// aside lets go of a channel without waiting for RabbitMQ's word.
func (b *Broker) aside(ch *amqp.Channel) {
	b.group.Go(func() { _ = ch.Close() })
}

// Close implements broker.Broker. Calls under way are waited for as long as they
// may take with a RabbitMQ that answers; then they are cut short.
func (b *Broker) Close() error {
	b.mu.Lock()
	b.closed = true
	subs := b.subs
	b.subs = nil
	b.mu.Unlock()
	for s := range subs {
		s.end()
	}
	quiet := make(chan struct{})
	go func() { defer close(quiet); b.calls.Wait() }()
	t := time.NewTimer(closePatience)
	defer t.Stop()
	select {
	case <-quiet:
	case <-t.C:
	}
	b.cancel()
	<-quiet
	b.group.Wait()
	return nil
}
