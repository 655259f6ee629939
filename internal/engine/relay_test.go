package engine_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/broker/brokertest"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// carriedBy is the configuration of a server whose queues all go by m.
func carriedBy(m broker.Broker) engine.Config {
	return engine.Config{Brokers: map[string]broker.Broker{"rabbitmq": m}, DefaultRoute: "rabbitmq"}
}

// inCarriedWorld is inWorld with a carrier, which is made in the bubble of time.
func inCarriedWorld(t *testing.T, fn func(w *world, m *brokertest.Memory)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := brokertest.NewMemory(30 * time.Second)
		w := start(t, newFake(), carriedBy(m))
		defer func() { w.stop() }()
		fn(w, m)
	})
}

// crew is a worker: it leases with so many hands, holds each job for a while and settles it.
type crew struct {
	w     *world
	s     job.ID
	kinds []string
	hands int
	takes time.Duration

	mu   sync.Mutex
	done []job.Job
	stop context.CancelFunc
	end  sync.WaitGroup
}

func (w *world) crew(hands int, takes time.Duration, kinds ...string) *crew {
	w.t.Helper()
	s := w.id()
	s[0] = 0xee
	_, err := w.OpenSession(w.ctx, ledger.Session{ID: s, Worker: "crew", Queues: []string{"default"}, Kinds: kinds, Concurrency: hands})
	w.ok(err)
	ctx, stop := context.WithCancel(w.ctx)
	c := &crew{w: w, s: s, kinds: kinds, hands: hands, takes: takes, stop: stop}
	c.end.Go(func() { c.run(ctx) })
	c.end.Go(func() { c.renew(ctx) })
	return c
}

func (c *crew) run(ctx context.Context) {
	for call := int64(1); ctx.Err() == nil; call += 2 {
		jobs, _, err := c.w.Lease(ctx, engine.LeaseRequest{
			Session: c.s, Call: call, Queues: []string{"default"}, Kinds: c.kinds, Max: c.hands, Wait: 20 * time.Second,
		})
		if err != nil && ctx.Err() == nil && job.CodeOf(err) != job.Unavailable {
			c.w.t.Errorf("lease: %v", err)
		}
		if len(jobs) == 0 {
			continue
		}
		time.Sleep(c.takes) // of virtual time
		c.settle(jobs)
	}
}

func (c *crew) settle(jobs []job.Job) {
	items := make([]engine.Settlement, len(jobs))
	for i, j := range jobs {
		items[i] = engine.Settlement{ID: j.ID, Token: j.Token, Event: job.Succeed}
	}
	out, err := c.w.Settle(context.Background(), c.s, items)
	if err != nil {
		c.w.t.Errorf("settle: %v", err)
		return
	}
	for i, a := range out {
		if a.Err != nil || a.Repeated {
			c.w.t.Errorf("settle of %s: %+v", jobs[i].ID, a)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = append(c.done, jobs...)
}

// renew keeps the session alive; it names nothing, for Lease calls are pending all the time.
func (c *crew) renew(ctx context.Context) {
	for ctx.Err() == nil {
		time.Sleep(5 * time.Second)
		_, _ = c.w.OpenSession(ctx, ledger.Session{ID: c.s, Worker: "crew", Queues: []string{"default"}, Concurrency: c.hands})
	}
}

func (c *crew) leave() {
	c.stop()
	c.end.Wait()
}

func (c *crew) jobs() []job.Job {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.done)
}

// doneBy waits until all of ids have succeeded, each once, by any of the crews.
func (w *world) doneBy(within time.Duration, ids []job.ID, crews ...*crew) {
	w.t.Helper()
	want := map[job.ID]bool{}
	for _, id := range ids {
		want[id] = true
	}
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		seen := map[job.ID]int{}
		for _, c := range crews {
			for _, j := range c.jobs() {
				seen[j.ID]++
			}
		}
		missing := maps.Clone(want)
		for id, n := range seen {
			if n > 1 {
				w.t.Fatalf("job %s was done %d times", id, n)
			}
			delete(missing, id)
		}
		if len(missing) == 0 {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%d of %d jobs are not done after %s: info %+v", len(missing), len(ids), within, w.Info())
		}
	}
}

