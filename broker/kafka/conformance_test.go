package kafka

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/broker/brokertest"
	"github.com/errandhq/errand/internal/testenv"
)

// open opens a broker, and closes it when the test ends.
func open(t testing.TB, address string, ttl time.Duration, more ...kgo.Opt) *Broker {
	t.Helper()
	b, err := openWith(address, Options{TTL: ttl}, more...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // some tests close it before
	return b
}

// features are what a kind of group gives. A share group of a topic with one
// partition is a queue; a consumer group binds each partition to one consumer.
func features(address string, groups Groups, more ...kgo.Opt) brokertest.Features {
	f := brokertest.Features{
		Second: func(t testing.TB, b broker.Broker) broker.Broker {
			return open(t, address, b.(*Broker).opts.TTL, more...)
		},
		Aged:  func(t testing.TB, ttl time.Duration) broker.Broker { return open(t, address, ttl, more...) },
		Purge: purge,
		// Confirmed messages outlive the death of the process; fsync is the kernel's business.
		Durable: true,
		// A consumer that vanished is out of its group after so long.
		Redelivery: 2 * groupTimeout,
	}
	f.Fair, f.Ordered, f.Lasting = groups == Share, groups == Share, groups == Classic
	return f
}

func purge(t testing.TB, b broker.Broker, topic string) {
	t.Helper()
	adm := b.(*Broker).adm
	ends, err := adm.ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	done, err := adm.DeleteRecords(t.Context(), ends.Offsets())
	if err != nil || done.Error() != nil {
		t.Fatal(err, done.Error())
	}
}

// lasting is a time to live that no test outlasts.
const lasting = 10 * time.Minute

func TestShareGroup(t *testing.T)   { conform(t, Share) }
func TestClassicGroup(t *testing.T) { conform(t, Classic) }

func conform(t *testing.T, groups Groups) {
	t.Parallel() // it waits, most of the time
	address := "kafka://" + testenv.KafkaAddress(t) + "?group=" + string(groups)
	brokertest.Run(t, func(t testing.TB) broker.Broker { return open(t, address, lasting) }, features(address, groups))
}
