package faults

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster"
)

// TestFailOver kills the primary database under load and promotes its
// synchronous standby. Servers find it by a connection string of two hosts.
// Nothing that was accepted may be missing.
func TestFailOver(t *testing.T) {
	cluster.Seeds(t, func(t *testing.T, seed uint64, rng *rand.Rand) {
		c := cluster.Postgres(t, testenv.Options{})
		primary := c.Postgres
		standby := primary.Standby()
		c.Ledger = fmt.Sprintf("postgres://postgres@%s,%s/errand?sslmode=disable&target_session_attrs=read-write",
			primary.Address(), standby.Address())
		c.AddServer()
		c.AddServer()
		c.AddWorker("-concurrency", "20")
		c.AddWorker("-concurrency", "20")
		n := jobs(t)
		over, done := spread(n), make(chan struct{})
		after := over/4 + draw(rng, over/4)
		go func() {
			defer close(done)
			<-time.After(after)
			primary.Kill()
			standby.Promote()
		}()
		load := c.Produce(n, over, seed)
		<-done
		c.AwaitIdle()
		c.Check(load, false)
	})
}
