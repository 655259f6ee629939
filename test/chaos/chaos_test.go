// Package chaos puts a whole Errand under load and everything under it out of
// order: three servers, four workers, PostgreSQL, RabbitMQ, Kafka and Redis are killed
// and started again, queues of the brokers purged, their messages doubled,
// dropped and delayed, Redis flushed, and the network between all of them slowed down, cut and
// partitioned, by a schedule drawn from a seed. Afterwards every promise is held against
// what the ledger says and what the workers wrote down.
//
// ERRAND_SEEDS, ERRAND_SEED and ERRAND_JOBS are as in test/faults. A run that fails prints its
// seed, how to run it again, its schedule and what was done when.
package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/history"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster"
	"github.com/errandhq/errand/test/cluster/order"
)

func TestMain(m *testing.M) { cluster.Main(m) }

const (
	load    = time.Minute
	servers = 3
	hands   = 8 // of each worker
	ttl     = 6 * time.Second
)

// The queues, each by its own carrier.
const (
	directQueue = "direct"
	rabbitQueue = "rabbit"
	kafkaQueue  = "kafka"
)

var queues = []string{directQueue, rabbitQueue, kafkaQueue}

// world is a cluster with all that can go wrong with it.
type world struct {
	*cluster.Cluster
	rabbit  *testenv.RabbitMQ
	kafka   *testenv.Kafka
	redis   *testenv.Redis
	lines   []*cluster.Line
	island  *cluster.Island // nil: this machine allows none
	far     []*cluster.Line // without an island: those of the workers that would be on it
	meddle  map[string]meddler
	load    *cluster.Load
	began   time.Time
	calm    int64 // when the last fault was over; order.Monotonic
	mu      sync.Mutex
	done    []string       // what was done, and when
	counts  map[string]int // how often each fault was done
	watched []history.End
}

func TestChaos(t *testing.T) {
	cluster.Seeds(t, func(t *testing.T, seed uint64, _ *rand.Rand) {
		steps := plan(seed, load)
		w := newWorld(t)
		t.Cleanup(func() { w.tell(seed, steps) })
		unwatch := w.watch()
		w.disturb(steps, seed)
		w.AwaitIdle()
		w.inOrder()
		unwatch()
		w.judge()
		w.drift()
	})
}

// newWorld starts everything and waits until jobs go every way.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{load: cluster.NewLoad(), counts: map[string]int{}}
	front := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	var parts sync.WaitGroup
	parts.Go(func() { w.Cluster = cluster.Postgres(t, testenv.Options{}) })
	parts.Go(func() { w.redis = testenv.StartRedis(t, testenv.RedisOptions{}) })
	parts.Go(func() { w.rabbit = testenv.StartRabbitMQ(t, testenv.RabbitMQOptions{}) })
	parts.Go(func() { w.kafka = testenv.StartKafka(t, testenv.KafkaOptions{Advertised: front}) })
	parts.Wait()
	if t.Failed() {
		t.FailNow()
	}
	w.Queues, w.Repeats = queues, true
	w.Env = []string{"ERRAND_SESSION_TTL=" + ttl.String()}
	kafka := w.line("kafka", front, w.kafka.Address())
	for n := range servers {
		w.addServer(n, kafka)
	}
	for queue, route := range map[string]string{directQueue: "direct", rabbitQueue: "rabbitmq", kafkaQueue: "kafka"} {
		w.Do("queues", "route", queue, route)
	}
	w.addWorkers()
	l := &log{broker: w.kafka}
	w.Eventually("every carrier is in use", func() (bool, string) {
		for _, q := range queues {
			w.Burst(w.load, 1, cluster.Order{}, errand.Queue(q))
		}
		err := l.find(t.Context(), kafkaQueue)
		n := w.LeasedByRef()
		return err == nil && n > 10, fmt.Sprintf("%d jobs were leased by refs, %v", n, err)
	})
	w.meddle = map[string]meddler{
		"kafka": l, "rabbitmq": &rabbit{node: w.rabbit, queue: strings.TrimSuffix(l.topic, kafkaQueue) + rabbitQueue},
	}
	return w
}

