package engine_test

import (
	"testing"
	"time"

	"github.com/errandhq/errand/broker/brokertest"
)

// TestCarriedTellsWhatIsPublishedAndNotLeased, while the carrier holds it, and
// when it has gone.
func TestCarriedTellsWhatIsPublishedAndNotLeased(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		c := w.crew(5, time.Second, "k")
		defer c.leave()
		time.Sleep(2 * time.Second) // of virtual time
		m.Stall(true)
		ids := w.put(300)
		time.Sleep(3 * time.Second)
		got := w.Carried()
		if got.Carriers != 1 || got.Waiting < 50 || got.Waiting > 300 || got.Oldest < time.Second || got.Oldest > 4*time.Second {
			t.Errorf("while the carrier stalls: %+v", got)
		}
		m.Stall(false)
		w.doneBy(5*time.Minute, ids, c)
		time.Sleep(5 * time.Second)
		if got := w.Carried(); got.Waiting != 0 || got.Oldest != 0 {
			t.Errorf("when all was leased: %+v", got)
		}
	})
}

// TestLagOfTheRelay: it grows while the carrier takes nothing and no hand is free.
func TestLagOfTheRelay(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		c := w.crew(1, 20*time.Second, "k")
		defer c.leave()
		time.Sleep(2 * time.Second)
		ids := w.put(3)
		time.Sleep(2 * time.Second)
		if got := w.Carried(); got.Lag != 0 {
			t.Errorf("when all is published: %+v", got)
		}
		m.SetDown(true)
		ids = append(ids, w.put(1)...)
		time.Sleep(10 * time.Second)
		if got := w.Carried(); got.Lag < 9*time.Second || got.Lag > 11*time.Second {
			t.Errorf("ten seconds after a job that could not be published: %+v", got)
		}
		m.SetDown(false)
		time.Sleep(6 * time.Second)
		if got := w.Carried(); got.Lag != 0 {
			t.Errorf("when the carrier is back: %+v", got)
		}
		w.doneBy(5*time.Minute, ids, c)
	})
}
