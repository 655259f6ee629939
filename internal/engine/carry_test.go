package engine_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/broker/brokertest"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// inCarriedWorldOf is inCarriedWorld with a broker between server and carrier, and
// a configuration of the test's own.
func inCarriedWorldOf(t *testing.T, between func(m *brokertest.Memory) broker.Broker, c engine.Config, fn func(w *world, m *brokertest.Memory)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := brokertest.NewMemory(30 * time.Second)
		c.Brokers, c.DefaultRoute = map[string]broker.Broker{"rabbitmq": between(m)}, "rabbitmq"
		w := start(t, newFake(), c)
		defer func() { w.stop() }()
		fn(w, m)
	})
}

func straight(m *brokertest.Memory) broker.Broker { return m }

// known has a queue known to exist, and its consumer there.
func (w *world) known(c *crew) {
	w.t.Helper()
	w.doneBy(30*time.Second, w.put(1), c)
	time.Sleep(2 * time.Second)
}

// The carrier answers, and nobody publishes: no process has the relay's role, or
// what it publishes goes nowhere. A fresh job does not wait for a poll.
func TestFreshJobWithoutARefWaitsForNoPoll(t *testing.T) {
	slow := engine.Config{PollInterval: 20 * time.Second}
	for name, roles := range map[string]engine.Role{"no relay": engine.RoleAPI | engine.RoleKeeper, "nothing comes": 0} {
		t.Run(name, func(t *testing.T) {
			c := slow
			c.Roles = roles
			inCarriedWorldOf(t, straight, c, func(w *world, m *brokertest.Memory) {
				m.Stall(true)
				c := w.crew(10, 0, "k")
				defer c.leave()
				w.known(c)
				for range 5 {
					time.Sleep(3 * time.Second)
					w.doneBy(time.Second, w.put(1), c)
				}
			})
		})
	}
}

// While a queue's jobs are left to refs, a job whose ref does not come causes no claim that could not
// find it; the poll does, once that time is over.
func TestNoLookWhileJobsAreLeftToRefs(t *testing.T) {
	inCarriedWorldOf(t, straight, engine.Config{PollInterval: 10 * time.Second}, func(w *world, m *brokertest.Memory) {
		c := w.crew(10, 0, "k")
		defer c.leave()
		w.known(c)
		time.Sleep(9 * time.Second) // a poll has just been
		w.doneBy(time.Second, w.put(1), c)
		if n := w.Info().LeasedByRef; n == 0 {
			t.Fatal("no job came by the carrier")
		}
		m.Stall(true)
		before := w.f.count("Claim")
		ids := w.put(1)
		time.Sleep(time.Second)
		if n := w.f.count("Claim") - before; n > 0 {
			t.Errorf("%d claims that could find nothing", n)
		}
		w.doneBy(50*time.Second, ids, c) // two intervals and a poll, and two intervals more for a try
	})
}

// However many wakes come, the relay's looks at a queue and for queues keep their distance.
func TestWakesDoNotMakeTheRelayLookWithoutRest(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		c := w.crew(1, 10*time.Second, "k")
		defer c.leave()
		w.put(5) // four of them wait
		time.Sleep(2 * time.Second)
		var heads, counts atomic.Int64
		w.f.hook(func(method string) error {
			switch method {
			case "Heads":
				heads.Add(1)
			case "Counts":
				counts.Add(1)
			}
			return nil
		}, nil)
		defer w.f.hook(nil, nil)
		for range 10_000 { // a second
			w.ok(w.Wake(w.ctx, []string{"default", "empty"}))
			time.Sleep(100 * time.Microsecond)
		}
		if n := heads.Load(); n < 100 || n > 250 {
			t.Errorf("%d looks at the queue in a second", n)
		}
		if n := counts.Load(); n < 5 || n > 20 {
			t.Errorf("%d looks for queues in a second", n)
		}
	})
}

