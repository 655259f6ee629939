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
	m.Drop(2)
	sendTo(t, m, 5)
	wantFrom(t, m, "two of five dropped", 3)
	m.Double(2)
	sendTo(t, m, 3)
	wantFrom(t, m, "two of three doubled", 5)
	m.Stall(true)
	sendTo(t, m, 1)
	wantFrom(t, m, "stalled", 0)
	m.Stall(false)
	m.Purge("t")
	wantFrom(t, m, "purged", 0)
	if got := m.Topics(); len(got) != 1 || got[0] != "t" {
		t.Errorf("topics %q", got)
	}
}

func sendTo(t *testing.T, m *Memory, n int) {
	t.Helper()
	if err := m.Publish(t.Context(), "t", bodies(n, 10)); err != nil {
		t.Fatal(err)
	}
}

// wantFrom receives and acknowledges what is there.
func wantFrom(t *testing.T, m *Memory, what string, want int) {
	t.Helper()
	s, err := m.Subscribe(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := s.Receive(t.Context(), 100, 10*time.Millisecond)
	if err != nil || len(msgs) != want {
		t.Errorf("%s: %d messages came, want %d; %v", what, len(msgs), want, err)
	}
	if err := s.Ack(t.Context(), msgs); err != nil {
		t.Error(err)
	}
}
