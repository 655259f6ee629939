package faults

import (
	"errors"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/test/cluster"
)

// TestPoisonPill puts one job that kills its worker among a thousand good
// ones, on workers of 50 hands that are started again whenever they die. In
// the end there is exactly one dead letter, and it is the pill.
func TestPoisonPill(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		task := errand.NewTask[cluster.Order](cluster.Kind)
		orders := make([]cluster.Order, 1000)
		for i := range orders {
			orders[i] = cluster.Order{N: i, Millis: 100}
		}
		if _, err := task.EnqueueMany(t.Context(), c.Client(), orders[:500]); err != nil {
			t.Fatal(err)
		}
		pill := c.Enqueue(cluster.Order{Die: true})
		if _, err := task.EnqueueMany(t.Context(), c.Client(), orders[500:]); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			c.AddWorker("-concurrency", "50")
		}
		stop, stopped := make(chan struct{}), make(chan int, 1)
		go func() { stopped <- supervise(c, stop) }()
		dead := c.AwaitState(pill, errand.Dead)
		c.AwaitIdle()
		close(stop)
		t.Logf("workers died %d times", <-stopped)

		if dead.Reason != "crashed" || dead.Crashes != 3 {
			t.Errorf("the pill is dead for reason %q after %d crashes; want crashed, 3", dead.Reason, dead.Crashes)
		}
		n, _, err := c.Client().CountDead(t.Context(), errand.DeadFilter{})
		if err != nil || n != 1 {
			t.Errorf("%d dead letters, %v; want exactly one", n, err)
		}
		if n := c.Count("SELECT count(*) FROM {archive} WHERE state = 4"); n != 1000 {
			t.Errorf("%d jobs succeeded, want 1000", n)
		}
	})
}

// supervise starts dead workers again until stop is closed, as an init system does.
func supervise(c *cluster.Cluster, stop <-chan struct{}) (deaths int) {
	for {
		select {
		case <-stop:
			return deaths
		case <-time.After(200 * time.Millisecond):
		}
		for _, w := range c.Workers {
			if w.Ended() {
				w.Start()
				deaths++
			}
		}
	}
}

// TestCancelThenWorkerDies asks for the cancellation of a running job and kills
// its worker before it hears of it: the job ends cancelled, not retried.
func TestCancelThenWorkerDies(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		w := c.AddWorker()
		id := c.Enqueue(cluster.Order{Millis: 120000, Deaf: true})
		c.Started(id)
		if _, err := c.Client().Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		w.Kill()
		w.Start()
		j := c.AwaitState(id, errand.Cancelled)
		if j.Token != 1 {
			t.Errorf("token %d: the job was leased again after its cancellation", j.Token)
		}
	})
}

// TestRedriveWithKeyTaken redrives a dead letter whose unique key another job
// has taken meanwhile: it stays dead, and the answer names the holder.
func TestRedriveWithKeyTaken(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		c.AddWorker()
		key := errand.Unique("customer-7", errand.UntilDone)
		first := c.Enqueue(cluster.Order{Discard: true}, key)
		c.AwaitState(first, errand.Dead)
		holder := c.Enqueue(cluster.Order{Millis: 120000}, key)
		if holder == first {
			t.Fatal("the dead job kept its key")
		}
		c.Started(holder)
		result, err := c.Client().RedriveMany(t.Context(), []errand.ID{first}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(result.Problems) != 1 {
			t.Fatalf("the redrive answered %+v; want one problem", result)
		}
		var refusal *errand.Error
		if !errors.As(result.Problems[0].Err, &refusal) || refusal.Reason != errand.ReasonUniqueHeld || refusal.Holder != holder {
			t.Errorf("the refusal is %v; want that %s holds the key", result.Problems[0].Err, holder)
		}
		c.AwaitState(first, errand.Dead)
	})
}
