package faults

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/test/cluster"
)

// TestLostLeaseReplies loses one in a hundred answers to Lease, with jobs in
// them. None of these jobs may stay running in nobody's hands, and none is
// charged an attempt for it.
func TestLostLeaseReplies(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		cluster.Seeds(t, func(t *testing.T, seed uint64, rng *rand.Rand) {
			c := fresh(t, c)
			c.Steady()
			server := c.AddServer()
			var lock sync.Mutex
			var lost atomic.Int64
			proxy := cluster.Proxy(t, server.URL(), func(call string) bool {
				lock.Lock()
				defer lock.Unlock()
				if call != "Lease" || rng.IntN(100) != 0 {
					return false
				}
				lost.Add(1)
				return true
			})
			for range 3 {
				c.AddWorkerOf(proxy, "-concurrency", "5")
			}
			c.NoRetries = true
			n := jobs(t)
			load := c.Produce(n, spread(n)/2, seed)
			c.AwaitIdle()
			c.Check(load, false)
			t.Logf("%d replies were lost", lost.Load())
			if lost.Load() == 0 {
				t.Error("no reply was lost: the test tested nothing")
			}
			if n := c.Count("SELECT count(*) FROM {archive} WHERE attempt <> 1 OR crashes > 0"); n != 0 {
				t.Errorf("%d jobs were charged for a lost reply", n)
			}
		})
	})
}

// fresh makes each seed's cluster its own where there are several.
func fresh(t *testing.T, c *cluster.Cluster) *cluster.Cluster {
	t.Helper()
	if c.Postgres == nil {
		return cluster.SQLite(t)
	}
	own := *c
	own.T, own.Dir = t, t.TempDir()
	own.Servers, own.Workers = nil, nil
	c.Postgres.Exec("postgres", "DROP DATABASE errand WITH (FORCE)")
	c.Postgres.Exec("postgres", "CREATE DATABASE errand")
	return &own
}

// TestLostSettleAnswer loses the answer to each settle once. The worker
// repeats it, gets the recorded outcome, and nothing is counted as stale.
func TestLostSettleAnswer(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.Steady()
		server := c.AddServer()
		var n, lost atomic.Int64
		proxy := cluster.Proxy(t, server.URL(), func(call string) bool {
			if call != "Settle" || n.Add(1)%2 == 0 {
				return false
			}
			lost.Add(1)
			return true
		})
		c.AddWorkerOf(proxy, "-concurrency", "5")
		var ids []errand.ID
		for i := range 50 {
			ids = append(ids, c.Enqueue(cluster.Order{N: i}))
		}
		for _, id := range ids {
			if j := c.AwaitState(id, errand.Succeeded); j.Attempt != 1 || j.Token != 1 {
				t.Errorf("job %s: attempt %d, token %d; want 1 and 1", id, j.Attempt, j.Token)
			}
		}
		if lost.Load() == 0 {
			t.Error("no answer was lost: the test tested nothing")
		}
		info, err := c.Client().ServerInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.StaleResults != 0 {
			t.Errorf("%d repeated settles were counted as stale", info.StaleResults)
		}
	})
}
