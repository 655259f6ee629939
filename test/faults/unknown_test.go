package faults

import (
	"slices"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/test/cluster"
)

// TestUnknownKindsInFront puts many jobs of a kind that nobody takes in front
// of the queue. They stay untouched and are shown as such, and the jobs behind
// them are found about as fast as without them.
func TestUnknownKindsInFront(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		c.AddWorker("-concurrency", "20")
		without := roundTrip(t, c, 50)
		unknown := errand.NewTask[cluster.Order]("test.unknown")
		n := 10 * jobs(t)
		for left := n; left > 0; left -= 1000 {
			if _, err := unknown.EnqueueMany(t.Context(), c.Client(), make([]cluster.Order, min(left, 1000)), errand.Priority(0)); err != nil {
				t.Fatal(err)
			}
		}
		with := roundTrip(t, c, 50)
		t.Logf("enqueue to success: median %s without, %s behind %d jobs of an unknown kind", without, with, n)
		if with > 2*without+20*time.Millisecond {
			t.Errorf("behind %d jobs of an unknown kind a job takes %s, without them %s", n, with, without)
		}
		queues, err := c.Client().Queues(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		shown := slices.ContainsFunc(queues, func(q errand.QueueInfo) bool {
			return slices.ContainsFunc(q.Kinds, func(k errand.KindInfo) bool {
				return k.Kind == "test.unknown" && k.Ready == int64(n) && k.WaitingForWorker
			})
		})
		if !shown {
			t.Errorf("the unknown kind is not shown as waiting for a worker: %+v", queues)
		}
	})
}

// roundTrip is the median time from the start of an enqueue to its success.
func roundTrip(t *testing.T, c *cluster.Cluster, n int) time.Duration {
	t.Helper()
	return median(n, func(i int) {
		id := c.Enqueue(cluster.Order{N: i})
		if _, err := c.Client().Wait(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	})
}