// A name that some worker asks for is no queue: nothing is made at the carrier before
// there is a job, or a route.
func TestNoTopicForANameAlone(t *testing.T) {
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		made := func() bool {
			return slices.ContainsFunc(m.Topics(), func(topic string) bool { return strings.HasSuffix(topic, ".q.default") })
		}
		c := w.crew(10, 0, "k")
		defer c.leave()
		time.Sleep(10 * time.Second)
		if made() {
			t.Fatalf("topics %q, without a job", m.Topics())
		}
		w.doneBy(5*time.Second, w.put(1), c)
		time.Sleep(2 * time.Second) // a worker between two calls is none that waits: the ledger is asked then
		if !made() {
			t.Fatalf("topics %q, with a job that has come", m.Topics())
		}
	})
	inCarriedWorld(t, func(w *world, m *brokertest.Memory) {
		w.ok(w.SetRoute(w.ctx, "default", "rabbitmq"))
		c := w.crew(10, 0, "k")
		defer c.leave()
		time.Sleep(5 * time.Second)
		if !slices.ContainsFunc(m.Topics(), func(topic string) bool { return strings.HasSuffix(topic, ".q.default") }) {
			t.Fatalf("topics %q, with a route", m.Topics())
		}
	})
}

// hanging is a broker whose calls of one kind answer no more, until their time is over.
type hanging struct {
	broker.Broker
	hang string // the method
	on   *atomic.Bool
}

func (h hanging) wait(ctx context.Context, method string) error {
	if method != h.hang || !h.on.Load() {
		return nil
	}
	<-ctx.Done()
	return job.Errorf(job.Unavailable, "", "no answer: %w", ctx.Err())
}

func (h hanging) Subscribe(ctx context.Context, topic string) (broker.Subscription, error) {
	if err := h.wait(ctx, "Subscribe"); err != nil {
		return nil, err
	}
	sub, err := h.Broker.Subscribe(ctx, topic)
	return hangingSub{sub, h}, err
}

type hangingSub struct {
	broker.Subscription
	h hanging
}

func (s hangingSub) Ack(ctx context.Context, msgs []broker.Message) error {
	if err := s.h.wait(ctx, "Ack"); err != nil {
		return err
	}
	return s.Subscription.Ack(ctx, msgs)
}

func (s hangingSub) Rest(ctx context.Context) error {
	if err := s.h.wait(ctx, "Rest"); err != nil {
		return err
	}
	return s.Subscription.Rest(ctx)
}

// A call to the carrier that is never answered holds a consumer for its patience only.
func TestNoCallToTheCarrierHoldsAConsumerForGood(t *testing.T) {
	for _, method := range []string{"Subscribe", "Ack", "Rest"} {
		t.Run(method, func(t *testing.T) {
			var on atomic.Bool
			on.Store(method == "Subscribe")
			between := func(m *brokertest.Memory) broker.Broker { return hanging{m, method, &on} }
			inCarriedWorldOf(t, between, engine.Config{}, func(w *world, m *brokertest.Memory) {
				c := w.crew(10, 0, "k")
				w.known(c)
				on.Store(true)
				w.doneBy(10*time.Second, w.put(100), c)
				if method == "Rest" { // it comes when no worker waits
					c.leave()
					time.Sleep(20 * time.Second)
					c = w.crew(10, 0, "k")
				}
				time.Sleep(time.Second)
				on.Store(false)
				time.Sleep(30 * time.Second)
				before := w.Info().LeasedByRef
				for range 10 {
					w.doneBy(10*time.Second, w.put(100), c)
				}
				if n := w.Info().LeasedByRef - before; n < 500 {
					t.Errorf("%d of 1000 jobs came by the carrier when it answered again", n)
				}
				c.leave()
			})
		})
	}
}

