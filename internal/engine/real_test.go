package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/postgres"
	"github.com/errandhq/errand/ledger/sqlite"
)

// realLedgers opens a fresh ledger of each kind.
var realLedgers = map[string]func(testing.TB) ledger.Ledger{
	"postgres": func(t testing.TB) ledger.Ledger {
		l, err := postgres.Open(context.Background(), testenv.Postgres(t), postgres.Options{})
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		return l
	},
	"sqlite": func(t testing.TB) ledger.Ledger {
		l, err := sqlite.Open(context.Background(), filepath.Join(t.TempDir(), "errand.db"), sqlite.Options{})
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		return l
	},
}

// onReal runs fn with an engine over each real ledger, in real time.
func onReal[T interface {
	testing.TB
	Run(string, func(T)) bool
}](t T, c engine.Config, fn func(T, *engine.Engine)) {
	for name, open := range realLedgers {
		t.Run(name, func(t T) {
			l := open(t)
			e := engine.New(l, c)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- e.Run(ctx) }()
			t.Cleanup(func() {
				cancel()
				<-done
				if err := l.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			fn(t, e)
		})
	}
}

func newSession(t testing.TB, e *engine.Engine) job.ID {
	t.Helper()
	id := job.ID(uuid.Must(uuid.NewV7()))
	if _, err := e.OpenSession(t.Context(), ledger.Session{ID: id, Worker: "w", Queues: []string{"default"}, Concurrency: 1000}); err != nil {
		t.Fatalf("open session: %v", err)
	}
	return id
}

// work leases and succeeds until n jobs have.
func work(t testing.TB, e *engine.Engine, s job.ID, n int) {
	t.Helper()
	end(t, e, s, n, job.Succeed, job.Succeeded)
}

// end leases and settles until n jobs are in the state.
func end(t testing.TB, e *engine.Engine, s job.ID, n int, event job.Event, state job.State) {
	t.Helper()
	for call := int64(1); n > 0; call++ {
		jobs, _, err := e.Lease(t.Context(), engine.LeaseRequest{Session: s, Call: call, Queues: []string{"default"}, Max: 1000, Wait: 10 * time.Second})
		if err != nil || len(jobs) == 0 {
			t.Fatalf("lease: %d jobs, %v", len(jobs), err)
		}
		items := make([]engine.Settlement, len(jobs))
		for i, j := range jobs {
			items[i] = engine.Settlement{ID: j.ID, Token: j.Token, Event: event}
		}
		out, err := e.Settle(t.Context(), s, items)
		if err != nil {
			t.Fatalf("settle: %v", err)
		}
		for _, a := range out {
			if a.Err != nil || a.State != state || a.Repeated {
				t.Fatalf("settle: %+v", a)
			}
		}
		n -= len(jobs)
	}
}

func TestRealManyCallersAndAWorker(t *testing.T) {
	onReal(t, engine.Config{}, func(t *testing.T, e *engine.Engine) {
		const callers, each = 16, 20
		var group sync.WaitGroup
		for range callers {
			group.Go(func() {
				for range each {
					out, err := e.Enqueue(t.Context(), "", []engine.Item{item(job.ID{})})
					if err != nil || out[0].Err != nil {
						t.Errorf("enqueue: %+v, %v", out, err)
					}
				}
			})
		}
		work(t, e, newSession(t, e), callers*each)
		group.Wait()
		queues, err := e.Queues(t.Context())
		if err != nil || len(queues) != 1 || queues[0].Counts[job.Succeeded] != callers*each {
			t.Fatalf("queues %+v, %v", queues, err)
		}
	})
}

func TestRealLifeOfAHardJob(t *testing.T) {
	onReal(t, engine.Config{SessionTTL: 4 * time.Second, BackoffBase: time.Millisecond}, func(t *testing.T, e *engine.Engine) {
		ctx := t.Context()
		out, err := e.Enqueue(ctx, "", []engine.Item{item(job.ID{})})
		if err != nil || out[0].Err != nil {
			t.Fatalf("enqueue: %+v, %v", out, err)
		}
		lease := func(s job.ID, call int64) job.Job {
			t.Helper()
			jobs, _, err := e.Lease(ctx, engine.LeaseRequest{Session: s, Call: call, Queues: []string{"default"}, Max: 1, Wait: 10 * time.Second})
			if err != nil || len(jobs) != 1 {
				t.Fatalf("lease: %d jobs, %v", len(jobs), err)
			}
			return jobs[0]
		}
		first := newSession(t, e)
		a := lease(first, 1)
		if again := lease(first, 1); again.Token != a.Token {
			t.Fatalf("the repeated call got token %d, want %d", again.Token, a.Token)
		}
		second := newSession(t, e) // the first stays silent, and dies
		stop := make(chan struct{})
		var group sync.WaitGroup
		group.Go(func() {
			for call := int64(100); ; call++ {
				select {
				case <-stop:
					return
				default:
				}
				_, _ = e.Extend(ctx, engine.ExtendRequest{Session: second, Call: call, Pending: []int64{1}, Held: []engine.Held{{ID: a.ID, Token: a.Token + 1}}, Wait: 100 * time.Millisecond})
			}
		})
		b := lease(second, 1)
		if b.ID != a.ID || b.Token != a.Token+1 || b.Crashes != 1 {
			t.Fatalf("rescued job %+v", b)
		}
		late, err := e.Settle(ctx, first, []engine.Settlement{{ID: a.ID, Token: a.Token, Event: job.Succeed}})
		if err != nil || late[0].Err == nil || e.Info().StaleResults != 1 {
			t.Fatalf("the late result: %+v, %v, %+v", late, err, e.Info())
		}
		if res, err := e.Cancel(ctx, []job.ID{a.ID}); err != nil || res[0].Err != nil {
			t.Fatalf("cancel: %+v, %v", res, err)
		}
		failed, err := e.Settle(ctx, second, []engine.Settlement{{ID: b.ID, Token: b.Token, Event: job.Fail, Error: "stopped"}})
		if err != nil || failed[0].State != job.Cancelled {
			t.Fatalf("settle after cancel: %+v, %v", failed, err)
		}
		done, err := e.Wait(ctx, []job.ID{a.ID}, time.Second)
		if err != nil || len(done) != 1 || len(done[0].Errors) != 2 {
			t.Fatalf("wait: %+v, %v", done, err)
		}
		close(stop)
		group.Wait()
	})
}

// Dead letters so large that a ledger reads less than a page of them at a time
// are redriven to the last one all the same.
func TestRealLargeDeadLetters(t *testing.T) {
	onReal(t, engine.Config{}, func(t *testing.T, e *engine.Engine) {
		const n = 70
		payload := bytes.Repeat([]byte("1"), job.MaxPayload)
		for range n {
			it := fresh()
			it.Job.Payload = payload
			if out, err := e.Enqueue(t.Context(), "", []engine.Item{it}); err != nil || out[0].Err != nil {
				t.Fatalf("enqueue: %+v, %v", out, err)
			}
		}
		end(t, e, newSession(t, e), n, job.Discard, job.Dead)
		redriven, f := 0, ledger.DeadFilter{}
		for more := true; more; more = !f.AfterID.IsZero() {
			page, err := e.RedriveWhere(t.Context(), f, 0, redriven)
			if err != nil {
				t.Fatal(err)
			}
			redriven, f.AfterID = page.Done, page.Next
		}
		if redriven != n {
			t.Errorf("%d of %d were redriven", redriven, n)
		}
	})
}

// BenchmarkEnqueueSingle is one job a call from 16 callers that share commits.
func BenchmarkEnqueueSingle(b *testing.B) {
	onReal(b, engine.Config{}, func(b *testing.B, e *engine.Engine) {
		b.ReportAllocs()
		var left atomic.Int64
		left.Store(int64(b.N))
		var group sync.WaitGroup
		b.ResetTimer()
		for range 16 {
			group.Go(func() {
				for left.Add(-1) >= 0 {
					if _, err := e.Enqueue(b.Context(), "", []engine.Item{fresh()}); err != nil {
						b.Errorf("enqueue: %v", err)
					}
				}
			})
		}
		group.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	})
}

// BenchmarkLeaseSettle drains a backlog in process, 1000 jobs a lease.
func BenchmarkLeaseSettle(b *testing.B) {
	onReal(b, engine.Config{}, func(b *testing.B, e *engine.Engine) {
		for n := 0; n < b.N; n += job.MaxBatch {
			items := make([]engine.Item, min(job.MaxBatch, b.N-n))
			for i := range items {
				items[i] = fresh()
			}
			if _, err := e.Enqueue(b.Context(), "", items); err != nil {
				b.Fatal(fmt.Errorf("enqueue: %w", err))
			}
		}
		s := newSession(b, e)
		b.ResetTimer()
		work(b, e, s, b.N)
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	})
}

func fresh() engine.Item {
	it := item(job.ID{})
	it.FirstTry = true
	return it
}
