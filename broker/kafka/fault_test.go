package kafka

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/broker/brokertest"
	"github.com/errandhq/errand/internal/testenv"
)

func TestShareGroupFaults(t *testing.T)   { conformInFaults(t, Share) }
func TestClassicGroupFaults(t *testing.T) { conformInFaults(t, Classic) }

// conformInFaults runs the suite's faults against a broker of our own.
func conformInFaults(t *testing.T, groups Groups) {
	t.Parallel() // it waits, most of the time
	k := testenv.StartKafka(t, testenv.KafkaOptions{})
	cuts := &dials{}
	address := "kafka://" + k.Address() + "?group=" + string(groups)
	watched := kgo.Dialer(cuts.dial)
	opener := func(t testing.TB) broker.Broker { return open(t, address, lasting, watched) }
	brokertest.RunFaults(t, opener, features(address, groups, watched), brokertest.Faults{
		Cut: func(testing.TB, broker.Broker) { cuts.cut() },
		Restart: func(testing.TB, broker.Broker) {
			k.Kill()
			k.Start()
		},
		Away: func(testing.TB, broker.Broker) func() {
			k.Kill()
			return k.Start
		},
		Freeze: func(testing.TB, broker.Broker) func() {
			k.Signal(syscall.SIGSTOP)
			return func() { k.Signal(syscall.SIGCONT) }
		},
	})
}

// dials knows the connections of brokers, to break them.
type dials struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (d *dials) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns = append(d.conns, conn)
	return conn, nil
}

func (d *dials) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		_ = c.Close() // one that was closed before is no error
	}
	d.conns = nil
}