// Nor does one hold the relay's ear for what other servers return.
func TestNoCallToTheCarrierHoldsTheReturnsForGood(t *testing.T) {
	for _, method := range []string{"Subscribe", "Ack"} {
		t.Run(method, func(t *testing.T) {
			var on atomic.Bool
			on.Store(true)
			between := func(m *brokertest.Memory) broker.Broker { return hanging{m, method, &on} }
			inCarriedWorldOf(t, between, engine.Config{}, func(w *world, m *brokertest.Memory) {
				identity, err := w.f.Identity(w.ctx)
				w.ok(err)
				topic := "errand." + identity + ".returns"
				body := fmt.Sprintf(`{"queue":"default","kind":"k","refs":[{"job":%q,"token":0}]}`, job.ID{7})
				time.Sleep(5 * time.Second) // it leads
				w.ok(m.Publish(w.ctx, topic, [][]byte{[]byte(body)}))
				time.Sleep(time.Second)
				on.Store(false)
				time.Sleep(20 * time.Second)
				w.ok(m.Publish(w.ctx, topic, [][]byte{[]byte(body)}))
				time.Sleep(5 * time.Second)
				if n, err := m.Depth(w.ctx, topic); err != nil || n != 0 {
					t.Errorf("%d messages are left, %v", n, err)
				}
			})
		})
	}
}

// Refs that bring no job are no sign that the carrier brings jobs: the queue is
// leased directly, but for a second now and then.
func TestRefsOfNoUseKeepNobodyFromTheLedger(t *testing.T) {
	noRelay := engine.Config{Roles: engine.RoleAPI | engine.RoleKeeper}
	inCarriedWorldOf(t, straight, noRelay, func(w *world, m *brokertest.Memory) {
		c := w.crew(10, 0, "k")
		defer c.leave()
		w.known(c)
		identity, err := w.f.Identity(w.ctx)
		w.ok(err)
		ctx, stop := context.WithCancel(w.ctx)
		var flood sync.WaitGroup
		flood.Go(func() {
			for ctx.Err() == nil { // refs of jobs that are gone
				body := fmt.Sprintf(`{"queue":"default","kind":"k","refs":[{"job":%q,"token":0}]}`, job.ID{7})
				_ = m.Publish(ctx, "errand."+identity+".q.default", [][]byte{[]byte(body)})
				time.Sleep(10 * time.Millisecond)
			}
		})
		defer flood.Wait()
		defer stop()
		late := 0
		for range 200 {
			began := time.Now()
			w.doneBy(2*time.Second, w.put(1), c)
			if time.Since(began) > 600*time.Millisecond {
				late++
			}
			time.Sleep(137 * time.Millisecond)
		}
		if late > 20 {
			t.Errorf("%d of 200 jobs waited for longer than a poll", late)
		}
	})
}

// slowly is a carrier that takes a moment to bring a message.
type slowly struct{ broker.Broker }

func (s slowly) Subscribe(ctx context.Context, topic string) (broker.Subscription, error) {
	sub, err := s.Broker.Subscribe(ctx, topic)
	return slowSub{sub}, err
}

type slowSub struct{ broker.Subscription }

func (s slowSub) Receive(ctx context.Context, most int, wait time.Duration) ([]broker.Message, error) {
	msgs, err := s.Subscription.Receive(ctx, most, wait)
	time.Sleep(20 * time.Millisecond)
	return msgs, err
}

// Direct leasing that is quicker than the refs makes way for them, rather than
// making all of them useless for good.
func TestSlowRefsGetTheirChance(t *testing.T) {
	between := func(m *brokertest.Memory) broker.Broker { return slowly{m} }
	inCarriedWorldOf(t, between, engine.Config{}, func(w *world, m *brokertest.Memory) {
		crews := []*crew{w.crew(10, time.Millisecond, "k"), w.crew(10, time.Millisecond, "k")}
		w.doneBy(30*time.Second, w.put(1), crews...)
		time.Sleep(2 * time.Second)
		var ids []job.ID
		for range 5 {
			ids = append(ids, w.put(1000)...)
		}
		w.doneBy(time.Minute, ids, crews...)
		if n := w.Info().LeasedByRef; n < 2500 {
			t.Errorf("%d of 5000 jobs came by the carrier", n)
		}
		for _, c := range crews {
			c.leave()
		}
	})
}

// canary opens the session of a server's canary.
func (w *world) canary() job.ID {
	w.t.Helper()
	id := w.id()
	id[0] = 0xca
	_, err := w.OpenSession(w.ctx, ledger.Session{
		ID: id, Worker: "canary", Queues: []string{"default"}, Kinds: []string{job.KindCanary}, Concurrency: 1,
	})
	w.ok(err)
	return id
}

