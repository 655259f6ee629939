package engine_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ttl is the time-to-live of sessions in these tests; time is virtual.
const ttl = 30 * time.Second

// world is an engine that runs over a fake ledger, in a bubble of virtual time.
type world struct {
	*engine.Engine
	t    *testing.T
	ctx  context.Context
	f    *fake
	stop func()
	ids  uint64
}

// inWorld runs fn with a running engine. What fn leaves running is a failure.
func inWorld(t *testing.T, c engine.Config, fn func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := start(t, f, c)
		defer func() { w.stop() }()
		fn(w)
	})
}

// start runs one more engine over f: another server.
func start(t *testing.T, f *fake, c engine.Config) *world {
	ctx, cancel := context.WithCancel(context.Background())
	if c.SessionTTL == 0 {
		c.SessionTTL = ttl
	}
	c.Rand = func() float64 { return 0.5 }
	w := &world{Engine: engine.New(f, c), t: t, ctx: ctx, f: f}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	synctest.Wait()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	return w
}

// id makes the n-th id of this world.
func (w *world) id() job.ID {
	w.ids++
	var id job.ID
	binary.BigEndian.PutUint64(id[8:], w.ids)
	return id
}

// put enqueues n plain jobs of a kind and returns their ids.
func (w *world) put(n int) []job.ID {
	w.t.Helper()
	items := make([]engine.Item, n)
	for i := range items {
		items[i] = item(w.id())
	}
	answers, err := w.Enqueue(w.ctx, "", items)
	w.ok(err)
	ids := make([]job.ID, n)
	for i, a := range answers {
		w.ok(a.Err)
		ids[i] = a.ID
	}
	return ids
}

func item(id job.ID) engine.Item {
	return engine.Item{Job: job.Job{ID: id, Kind: "k", Priority: job.DefaultPriority, Payload: []byte(`1`)}}
}

// open opens a session on queue default.
func (w *world) open() job.ID {
	w.t.Helper()
	id := w.id()
	id[0] = 0xff
	_, err := w.OpenSession(w.ctx, ledger.Session{ID: id, Worker: fmt.Sprintf("worker-%d", w.ids), Queues: []string{"default"}, Concurrency: 10})
	w.ok(err)
	return id
}

// lease leases up to n jobs without waiting.
func (w *world) lease(s job.ID, call int64, n int) []job.Job {
	w.t.Helper()
	jobs, _, err := w.Lease(w.ctx, engine.LeaseRequest{Session: s, Call: call, Queues: []string{"default"}, Max: n})
	w.ok(err)
	return jobs
}

// extend renews without waiting.
func (w *world) extend(s job.ID, call int64, held []job.Job, pending ...int64) engine.ExtendReply {
	w.t.Helper()
	r, err := w.Extend(w.ctx, engine.ExtendRequest{Session: s, Call: call, Held: names(held), Pending: pending})
	w.ok(err)
	return r
}

func names(jobs []job.Job) []engine.Held {
	var out []engine.Held
	for _, j := range jobs {
		out = append(out, engine.Held{ID: j.ID, Token: j.Token})
	}
	return out
}

// settle settles one job.
func (w *world) settle(s job.ID, j job.Job, ev job.Event) engine.Settled {
	w.t.Helper()
	it := engine.Settlement{ID: j.ID, Token: j.Token, Event: ev, Error: "boom"}
	if ev == job.Snooze {
		it.Delay = time.Hour
	}
	out, err := w.Settle(w.ctx, s, []engine.Settlement{it})
	w.ok(err)
	return out[0]
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%v", err)
	}
}

// is checks the state of a job.
func (w *world) is(id job.ID, want job.State) job.Job {
	w.t.Helper()
	j := w.f.get(id)
	if j.State != want {
		w.t.Fatalf("job is %s, want %s (errors %v)", j.State, want, j.Errors)
	}
	return j
}

func (w *world) fails(err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Fatalf("error is %v, want %v", err, want)
	}
}

// reason checks the reason of a refusal.
func (w *world) reason(err error, want job.Reason) {
	w.t.Helper()
	if job.ReasonOf(err) != want {
		w.t.Fatalf("error is %v (%s), want %s", err, job.ReasonOf(err), want)
	}
}
