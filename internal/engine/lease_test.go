package engine_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// poll leases in the background.
func (w *world) poll(ctx context.Context, r engine.LeaseRequest) <-chan []job.Job {
	out := make(chan []job.Job, 1)
	if len(r.Queues) == 0 {
		r.Queues = []string{"default"}
	}
	if r.Max == 0 {
		r.Max = 10
	}
	if r.Wait == 0 {
		r.Wait = 30 * time.Second
	}
	go func() {
		jobs, _, err := w.Lease(ctx, r)
		if err != nil && ctx.Err() == nil {
			w.t.Errorf("lease: %v at %s, session %s", err, time.Now(), w.f.session(r.Session))
		}
		out <- jobs
	}()
	synctest.Wait()
	return out
}

func TestWaiterGetsAJobAtOnce(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		got := w.poll(w.ctx, engine.LeaseRequest{Session: w.open(), Call: 1})
		began := time.Now()
		w.put(1)
		if jobs := <-got; len(jobs) != 1 || time.Since(began) > 0 {
			t.Fatalf("%d jobs after %s, want 1 at once", len(jobs), time.Since(began))
		}
	})
}

func TestIdleWaitersDoNotSpin(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		var all []<-chan []job.Job
		for range 100 {
			all = append(all, w.poll(w.ctx, engine.LeaseRequest{Session: w.open(), Call: 1, Wait: 20 * time.Second}))
		}
		before := w.f.count("Claim")
		time.Sleep(10 * time.Second)
		if n := w.f.count("Claim") - before; n > 0 {
			t.Fatalf("%d claims in 10 s of idling, want none", n)
		}
		w.ok(w.Pause(w.ctx, "default"))
		w.put(1) // which nobody may get
		before = w.f.count("Claim")
		time.Sleep(5 * time.Second)
		if n := w.f.count("Claim") - before; n < 8 || n > 12 {
			t.Fatalf("%d claims in 5 s of waiting for a job that is not to be had, want one an interval", n)
		}
		w.ok(w.Resume(w.ctx, "default"))
		for _, c := range all {
			<-c
		}
	})
}

func TestWaiterWhoseTimeEndsDuringAClaimIsAnswered(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		g := newGate()
		s := w.open()
		w.f.hook(g.hold("Claim"), nil)
		got := w.poll(w.ctx, engine.LeaseRequest{Session: s, Call: 1, Wait: time.Second})
		time.Sleep(2 * time.Second)
		close(g.open)
		began := time.Now()
		if jobs := <-got; len(jobs) != 0 || time.Since(began) > 0 {
			t.Fatalf("%d jobs, %s after the claim", len(jobs), time.Since(began))
		}
	})
}

func TestJobsAreSharedAmongWaiters(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		var all []<-chan []job.Job
		for range 10 {
			all = append(all, w.poll(w.ctx, engine.LeaseRequest{Session: w.open(), Call: 1, Max: 1}))
		}
		w.put(10)
		for _, c := range all {
			if jobs := <-c; len(jobs) != 1 {
				t.Fatalf("a waiter got %d jobs, want 1", len(jobs))
			}
		}
	})
}

func TestJobOfAnotherServerIsFoundWithinThePollInterval(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		second := start(t, w.f, engine.Config{})
		defer second.stop()
		got := w.poll(w.ctx, engine.LeaseRequest{Session: w.open(), Call: 1})
		began := time.Now()
		w.ids += 1000
		second.ids = w.ids
		second.put(1)
		if jobs := <-got; len(jobs) != 1 || time.Since(began) > 500*time.Millisecond {
			t.Fatalf("%d jobs after %s", len(jobs), time.Since(began))
		}
	})
}

func TestQueuesAreTriedInTurn(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		it := item(w.id())
		it.Job.Queue = "second"
		_, err := w.Enqueue(w.ctx, "", []engine.Item{it})
		w.ok(err)
		jobs, _, err := w.Lease(w.ctx, engine.LeaseRequest{Session: w.open(), Call: 1, Queues: []string{"first", "second"}, Max: 5})
		w.ok(err)
		if len(jobs) != 1 {
			t.Fatalf("%d jobs, want the one of the second queue", len(jobs))
		}
	})
}

func TestUnknownKindIsLeftAloneAndShown(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		ids := w.put(1)
		s := w.open()
		jobs, _, err := w.Lease(w.ctx, engine.LeaseRequest{Session: s, Call: 1, Queues: []string{"default"}, Kinds: []string{"other"}, Max: 5})
		w.ok(err)
		if len(jobs) != 0 {
			t.Fatal("leased a kind that was not asked for")
		}
		w.is(ids[0], job.Ready)
		w.ok(w.CloseSession(w.ctx, s, false))
		queues, err := w.Queues(w.ctx)
		w.ok(err)
		if len(queues) != 1 || !queues[0].Kinds[0].WaitingForWorker || queues[0].Counts[job.Ready] != 1 || !queues[0].HasReady {
			t.Fatalf("queues %+v, want the kind waiting for a worker", queues)
		}
		w.open()
		queues, err = w.Queues(w.ctx)
		w.ok(err)
		if queues[0].Kinds[0].WaitingForWorker {
			t.Fatal("a session takes it, and it is shown as waiting")
		}
	})
}