func TestCarriedJobsAreLeasedByTheirRefs(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		c := w.crew(50, 10*time.Millisecond, "k")
		defer c.leave()
		w.known(c)
		var ids []job.ID
		for range 20 {
			ids = append(ids, w.put(100)...)
		}
		w.doneBy(20*time.Second, ids, c)
		if n := w.Info().LeasedByRef; n < 1500 {
			t.Errorf("%d of 2000 jobs came by the carrier", n)
		}
	})
}

// A fresh job of an idle queue is there at once, without a poll.
func TestFreshJobComesByTheCarrierAtOnce(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		c := w.crew(10, 0, "k")
		defer c.leave()
		time.Sleep(3*time.Second + 123*time.Millisecond)
		for range 5 {
			began := time.Now()
			w.doneBy(time.Second, w.put(1), c)
			if d := time.Since(began); d > 20*time.Millisecond {
				t.Errorf("it took %s", d)
			}
			time.Sleep(7 * time.Second)
		}
		if n := w.Info().LeasedByRef; n < 4 {
			t.Errorf("%d of 5 jobs came by the carrier", n)
		}
	})
}

func TestUrgentJobOvertakesABacklogOnACarrier(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		var ids []job.ID
		for range 3 { // test/e2e has ten thousand, on real parts
			ids = append(ids, w.put(1000)...)
		}
		c := w.crew(10, 10*time.Millisecond, "k")
		defer c.leave()
		time.Sleep(3 * time.Second)
		before := len(c.jobs())
		urgent := item(w.id())
		urgent.Job.Priority = 0
		_, err := w.Enqueue(w.ctx, "", []engine.Item{urgent})
		w.ok(err)
		w.doneBy(time.Minute, []job.ID{urgent.Job.ID}, c)
		// What was published before it goes first: a window, and what was under way.
		if n := len(c.jobs()) - before; n > 300 {
			t.Errorf("%d jobs went before the urgent one", n)
		}
		w.doneBy(time.Minute, ids, c)
	})
}

func TestCarrierAwayFallsBackAndReturns(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		c := w.crew(50, 0, "k")
		defer c.leave()
		time.Sleep(2 * time.Second)
		m.SetDown(true)
		ids := w.put(500) // does not ask the carrier
		w.doneBy(5*time.Second, ids, c)
		time.Sleep(10 * time.Second)
		w.doneBy(2*time.Second, w.put(500), c)
		m.SetDown(false)
		time.Sleep(10 * time.Second)
		before := w.Info().LeasedByRef
		w.doneBy(5*time.Second, w.put(500), c)
		if w.Info().LeasedByRef-before < 400 {
			t.Errorf("%d of 500 jobs came by the carrier after its return", w.Info().LeasedByRef-before)
		}
	})
}

// A carrier that loses everything costs time, and nothing else.
func TestPurgedCarrierLosesNoJob(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		c := w.crew(20, 50*time.Millisecond, "k")
		defer c.leave()
		time.Sleep(2 * time.Second)
		ids := w.put(1000)
		for range 5 {
			time.Sleep(100 * time.Millisecond)
			for _, topic := range m.Topics() {
				m.Purge(topic)
			}
		}
		m.Drop(50)
		m.Double(100)
		w.doneBy(2*time.Minute, ids, c)
	})
}

func TestPausedQueueWithRefsInFlight(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		c := w.crew(10, 10*time.Millisecond, "k")
		defer c.leave()
		time.Sleep(2 * time.Second)
		ids := w.put(1000)
		time.Sleep(100 * time.Millisecond)
		w.ok(w.Pause(w.ctx, "default"))
		time.Sleep(20 * time.Millisecond) // what was leased before is settled
		done := len(c.jobs())
		if done == 0 || done >= 1000 {
			t.Fatalf("%d jobs were done before the pause", done)
		}
		time.Sleep(time.Minute)
		if n := len(c.jobs()); n != done {
			t.Errorf("%d jobs were done in a paused queue", n-done)
		}
		w.ok(w.Resume(w.ctx, "default"))
		w.doneBy(10*time.Second, ids, c)
	})
}