// line makes a line that faults may happen to.
func (w *world) line(name, from, to string) string {
	l := cluster.NewLine(w.T, name, from, to)
	w.lines = append(w.lines, l)
	return l.Address()
}

// addServer adds a server that reaches everything by lines of its own.
func (w *world) addServer(n int, kafka string) {
	by := func(part, address string) string {
		return w.line(fmt.Sprintf("server %d to %s", n, part), "127.0.0.1:0", address)
	}
	w.AddServer(
		"--ledger", strings.Replace(w.Ledger, w.Postgres.Address(), by("postgres", w.Postgres.Address()), 1),
		"--broker", strings.Replace(w.rabbit.URL(), w.rabbit.Address(), by("rabbitmq", w.rabbit.Address()), 1),
		"--broker", "kafka://"+kafka,
		"--cache", "redis://"+by("redis", w.redis.Address()),
		"--default-route", "direct",
	)
}

// addWorkers adds four: two of them on an island, if this machine allows one. Each
// prefers another queue.
func (w *world) addWorkers() {
	w.T.Helper()
	island, err := cluster.NewIsland(w.T)
	host := "127.0.0.1"
	if err != nil {
		w.T.Logf("NO NAMESPACES HERE: partitions are lines that swallow everything instead: %v", err)
	} else {
		w.island, host = island, island.Address()
	}
	near := w.toServers("127.0.0.1")
	kept := len(w.lines)
	far := w.toServers(host)
	if w.island == nil {
		w.lines, w.far = w.lines[:kept], slices.Clone(w.lines[kept:])
	}
	for n := range 4 {
		preferred := strings.Join(slices.Concat(queues[n%3:], queues[:n%3]), ",")
		island, urls := w.island, far
		if n < 2 {
			island, urls = nil, near
		}
		w.AddWorkerOn(island, urls, "-queues", preferred, "-concurrency", fmt.Sprint(hands))
	}
}

// toServers makes lines to all servers, reached at the host.
func (w *world) toServers(host string) string {
	var urls []string
	for n, s := range w.Servers {
		address := w.line(fmt.Sprintf("workers at %s to server %d", host, n), host+":0", strings.TrimPrefix(s.URL(), "http://"))
		urls = append(urls, "http://localhost:"+address[strings.LastIndexByte(address, ':')+1:])
	}
	return strings.Join(urls, ",")
}

// disturb runs the schedule beside the load, and puts everything right again.
func (w *world) disturb(steps []step, seed uint64) {
	w.T.Helper()
	w.began = time.Now()
	var all sync.WaitGroup
	for _, d := range decks {
		var mine []step
		for _, s := range steps {
			if s.lane == d.lane {
				mine = append(mine, s)
			}
		}
		all.Go(func() { w.lane(d.lane, mine) })
	}
	l := w.Produce(cluster.Number(w.T.(*testing.T), "ERRAND_JOBS", 4000), load, seed)
	all.Wait()
	w.load.Add(l)
	for _, s := range w.Servers {
		if s.Ended() {
			s.Start()
		}
		s.AwaitReady()
	}
	w.calm = order.Monotonic()
	for _, name := range kinds() {
		if !w.happened(name) {
			w.T.Errorf("the fault %q never happened: the schedule meant less than it says", name)
		}
	}
	for n, worker := range w.Workers {
		if worker.Ended() {
			w.T.Errorf("worker %d has ended by itself:\n%s", n, worker.Log())
		}
	}
}

// watch follows the ends of all jobs until stop is called.
func (w *world) watch() (stop func()) {
	ctx, cancel := context.WithCancel(w.T.Context())
	client := w.NewClient()
	var all sync.WaitGroup
	for _, q := range queues {
		all.Go(func() {
			for ctx.Err() == nil {
				for e, err := range client.Watch(ctx, errand.WatchQuery{Queue: q}) {
					if err == nil && !e.Lagged && e.State.Final() {
						w.mu.Lock()
						w.watched = append(w.watched, history.End{Job: e.ID, State: e.State, Version: e.Version})
						w.mu.Unlock()
					}
				}
			}
		})
	}
	return func() { cancel(); all.Wait() }
}