// awaitCanary leases as a canary's worker does.
func (w *world) awaitCanary(ctx context.Context, s job.ID, call int64) ([]job.Job, error) {
	jobs, _, err := w.Lease(ctx, engine.LeaseRequest{
		Session: s, Call: call, Queues: []string{"default"}, Kinds: []string{job.KindCanary}, Max: 1, Wait: 20 * time.Second,
	})
	return jobs, err
}

// A canary goes by no carrier, and waits for no poll, however busy the carrier is.
func TestCanaryOfABusyCarriedQueue(t *testing.T) {
	inCarriedWorldOf(t, straight, engine.Config{PollInterval: 5 * time.Second}, func(w *world, m *brokertest.Memory) {
		c := w.crew(10, 0, "k")
		defer c.leave()
		s := w.canary()
		time.Sleep(2 * time.Second)
		w.known(c)
		w.doneBy(10*time.Second, w.put(10), c)
		if n := w.Info().LeasedByRef; n == 0 {
			t.Fatal("no job came by the carrier")
		}
		for call := range int64(4) {
			late := time.AfterFunc(10*time.Millisecond, func() {
				it := item(w.id())
				it.Job.Kind = job.KindCanary
				_, err := w.Enqueue(w.ctx, "", []engine.Item{it})
				w.ok(err)
			})
			began := time.Now()
			jobs, err := w.awaitCanary(w.ctx, s, call+1)
			w.ok(err)
			if d := time.Since(began); len(jobs) != 1 || d > time.Second {
				t.Errorf("call %d: %d canaries, after %s", call+1, len(jobs), d)
			}
			late.Stop()
			w.doneBy(10*time.Second, w.put(10), c)
		}
	})
}

// counting counts what is asked of a carrier for the queue default: subscriptions and messages.
type counting struct {
	broker.Broker
	asked *atomic.Int64
}

func (c counting) Subscribe(ctx context.Context, topic string) (broker.Subscription, error) {
	sub, err := c.Broker.Subscribe(ctx, topic)
	if err != nil || !strings.HasSuffix(topic, ".q.default") {
		return sub, err
	}
	c.asked.Add(1)
	return countingSub{sub, c.asked}, nil
}

type countingSub struct {
	broker.Subscription
	asked *atomic.Int64
}

func (s countingSub) Receive(ctx context.Context, most int, wait time.Duration) ([]broker.Message, error) {
	s.asked.Add(1)
	return s.Subscription.Receive(ctx, most, wait)
}

// A server with a canary alone takes no refs: it could only keep them from those with workers.
func TestCanaryAloneReceivesNoRefs(t *testing.T) {
	var asked atomic.Int64
	between := func(m *brokertest.Memory) broker.Broker { return counting{m, &asked} }
	inCarriedWorldOf(t, between, engine.Config{}, func(w *world, m *brokertest.Memory) {
		w.ok(w.SetRoute(w.ctx, "default", "rabbitmq"))
		s := w.canary()
		ctx, stop := context.WithCancel(w.ctx)
		var calls sync.WaitGroup
		calls.Go(func() {
			for call := int64(1); ctx.Err() == nil; call++ {
				_, _ = w.awaitCanary(ctx, s, call)
			}
		})
		defer calls.Wait()
		defer stop()
		time.Sleep(5 * time.Second)
		if n := asked.Load(); n > 0 {
			t.Errorf("%d calls before a worker has come", n)
		}
		c := w.crew(10, 0, "k")
		w.doneBy(10*time.Second, w.put(10), c)
		time.Sleep(3 * time.Second)
		c.leave()
		if asked.Load() == 0 {
			t.Error("no call with a worker")
		}
		time.Sleep(3 * time.Second)
		before := asked.Load()
		time.Sleep(10 * time.Second)
		if n := asked.Load() - before; n > 0 {
			t.Errorf("%d calls when the worker had left", n)
		}
	})
}
