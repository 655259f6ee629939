package e2e

import (
	"syscall"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/test/cluster"
)

// What became of jobs is told exactly when nobody crashed: over two servers, and
// after both were stopped and started again.
func TestInsightsOutliveTheirServers(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.Steady()
		c.AddServer()
		if c.Postgres != nil {
			c.AddServer()
		}
		c.AddWorker()
		c.AddWorker()
		const jobs, fails = 40, 10
		var ids []errand.ID
		for i := range jobs {
			o := cluster.Order{N: i}
			if i < fails {
				o.Fails = 1
			}
			ids = append(ids, c.Enqueue(o))
		}
		for _, id := range ids {
			c.AwaitState(id, errand.Succeeded)
		}
		for _, s := range c.Servers {
			s.Signal(syscall.SIGTERM)
			if code := s.Wait(cluster.Patience); code != 0 {
				t.Fatalf("a server ended with status %d", code)
			}
			s.Start()
			s.AwaitReady()
		}
		in, err := c.NewClient().Insights(t.Context(), errand.InsightsQuery{Since: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if len(in.Kinds) != 1 {
			t.Fatalf("kinds %+v, want one", in.Kinds)
		}
		got := in.Kinds[0].Counts
		is(t, "arrived", got.Arrived, int64(jobs+fails))
		is(t, "started", got.Started, int64(jobs+fails))
		is(t, "succeeded", got.Succeeded, int64(jobs))
		is(t, "failed", got.Failed, int64(fails))
		is(t, "sorts of failure", len(in.Failures), 1)
		is(t, "failures", in.Failures[0].Count, int64(fails))
		is(t, "the pattern", in.Failures[0].Pattern, "attempt # fails, as ordered")
	})
}
