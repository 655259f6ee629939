package faults

import (
	"testing"
	"time"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster"
)

// TestDatabaseClockJumps moves the database's wall clock by hours, forth and
// back, while jobs are worked. Nobody may be declared dead for it, nothing run
// twice, nothing stay behind.
func TestDatabaseClockJumps(t *testing.T) {
	c := cluster.Postgres(t, testenv.Options{FakeClock: true})
	// A retry set for a time of the wrong clock rightly waits for that time.
	c.NoRetries = true
	c.Steady()
	c.AddServer()
	c.AddServer()
	c.AddWorker("-concurrency", "20")
	c.AddWorker("-concurrency", "20")
	n := jobs(t)
	over, done := spread(n), make(chan struct{})
	go func() {
		defer close(done)
		for _, offset := range []time.Duration{3 * time.Hour, -2 * time.Hour, 5 * time.Minute, 0} {
			<-time.After(over / 5)
			c.Postgres.SetClock(offset)
		}
	}()
	load := c.Produce(n, over, 1)
	<-done
	c.AwaitIdle()
	c.Check(load, false)
	if n := c.Count("SELECT count(*) FROM {archive} WHERE crashes > 0"); n != 0 {
		t.Errorf("%d jobs were taken from a live worker because a wall clock moved", n)
	}
}

// TestProcessesWithWrongClocks runs a server and a worker whose own wall
// clocks are hours off, beside right ones: only the ledger's clock may decide.
func TestProcessesWithWrongClocks(t *testing.T) {
	c := cluster.Postgres(t, testenv.Options{})
	c.Steady()
	c.AddServer()
	c.ServerProgram = cluster.Shifted(t, "cmd/errand", 3*time.Hour)
	c.AddServer()
	c.AddWorker("-concurrency", "20")
	c.WorkerProgram = cluster.Shifted(t, "test/cluster/worker", -2*time.Hour)
	c.AddWorker("-concurrency", "20")
	n := jobs(t)
	load := c.Produce(n, spread(n), 1)
	c.AwaitIdle()
	c.Check(load, false)
	if n := c.Count("SELECT count(*) FROM {archive} WHERE crashes > 0"); n != 0 {
		t.Errorf("%d jobs were taken from a live worker because a wall clock is wrong", n)
	}
}
