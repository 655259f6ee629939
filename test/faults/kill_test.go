package faults

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster"
)

// spread is how long the load of n jobs takes to come in.
func spread(n int) time.Duration { return max(10*time.Second, time.Duration(n)*5*time.Millisecond) }

// TestKillOnSQLite kills the server and the workers at seeded times while jobs
// come in and are worked.
func TestKillOnSQLite(t *testing.T) {
	cluster.Seeds(t, func(t *testing.T, seed uint64, rng *rand.Rand) {
		c := cluster.SQLite(t)
		c.AddServer()
		killUnderLoad(t, c, seed, rng)
	})
}

// TestKillOnPostgres does the same to two servers, the workers, and the
// database.
func TestKillOnPostgres(t *testing.T) {
	cluster.Seeds(t, func(t *testing.T, seed uint64, rng *rand.Rand) {
		c := cluster.Postgres(t, testenv.Options{})
		c.AddServer()
		c.AddServer()
		killUnderLoad(t, c, seed, rng)
	})
}

// TestKillBehindABacklog kills the same while workers of many hands work a backlog off: its jobs
// are leased many at a time, by one row of the ledger for all of them.
func TestKillBehindABacklog(t *testing.T) {
	cluster.Seeds(t, func(t *testing.T, seed uint64, rng *rand.Rand) {
		c := cluster.Postgres(t, testenv.Options{})
		c.AddServer()
		c.AddServer()
		load := c.Produce(5*jobs(t), 0, seed)
		for range 3 {
			c.AddWorker("-concurrency", "60")
		}
		stop, stopped := make(chan struct{}), make(chan int, 1)
		go func() { stopped <- killer(processes(c), rng, stop) }()
		<-time.After(spread(jobs(t)))
		close(stop)
		t.Logf("%d processes were killed", <-stopped)
		c.AwaitIdle()
		if n := c.Count("SELECT last_value FROM {lease_block_id_seq}"); n < 5 {
			t.Errorf("%d leases of many jobs: they were to be killed in between", n)
		}
		c.Check(load, false)
	})
}

// TestKillOverRabbitMQ does the same with a cluster of three RabbitMQ nodes between
// two servers, each of which may be killed too.
func TestKillOverRabbitMQ(t *testing.T) {
	cluster.Seeds(t, func(t *testing.T, seed uint64, rng *rand.Rand) {
		nodes := testenv.StartRabbitMQCluster(t, 3, testenv.RabbitMQOptions{})
		c := cluster.Postgres(t, testenv.Options{})
		for _, n := range nodes {
			c.Carriers = append(c.Carriers, n)
		}
		c.AddServer("--broker", testenv.RabbitMQURL(nodes...))
		c.AddServer("--broker", testenv.RabbitMQURL(nodes...))
		killUnderLoad(t, c, seed, rng)
	})
}

// TestKillOverKafka does the same with a Kafka broker.
func TestKillOverKafka(t *testing.T) {
	cluster.Seeds(t, func(t *testing.T, seed uint64, rng *rand.Rand) {
		k := testenv.StartKafka(t, testenv.KafkaOptions{})
		c := cluster.Postgres(t, testenv.Options{})
		c.Carriers = append(c.Carriers, k)
		c.AddServer("--broker", "kafka://"+k.Address())
		c.AddServer("--broker", "kafka://"+k.Address())
		killUnderLoad(t, c, seed, rng)
	})
}

func killUnderLoad(t *testing.T, c *cluster.Cluster, seed uint64, rng *rand.Rand) {
	for range 3 {
		c.AddWorker("-concurrency", "20")
	}
	n := jobs(t)
	stop, stopped := make(chan struct{}), make(chan int, 2)
	brokers := rand.New(rand.NewPCG(rng.Uint64(), seed)) // they take long to start: they have a killer of their own
	go func() { stopped <- killer(processes(c), rng, stop) }()
	go func() { stopped <- killer(nodes(c), brokers, stop) }()
	load := c.Produce(n, spread(n), seed)
	close(stop)
	kills := <-stopped + <-stopped
	t.Logf("%d processes were killed", kills)
	if kills < 3 {
		t.Errorf("only %d kills: the load was over too soon to mean anything", kills)
	}
	if load.Accepted() != n {
		t.Fatalf("%d of %d jobs were accepted", load.Accepted(), n)
	}
	c.AwaitIdle()
	c.Check(load, false)
}

// victim kills a process, calls gap, and starts it again.
type victim func(gap func())

// processes are Errand's own, and the database.
func processes(c *cluster.Cluster) (victims []victim) {
	for _, s := range c.Servers {
		victims = append(victims, func(gap func()) { s.Kill(); gap(); s.Start() })
	}
	for _, w := range c.Workers {
		victims = append(victims, func(gap func()) { w.Kill(); gap(); w.Start() })
	}
	if pg := c.Postgres; pg != nil {
		victims = append(victims, func(gap func()) { pg.Kill(); gap(); pg.Start() })
	}
	return victims
}

// nodes are those of the broker.
func nodes(c *cluster.Cluster) (victims []victim) {
	for _, n := range c.Carriers {
		victims = append(victims, func(gap func()) { n.Kill(); gap(); n.Start() })
	}
	return victims
}

// killer kills a victim drawn by lot every half to two seconds and starts it
// again, until stop is closed. All run when it returns. It gives the number of
// kills.
func killer(victims []victim, rng *rand.Rand, stop <-chan struct{}) (kills int) {
	if len(victims) == 0 {
		return 0
	}
	for {
		select {
		case <-stop:
			return kills
		case <-time.After(500*time.Millisecond + draw(rng, 1500*time.Millisecond)):
		}
		down := draw(rng, 700*time.Millisecond)
		victims[rng.IntN(len(victims))](func() { <-time.After(down) })
		kills++
	}
}

func draw(rng *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(most)))
}
