package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster"
)

// carrier is a way on which ready jobs come to servers, and their states to those who ask.
type carrier struct {
	name  string
	route string
	flags func(t testing.TB) []string
}

// The carriers, each with the cache in memory or in Redis, and direct leasing with both.
var carriers = []carrier{
	{"direct", "direct", func(testing.TB) []string { return nil }},
	{"direct+redis", "direct", viaRedis},
	{"rabbitmq+redis", "rabbitmq", func(t testing.TB) []string {
		return append(viaRedis(t), "--broker", testenv.RabbitMQAddress(t))
	}},
	{"kafka-share", "kafka", func(t testing.TB) []string {
		return []string{"--broker", "kafka://" + testenv.KafkaAddress(t) + "?group=share"}
	}},
	{"kafka-classic+redis", "kafka", func(t testing.TB) []string {
		return append(viaRedis(t), "--broker", "kafka://"+testenv.KafkaAddress(t)+"?group=classic")
	}},
}

func viaRedis(t testing.TB) []string { return []string{"--cache", testenv.RedisAddress(t)} }

// onEveryPath runs f on each ledger with each carrier: the same assertions on all
// paths that a job can take. SQLite has one server, PostgreSQL two.
func onEveryPath(t *testing.T, f func(t *testing.T, c *cluster.Cluster, way carrier)) {
	for _, way := range carriers {
		t.Run(way.name, func(t *testing.T) {
			cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
				c.Steady()
				flags := way.flags(t)
				c.AddServer(flags...)
				if c.Postgres != nil {
					c.AddServer(flags...)
				}
				f(t, c, way)
			})
		})
	}
}

// infoOf is what a server says of itself.
func infoOf(t *testing.T, s *cluster.Server) errand.ServerInfo {
	t.Helper()
	client, err := errand.Dial(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	info, err := client.ServerInfo(t.Context())
	if err := errors.Join(err, client.Close()); err != nil {
		t.Fatal(err)
	}
	return info
}

// One life of many jobs, on every path: each ends once, in the order of priority,
// through failures, delays, a pause and a change of route.
func TestEveryPathCarriesJobs(t *testing.T) {
	onEveryPath(t, func(t *testing.T, c *cluster.Cluster, way carrier) {
		for range 2 {
			c.AddWorker("-concurrency", "20")
		}
		c.Eventually("two workers are there", func() (bool, string) {
			list, err := c.Client().Sessions(t.Context())
			return err == nil && len(list) == 2, fmt.Sprint(len(list), err)
		})
		if way.route != "direct" {
			c.Eventually("the carrier is in use", func() (bool, string) {
				c.AwaitState(c.Enqueue(cluster.Order{}), errand.Succeeded)
				n := c.LeasedByRef()
				return n > 0, fmt.Sprint(n)
			})
		}
		before := c.LeasedByRef()
		var ids []errand.ID
		for i := range 300 {
			o := cluster.Order{N: i}
			var opts []errand.EnqueueOption
			switch i % 10 {
			case 3:
				o.Fails = 1
			case 5:
				opts = append(opts, errand.In(time.Duration(i)*10*time.Millisecond))
			}
			ids = append(ids, c.Enqueue(o, opts...))
			switch i {
			case 100:
				c.Do("queues", "pause", "default")
			case 150:
				c.Do("queues", "resume", "default")
			case 200:
				c.Do("queues", "route", "default", "direct")
			case 220:
				c.Do("queues", "route", "default", way.route)
			}
		}
		for _, id := range ids {
			c.AwaitState(id, errand.Succeeded)
		}
		statesAgree(t, c, ids)
		runs := map[string]int{}
		for _, r := range c.Runs() {
			if r.Event == "start" {
				runs[r.Job]++
			}
		}
		for i, id := range ids {
			want := 1
			if i%10 == 3 {
				want = 2 // it fails once
			}
			if n := runs[id.String()]; n != want {
				t.Errorf("job %d was started %d times, want %d", i, n, want)
			}
		}
		// What failed, was delayed or came right after a change of route may have been leased directly.
		if n := c.LeasedByRef() - before; way.route == "direct" && n != 0 || way.route != "direct" && n < 30 {
			t.Errorf("%d jobs came by the carrier", n)
		}
	})
}

// statesAgree holds that every server says of every job, fast, that it succeeded: at
// the latest when what it may still say of before has grown old.
func statesAgree(t *testing.T, c *cluster.Cluster, ids []errand.ID) {
	t.Helper()
	for _, s := range c.Servers {
		client, err := errand.Dial(s.URL())
		if err != nil {
			t.Fatal(err)
		}
		c.Eventually("the states at "+s.URL()+" are the ledger's", func() (bool, string) {
			states, err := client.States(t.Context(), ids...)
			if err != nil {
				return false, err.Error()
			}
			done := 0
			for _, one := range states {
				if one.State == errand.Succeeded {
					done++
				}
			}
			return done == len(ids), fmt.Sprintf("%d of %d succeeded", done, len(ids))
		})
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A late job of priority 0 overtakes a backlog of ten thousand, on every path.
func TestUrgentJobOvertakesTenThousand(t *testing.T) {
	onEveryPath(t, func(t *testing.T, c *cluster.Cluster, way carrier) {
		for batch := range 10 {
			params := make([]errand.EnqueueParams, 1000)
			for i := range params {
				params[i] = errand.EnqueueParams{Kind: cluster.Kind, Payload: fmt.Appendf(nil, `{"millis":20,"n":%d}`, batch*1000+i)}
			}
			if _, err := c.Client().EnqueueBatch(t.Context(), params); err != nil {
				t.Fatal(err)
			}
		}
		c.AddWorker("-concurrency", "5")
		c.Eventually("the backlog is under way", func() (bool, string) { return len(c.Runs()) > 100, "" })
		before := len(c.Runs())
		id := c.Enqueue(cluster.Order{}, errand.Priority(0))
		c.AwaitState(id, errand.Succeeded)
		started := 0
		for _, r := range c.Runs()[before:] {
			if r.Job == id.String() {
				break
			}
			if r.Event == "start" {
				started++
			}
		}
		// A window of refs may be on its way, and one more being published.
		if started > 1000 {
			t.Errorf("%d jobs of the backlog went first", started)
		}
	})
}

// A job runs for longer than the broker gives a consumer to acknowledge: one
// execution, for the message was acknowledged at the lease.
func TestJobLongerThanTheBrokersTimeout(t *testing.T) {
	node := testenv.StartRabbitMQ(t, testenv.RabbitMQOptions{Config: []string{"consumer_timeout = 3000"}})
	node.Ctl("eval", "application:set_env(rabbit, channel_tick_interval, 1000).") // how often it looks: each minute by itself
	c := cluster.Postgres(t, testenv.Options{})
	c.Steady()
	c.AddServer("--broker", node.URL())
	c.AddWorker("-concurrency", "1")
	c.Eventually("the carrier is in use", func() (bool, string) {
		c.AwaitState(c.Enqueue(cluster.Order{}), errand.Succeeded)
		return c.LeasedByRef() > 0, ""
	})
	before := c.LeasedByRef()
	id := c.Enqueue(cluster.Order{Millis: 12_000})
	c.AwaitState(id, errand.Succeeded)
	starts := 0
	for _, r := range c.Runs() {
		if r.Job == id.String() && r.Event == "start" {
			starts++
		}
	}
	if starts != 1 {
		t.Errorf("it was started %d times", starts)
	}
	if n := c.LeasedByRef() - before; n != 1 {
		t.Errorf("it came by the carrier %d times", n)
	}
}
