package faults

import (
	"syscall"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/test/cluster"
)

// TestFrozenWorkerIsRefused stops a worker in the middle of a job for longer
// than its lease, so that another one gets the job. The first, woken, gives its
// late result: it must change nothing, and be counted.
func TestFrozenWorkerIsRefused(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		frozen := c.AddWorker()
		id := c.Enqueue(cluster.Order{Millis: 3000, Deaf: true})
		first := c.Started(id)
		frozen.Signal(syscall.SIGSTOP)
		c.AddWorker()
		c.Eventually("the second worker has the job", func() (bool, string) {
			return c.Started(id).Token > first.Token, "not yet"
		})
		frozen.Signal(syscall.SIGCONT)
		done := c.AwaitState(id, errand.Succeeded)
		if done.Token <= first.Token {
			t.Errorf("the job's token is %d; the lost lease had %d", done.Token, first.Token)
		}
		if done.Crashes != 1 {
			t.Errorf("crashes %d; the freeze is one", done.Crashes)
		}
		c.Eventually("the late result is refused and counted", func() (bool, string) {
			info, err := c.Client().ServerInfo(t.Context())
			return err == nil && info.StaleResults > 0, "no stale result"
		})
		if n := c.Count("SELECT count(*) FROM {archive} WHERE settled_token <> token"); n != 0 {
			t.Error("the late result was taken")
		}
	})
}

// TestDeadWorkerIsReplacedInTime kills a worker and measures until its job is
// ready again: its time-to-live and two seconds, and a little for a machine
// that does other things too, more if it is seen to stall.
func TestDeadWorkerIsReplacedInTime(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		w := c.AddWorker()
		id := c.Enqueue(cluster.Order{Millis: 60000})
		c.Started(id)
		w.Kill()
		killed, stalled := time.Now(), c.Stalls()
		c.AwaitState(id, errand.Ready)
		took, stall := time.Since(killed), stalled()
		if took > cluster.TTL+3*time.Second+2*stall {
			t.Errorf("ready again after %s; promised are %s (the machine stalled for %s)", took, cluster.TTL+2*time.Second, stall)
		}
	})
}