// A pause so short that the relay may not have noticed it must not leave refs behind.
func TestBlinkOfAPause(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		c := w.crew(10, 10*time.Millisecond, "k")
		defer c.leave()
		time.Sleep(2 * time.Second)
		ids := w.put(500)
		for range 10 {
			time.Sleep(25 * time.Millisecond)
			w.ok(w.Pause(w.ctx, "default"))
			time.Sleep(15 * time.Millisecond)
			w.ok(w.Resume(w.ctx, "default"))
		}
		w.doneBy(10*time.Second, ids, c)
	})
}

func TestRouteChangedUnderLoad(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		w.stop()
		w.stop = func() {}
		w = start(t, w.f, engine.Config{Brokers: map[string]broker.Broker{"rabbitmq": m, "kafka": brokertest.NewMemory(30 * time.Second)}})
		defer w.stop()
		c := w.crew(20, 5*time.Millisecond, "k")
		defer c.leave()
		var ids []job.ID
		for _, route := range []string{"rabbitmq", "kafka", "direct", "kafka", "rabbitmq", ""} {
			w.ok(w.SetRoute(w.ctx, "default", route))
			for range 30 {
				ids = append(ids, w.put(20)...)
				time.Sleep(100 * time.Millisecond)
			}
		}
		w.doneBy(20*time.Second, ids, c)
		if n := w.Info().LeasedByRef; n < 1000 {
			t.Errorf("%d of 3600 jobs came by a carrier", n)
		}
	})
}

func TestRoutesThatMakeNoSense(t *testing.T) {
	inCarriedWorld(t, func(w *world, _ *brokertest.Memory) {
		w.reason(w.SetRoute(w.ctx, "default", "pigeon"), job.ReasonBadField)
		w.reason(w.SetRoute(w.ctx, "default", "kafka"), job.ReasonNoBroker)
		w.reason(w.SetRoute(w.ctx, "", "direct"), job.ReasonBadField)
		list, err := w.Queues(w.ctx)
		w.ok(err)
		if len(list) != 0 {
			t.Errorf("a refused route made a queue: %+v", list)
		}
		w.ok(w.SetRoute(w.ctx, "mail", "direct"))
		if list, err = w.Queues(w.ctx); err != nil || len(list) != 1 || list[0].Route != "direct" {
			t.Errorf("queues %+v, %v", list, err)
		}
	})
}

// Two kinds, and workers that take one each: a server may hold a ref that none of
// its own takes. Such kinds are leased directly.
func TestKindsThatNotEveryWorkerTakes(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		a := w.crew(10, 0, "a", "both")
		b := w.crew(10, 0, "b", "both")
		defer a.leave()
		defer b.leave()
		time.Sleep(3 * time.Second)
		var ids []job.ID
		for i := range 300 {
			it := item(w.id())
			it.Job.Kind = []string{"a", "b", "both"}[i%3]
			ids = append(ids, it.Job.ID)
			_, err := w.Enqueue(w.ctx, "", []engine.Item{it})
			w.ok(err)
		}
		w.doneBy(10*time.Second, ids, a, b)
		for _, c := range []*crew{a, b} {
			for _, j := range c.jobs() {
				if !slices.Contains(c.kinds, j.Kind) {
					t.Errorf("a worker of %v got a job of kind %s", c.kinds, j.Kind)
				}
			}
		}
	})
}