func TestRepeatedCallGetsTheSameJobs(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(4)
		s := w.open()
		first := w.lease(s, 1, 2)
		again := w.lease(s, 1, 2)
		if !sameJobs(first, again) {
			t.Fatalf("repeated call got %d jobs, want the same %d", len(again), len(first))
		}
		second := start(t, w.f, engine.Config{})
		defer second.stop()
		if other := second.lease(s, 1, 2); !sameJobs(first, other) {
			t.Fatalf("another server gave %d other jobs", len(other))
		}
		if next := w.lease(s, 2, 2); len(next) != 2 || sameJobs(first, next) {
			t.Fatal("the next call did not get the next jobs")
		}
	})
}

func sameJobs(a, b []job.Job) bool {
	ids := func(jobs []job.Job) (out []string) {
		for _, j := range jobs {
			out = append(out, j.ID.String())
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(ids(a), ids(b))
}

func TestLostAnswerOfALeaseIsRepeatedSafely(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(3)
		s := w.open()
		w.f.hook(nil, func(m string) error {
			if m == "Claim" {
				return job.ErrUnknown
			}
			return nil
		})
		r := engine.LeaseRequest{Session: s, Call: 1, Queues: []string{"default"}, Max: 3}
		_, _, err := w.Lease(w.ctx, r)
		w.fails(err, job.ErrUnknown)
		w.f.hook(nil, nil)
		if jobs := w.lease(s, 1, 3); len(jobs) != 3 || jobs[0].Token != 1 {
			t.Fatalf("the repeated call got %d jobs, want the 3 of the lost answer", len(jobs))
		}
	})
}

func TestRepeatedCallEndsTheFirstTry(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		s := w.open()
		first := w.poll(w.ctx, engine.LeaseRequest{Session: s, Call: 1, Max: 1})
		w.t = &testing.T{} // the first try ends with an error, as it should
		second := w.poll(w.ctx, engine.LeaseRequest{Session: s, Call: 1, Max: 1})
		if jobs := <-first; len(jobs) != 0 {
			t.Fatal("the first try got jobs")
		}
		w.t = t
		w.put(2)
		if jobs := <-second; len(jobs) != 1 {
			t.Fatalf("the repeated try got %d jobs, want 1", len(jobs))
		}
	})
}

func TestCallerGoneGetsNoJobs(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		ctx, cancel := context.WithCancel(w.ctx)
		got := w.poll(ctx, engine.LeaseRequest{Session: w.open(), Call: 1})
		cancel()
		<-got
		w.is(w.put(1)[0], job.Ready)
	})
}

func TestSessionLost(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		_, _, err := w.Lease(w.ctx, engine.LeaseRequest{Session: job.ID{9}, Call: 1, Queues: []string{"q"}, Max: 1})
		w.fails(err, job.ErrSessionLost)
		_, err = w.Extend(w.ctx, engine.ExtendRequest{Session: job.ID{9}, Call: 1})
		w.fails(err, job.ErrSessionLost)
	})
}

func TestPausedQueueGivesNothingUntilResumed(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.ok(w.Pause(w.ctx, "default"))
		w.put(1)
		got := w.poll(w.ctx, engine.LeaseRequest{Session: w.open(), Call: 1})
		time.Sleep(5 * time.Second)
		select {
		case <-got:
			t.Fatal("a paused queue gave a job")
		default:
		}
		w.ok(w.Resume(w.ctx, "default"))
		if jobs := <-got; len(jobs) != 1 {
			t.Fatal("the resumed queue gave nothing")
		}
	})
}

func TestDrainAnswersEveryLongPoll(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		jobs := w.put(1)
		s := w.open()
		held := w.lease(s, 1, 1)
		began := time.Now()
		var group sync.WaitGroup
		group.Go(func() {
			_, draining, err := w.Lease(w.ctx, engine.LeaseRequest{Session: s, Call: 2, Queues: []string{"default"}, Max: 1, Wait: 30 * time.Second})
			if !draining || err != nil {
				t.Errorf("lease: draining %v, error %v", draining, err)
			}
		})
		group.Go(func() {
			r, err := w.Extend(w.ctx, engine.ExtendRequest{Session: s, Call: 3, Held: names(held), Pending: []int64{2}, Wait: 5 * time.Second})
			if !r.Draining || err != nil {
				t.Errorf("extend: %+v, error %v", r, err)
			}
		})
		group.Go(func() { _, _ = w.Wait(w.ctx, jobs, time.Minute) })
		synctest.Wait()
		w.ok(w.Ready(w.ctx))
		w.Drain()
		w.Drain()
		group.Wait()
		if time.Since(began) > 0 {
			t.Fatalf("answered after %s, want at once", time.Since(began))
		}
		if w.Ready(w.ctx) == nil {
			t.Fatal("a draining engine says it is ready")
		}
		if a := w.settle(s, held[0], job.Succeed); a.State != job.Succeeded {
			t.Fatalf("settle while draining: %+v", a)
		}
	})
}
