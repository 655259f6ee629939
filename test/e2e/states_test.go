package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster"
)

// Two servers share a Redis: what one of them handles, the other tells of, to those who
// watch a queue, wait for a job or get a state there.
func TestAnotherServersJobsAreSeenThroughRedis(t *testing.T) {
	c := cluster.Postgres(t, testenv.Options{})
	c.Steady()
	here, there := c.AddServer(viaRedis(t)...), c.AddServer(viaRedis(t)...)
	c.AddWorkerOf(there.URL())
	at := func(s *cluster.Server, args ...string) []string {
		return append([]string{"--server", s.URL()}, args...)
	}
	enqueue := func() string { return c.Do(at(there, "enqueue", cluster.Kind, `{"millis":200}`)...) }
	done := func() string {
		id := enqueue()
		c.Do(at(there, "jobs", "wait", id)...)
		return id
	}

	// Of a queue a server tells what others do as far as Redis brings it: nothing else does.
	watch := c.Run("watch", cluster.Errand(t), at(here, "-o", "json", "jobs", "watch", "--queue", "default")...)
	var ids []string
	c.Eventually("the watcher is told of a job of the other server", func() (bool, string) {
		ids = append(ids, done())
		return slices.ContainsFunc(ids, func(id string) bool { return told(watch.Log(), id, "succeeded") }), watch.Log()
	})

	got := c.JSON(at(here, "jobs", "wait", "--timeout", "1m", enqueue())...)
	is(t, "state of the job that was waited for", field(t, got, "state"), "succeeded")

	is(t, "cache", infoOf(t, here).Cache, "redis")
	c.Eventually("a state that only the other server has written is told from Redis", func() (bool, string) {
		id, before := done(), infoOf(t, here)
		got := c.JSON(at(here, "jobs", "get", "--state", id)...)
		now := infoOf(t, here)
		hit := now.CacheHits > before.CacheHits && now.CacheMisses == before.CacheMisses
		return hit && field(t, got, "state") == "succeeded", fmt.Sprint(got, hit)
	})
}

// told reports whether a watcher's log has a line with the job in that state.
func told(log, id, state string) bool {
	for line := range strings.Lines(log) {
		if strings.Contains(line, id) && strings.Contains(line, `"`+state+`"`) {
			return true
		}
	}
	return false
}
