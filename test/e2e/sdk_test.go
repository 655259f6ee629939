package e2e

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/test/cluster"
)

type sum struct{ A, B int }

// A job goes from a producer to a worker through a server, and its result back.
func TestSDKThroughAServer(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		client := c.NewClient()
		add := errand.NewTask[sum]("math.add")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		w := &errand.Worker{Client: client, Concurrency: 4}
		errand.Handle(w, add, func(_ context.Context, j *errand.Job[sum]) error { return j.SetResult(j.Args.A + j.Args.B) })
		go func() { ended <- w.Run(ctx) }()

		id, err := add.Enqueue(t.Context(), client, sum{2, 3})
		if err != nil {
			t.Fatal(err)
		}
		waiting, stop := context.WithTimeout(t.Context(), waitFor)
		defer stop()
		j, err := client.Wait(waiting, id)
		if err != nil {
			t.Fatal(err)
		}
		is(t, "state", j.State, errand.Succeeded)
		is(t, "result", string(j.Result), "5")
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the worker's Run: %v", err)
		}
	})
}

// Cancellation reaches the handler of a running job in another process.
func TestCancelARunningJob(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		c.AddWorker()
		id := c.Enqueue(cluster.Order{Millis: 120_000})
		c.Started(id)
		if _, err := c.Client().Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		c.AwaitState(id, errand.Cancelled)
	})
}

// A deploy costs nothing: what a stopped worker could not end in its grace is
// given back without a charge, and another worker ends it.
func TestDrainIsFree(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		w := c.AddWorker("-grace", "200ms")
		id := c.Enqueue(cluster.Order{Millis: 3000, Deaf: true})
		c.Started(id)
		w.Signal(syscall.SIGTERM)
		if code := w.Wait(cluster.Patience); code != 1 {
			t.Errorf("exit status %d of a worker that left a job running; want 1", code)
		}
		c.AddWorker()
		j := c.AwaitState(id, errand.Succeeded)
		if j.Attempt != 1 || j.Crashes != 0 || len(j.Errors) != 0 {
			t.Errorf("attempt %d, crashes %d, errors %v; a drain charges nothing", j.Attempt, j.Crashes, j.Errors)
		}
	})
}

// A server that is asked to stop ends by itself, with status 0, and another
// one on the same ledger goes on; what was accepted before is worked after.
func TestServerStopsAndComesBack(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		s := c.AddServer()
		w := c.AddWorker()
		id := c.Enqueue(cluster.Order{Millis: 1500})
		c.Started(id)
		s.Signal(syscall.SIGTERM)
		if code := s.Wait(cluster.Patience); code != 0 {
			t.Errorf("the server's exit status is %d, want 0", code)
		}
		s.Start()
		s.AwaitReady()
		if j := c.AwaitState(id, errand.Succeeded); j.Crashes != 0 {
			t.Errorf("the restart of the server was charged as a crash: %+v", j)
		}
		w.Stop()
	})
}

// The same id with the same content is one job, with other content an error.
func TestRepeatedEnqueue(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		id := errand.NewID()
		first := c.Enqueue(cluster.Order{N: 1}, errand.WithID(id))
		again := c.Enqueue(cluster.Order{N: 1}, errand.WithID(id))
		is(t, "first", first, id)
		is(t, "again", again, id)
		_, err := errand.NewTask[cluster.Order](cluster.Kind).Enqueue(t.Context(), c.Client(), cluster.Order{N: 2}, errand.WithID(id))
		if !errors.Is(err, errand.ErrAlreadyExists) {
			t.Errorf("the id with other content: %v, want ErrAlreadyExists", err)
		}
	})
}

// A retry comes after a failure, with the failure kept.
func TestRetryKeepsTheError(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		c.AddWorker()
		id := c.Enqueue(cluster.Order{Fails: 1})
		began := time.Now()
		j := c.AwaitState(id, errand.Succeeded)
		if j.Attempt != 2 || len(j.Errors) != 1 {
			t.Errorf("attempt %d, errors %v; want 2 and one error", j.Attempt, j.Errors)
		}
		if took := time.Since(began); took > waitFor {
			t.Errorf("a retry after 50 ms took %s", took)
		}
	})
}