// A ref of a kind that this server's workers do not know, as a relay that has not
// heard of a new worker may send: it goes back, and the job is not harmed.
func TestRefOfAKindUnknownHere(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		c := w.crew(10, 0, "k")
		time.Sleep(3 * time.Second)
		stranger := item(w.id())
		stranger.Job.Kind = "stranger"
		_, err := w.Enqueue(w.ctx, "", []engine.Item{stranger})
		w.ok(err)
		body := fmt.Sprintf(`{"queue":"default","kind":"stranger","refs":[{"job":%q,"token":0}]}`, stranger.Job.ID)
		nonsense := []string{"", "{", `{"queue":"other","kind":"k","refs":[{"job":"` + stranger.Job.ID.String() + `","token":0}]}`, `{"queue":"default","kind":"k","refs":[]}`}
		identity, err := w.f.Identity(w.ctx)
		w.ok(err)
		topic := "errand." + identity + ".q.default"
		for _, b := range append(nonsense, body) {
			w.ok(m.Publish(w.ctx, topic, [][]byte{[]byte(b)}))
		}
		time.Sleep(5 * time.Second)
		w.is(stranger.Job.ID, job.Ready)
		if n, err := m.Depth(w.ctx, topic); err != nil || n != 0 {
			t.Errorf("%d messages are left, %v", n, err)
		}
		w.doneBy(5*time.Second, w.put(10), c) // the consumer goes on
		c.leave()
		d := w.crew(10, 0, "stranger")
		defer d.leave()
		w.doneBy(5*time.Second, []job.ID{stranger.Job.ID}, d)
	})
}

// The relay dies between a confirm and the next window: another takes the lead when
// its time is over, and meanwhile jobs are leased directly.
func TestRelayDiesAndIsReplaced(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		time.Sleep(time.Second) // the first takes the lead
		two := carriedBy(m.Second())
		other := start(t, w.f, two)
		defer func() { other.stop() }()
		other.ids = 1 << 40
		c := other.crew(50, 10*time.Millisecond, "k")
		defer c.leave()
		time.Sleep(3 * time.Second)
		if !w.Info().RelayLeads || other.Info().RelayLeads {
			t.Fatalf("leaders: %v, %v", w.Info().RelayLeads, other.Info().RelayLeads)
		}
		ids := other.put(1000)
		time.Sleep(50 * time.Millisecond)
		// The lead is not given up: as if the process were gone.
		w.f.hook(func(method string) error {
			if method == "HoldRelay" {
				return job.Errorf(job.Unavailable, job.ReasonLedgerDown, "gone")
			}
			return nil
		}, nil)
		w.stop()
		w.f.hook(nil, nil)
		w.stop = func() {}
		other.doneBy(20*time.Second, ids, c)
		time.Sleep(10 * time.Second)
		if !other.Info().RelayLeads {
			t.Fatal("nobody leads")
		}
		before := other.Info().LeasedByRef
		other.doneBy(5*time.Second, other.put(500), c)
		if other.Info().LeasedByRef-before < 400 {
			t.Errorf("%d of 500 jobs came by the carrier under the new leader", other.Info().LeasedByRef-before)
		}
	})
}

// Consumers that stall for many republish intervals: the carrier's depth stays under
// its bound, and the jobs go on directly.
func TestStalledConsumersBoundTheDepth(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		c := w.crew(10, 100*time.Millisecond, "k")
		defer c.leave()
		time.Sleep(2 * time.Second)
		m.Stall(true)
		identity, err := w.f.Identity(w.ctx)
		w.ok(err)
		var ids []job.ID
		for range 240 {
			ids = append(ids, w.put(50)...)
			time.Sleep(time.Second)
			n, err := m.Depth(w.ctx, "errand."+identity+".q.default")
			w.ok(err)
			if n > 2*200+100 {
				t.Fatalf("the carrier holds %d messages", n)
			}
		}
		done := len(c.jobs())
		if done < 5000 {
			t.Errorf("%d jobs were done while the carrier stalled", done)
		}
		m.Stall(false)
		w.doneBy(10*time.Minute, ids, c)
	})
}

// Suspects never go by a carrier, and are not starved by those who do.
func TestSuspectsOfABusyCarriedQueue(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		ids := w.put(1)
		pill := w.open()
		if jobs := w.lease(pill, 1, 1); len(jobs) != 1 {
			t.Fatal("no job")
		}
		time.Sleep(ttl + 5*time.Second) // the session dies
		if j := w.is(ids[0], job.Ready); j.Crashes != 1 {
			t.Fatalf("%d crashes", j.Crashes)
		}
		w.put(1000)
		c := w.crew(10, 20*time.Millisecond, "k")
		defer c.leave()
		for range 50 {
			w.put(40)
			time.Sleep(100 * time.Millisecond)
		}
		w.doneBy(5*time.Second, ids, c)
	})
}
