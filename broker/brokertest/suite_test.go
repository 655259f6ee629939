package brokertest

import (
	"testing"
	"time"

	"github.com/errandhq/errand/broker"
)

func memory(b broker.Broker) *Memory { return b.(*Memory) }

func openMemory(t testing.TB) broker.Broker {
	m := NewMemory(time.Minute)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func memoryFeatures() Features {
	return Features{
		Second: func(t testing.TB, b broker.Broker) broker.Broker {
			m := memory(b).Second()
			t.Cleanup(func() { _ = m.Close() })
			return m
		},
		Aged:  func(_ testing.TB, ttl time.Duration) broker.Broker { return NewMemory(ttl) },
		Purge: func(_ testing.TB, b broker.Broker, topic string) { memory(b).Purge(topic) },
		Fair:  true, Ordered: true, Durable: true,
	}
}

// The suite is tested against a carrier that does everything right.
func TestSuiteAgainstMemory(t *testing.T) {
	Run(t, openMemory, memoryFeatures())
	RunFaults(t, openMemory, memoryFeatures(), Faults{
		Cut: func(_ testing.TB, b broker.Broker) { memory(b).Cut() },
		Restart: func(_ testing.TB, b broker.Broker) {
			memory(b).SetDown(true)
			memory(b).SetDown(false)
		},
		Away: func(_ testing.TB, b broker.Broker) func() {
			memory(b).SetDown(true)
			return func() { memory(b).SetDown(false) }
		},
	})
}

func TestMemorySwitches(t *testing.T) {
	m := NewMemory(time.Minute)
	receive := func(wait time.Duration) int {
		t.Helper()
		s, err := m.Subscribe(t.Context(), "t")
		if err != nil {
			t.Fatal(err)
		}
		msgs, err := s.Receive(t.Context(), 100, wait)
		if err != nil || s.Ack(t.Context(), msgs) != nil {
			t.Fatal(err)
		}
		return len(msgs)
	}
	publish := func(n int) {
		t.Helper()
		if err := m.Publish(t.Context(), "t", bodies(n, 10)); err != nil {
			t.Fatal(err)
		}
	}
	m.Drop(2)
	publish(5)
	if n := receive(0); n != 3 {
		t.Errorf("two of five dropped: %d came", n)
	}
	m.Double(2)
	publish(3)
	if n := receive(0); n != 5 {
		t.Errorf("two of three doubled: %d came", n)
	}
	m.Stall(true)
	publish(1)
	if n := receive(10 * time.Millisecond); n != 0 {
		t.Errorf("stalled: %d came", n)
	}
	m.Stall(false)
	m.Purge("t")
	if n := receive(0); n != 0 {
		t.Errorf("purged: %d came", n)
	}
	if got := m.Topics(); len(got) != 1 || got[0] != "t" {
		t.Errorf("topics %q", got)
	}
}
