package rabbitmq

import (
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/broker/brokertest"
	"github.com/errandhq/errand/internal/testenv"
)

func open(t testing.TB, address string, ttl time.Duration) *Broker {
	t.Helper()
	b, err := Open(t.Context(), address, Options{TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// rig opens brokers at one address and knows them again.
type rig struct {
	address string
	proxies sync.Map // of broker.Broker
}

func (r *rig) open(t testing.TB) broker.Broker { return open(t, r.address, time.Minute) }

func (r *rig) features(t testing.TB) brokertest.Features {
	return brokertest.Features{
		Second: func(t testing.TB, b broker.Broker) broker.Broker {
			if p, ok := r.proxies.Load(b); ok {
				return r.openBehind(t, p.(*testenv.Proxy))
			}
			return r.open(t)
		},
		Aged: func(t testing.TB, ttl time.Duration) broker.Broker { return open(t, r.address, ttl) },
		Purge: func(t testing.TB, _ broker.Broker, topic string) {
			admin(t, r.address, func(ch *amqp.Channel) error { _, err := ch.QueuePurge(topic, false); return err })
		},
		Fair: true, Ordered: true, Durable: true,
		Secret: password(t, r.address),
	}
}

// openBehindProxy opens a broker with a network of its own.
func (r *rig) openBehindProxy(t testing.TB) broker.Broker {
	u, err := url.Parse(r.address)
	if err != nil {
		t.Fatal(err)
	}
	return r.openBehind(t, testenv.StartProxy(t, u.Host))
}

func (r *rig) openBehind(t testing.TB, p *testenv.Proxy) broker.Broker {
	u, err := url.Parse(r.address)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = p.Address()
	b := open(t, u.String(), time.Minute)
	r.proxies.Store(b, p)
	return b
}

func (r *rig) proxy(b broker.Broker) *testenv.Proxy {
	p, _ := r.proxies.Load(b)
	return p.(*testenv.Proxy)
}

func (r *rig) network() brokertest.Faults {
	return brokertest.Faults{
		Cut: func(_ testing.TB, b broker.Broker) { r.proxy(b).Cut() },
		Away: func(_ testing.TB, b broker.Broker) func() {
			r.proxy(b).Away()
			return r.proxy(b).Back
		},
		Freeze: func(_ testing.TB, b broker.Broker) func() {
			r.proxy(b).Freeze()
			return r.proxy(b).Thaw
		},
	}
}

func password(t testing.TB, address string) string {
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := u.User.Password()
	if strings.Contains("guest", p) {
		return "" // it would be found everywhere
	}
	return p
}

// admin does something at RabbitMQ behind the driver's back.
func admin(t testing.TB, address string, f func(ch *amqp.Channel) error) {
	t.Helper()
	c, err := amqp.Dial(address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ch, err := c.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := f(ch); err != nil {
		t.Fatal(err)
	}
}

// settle has the node write down at once which quorum queues it has; it would, within seconds.
func settle(node *testenv.RabbitMQ) { node.Ctl("eval", "[dets:sync(T) || T <- dets:all()].") }

func TestConformance(t *testing.T) {
	r := &rig{address: testenv.RabbitMQAddress(t)}
	brokertest.Run(t, r.open, r.features(t))
}

func TestConformanceWhenTheNetworkFails(t *testing.T) {
	t.Parallel()
	r := &rig{address: testenv.RabbitMQAddress(t)}
	brokertest.RunFaults(t, r.openBehindProxy, r.features(t), r.network())
}

func TestConformanceWhenTheNodeFails(t *testing.T) {
	t.Parallel()
	node := testenv.StartRabbitMQ(t, testenv.RabbitMQOptions{})
	r := &rig{address: node.URL()}
	brokertest.RunFaults(t, r.open, r.features(t), brokertest.Faults{
		Restart: func(testing.TB, broker.Broker) {
			settle(node) // a queue that is younger would be lost: see renew
			node.Kill()
			node.Start()
		},
		Freeze: func(testing.TB, broker.Broker) func() {
			node.Signal(syscall.SIGSTOP)
			return func() { node.Signal(syscall.SIGCONT) }
		},
	})
}
