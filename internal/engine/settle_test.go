package engine_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

func TestSettleRepeatedIsAnsweredAlikeAndNotCounted(t *testing.T) {
	for _, ev := range []job.Event{job.Succeed, job.Fail, job.Discard, job.Snooze, job.Release} {
		t.Run(ev.String(), func(t *testing.T) {
			inWorld(t, engine.Config{PollInterval: time.Hour}, func(w *world) {
				w.put(1)
				s := w.open()
				j := w.lease(s, 1, 1)[0]
				first := w.settle(s, j, ev)
				if first.Err != nil || first.Repeated {
					t.Fatalf("settle: %+v", first)
				}
				again := w.settle(s, j, ev)
				if again.Err != nil || !again.Repeated || again.State != first.State {
					t.Fatalf("repeated: %+v, want %s again", again, first.State)
				}
				other := w.settle(s, j, job.Fail)
				if other.Err != nil || !other.Repeated || other.State != first.State {
					t.Fatalf("another outcome under the same token: %+v", other)
				}
				if n := w.Info().StaleResults; n != 0 {
					t.Fatalf("%d stale results, want none", n)
				}
			})
		})
	}
}

func TestStaleTokenIsRefusedAndCounted(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(1)
		s := w.open()
		old := w.lease(s, 1, 1)[0]
		w.extend(s, 2, nil)        // lost, given back,
		cur := w.lease(s, 3, 1)[0] // leased again
		if cur.ID != old.ID || cur.Token != old.Token+1 {
			t.Fatal("the token did not grow")
		}
		for i, ev := range []job.Event{job.Succeed, job.Fail, job.Release} {
			a := w.settle(s, old, ev)
			w.fails(a.Err, job.ErrStale)
			if n := w.Info().StaleResults; n != int64(i+1) {
				t.Fatalf("%d stale results, want %d", n, i+1)
			}
		}
		w.is(cur.ID, job.Running)
	})
}

func TestLostAnswerOfASettleIsRepeatedSafely(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(1)
		s := w.open()
		j := w.lease(s, 1, 1)[0]
		w.f.hook(nil, func(m string) error {
			if m == "Succeed" {
				return job.ErrUnknown
			}
			return nil
		})
		items := []engine.Settlement{{ID: j.ID, Token: j.Token, Event: job.Succeed, Result: []byte("r")}}
		_, err := w.Settle(w.ctx, s, items)
		w.fails(err, job.ErrUnknown)
		w.f.hook(nil, nil)
		out, err := w.Settle(w.ctx, s, items)
		w.ok(err)
		if !out[0].Repeated || out[0].State != job.Succeeded {
			t.Fatalf("answer %+v, want succeeded before", out[0])
		}
	})
}

func TestLockedRowIsWaitedForAlone(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(2)
		s := w.open()
		jobs := w.lease(s, 1, 2)
		w.f.busy[jobs[0].ID] = true
		for _, j := range jobs {
			if a := w.settle(s, j, job.Succeed); a.Err != nil || a.State != job.Succeeded || a.Repeated {
				t.Fatalf("settle: %+v", a)
			}
		}
	})
}

func TestOutcomesOfASettle(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(1)
		s := w.open()
		j := w.lease(s, 1, 1)[0]
		if a := w.settle(s, j, job.Release); a.State != job.Ready {
			t.Fatalf("release: %+v", a)
		}
		j = w.lease(s, 2, 1)[0]
		if j.Attempt != 1 {
			t.Fatalf("attempt %d after a release, want 1", j.Attempt)
		}
		if a := w.settle(s, j, job.Fail); a.State != job.Scheduled {
			t.Fatalf("fail: %+v", a)
		}
		time.Sleep(600 * time.Millisecond) // half of a second's back-off, by Rand
		again := w.lease(s, 3, 1)
		if len(again) != 1 || again[0].Attempt != 2 || again[0].Errors[0].Worker == "" {
			t.Fatalf("after the back-off: %+v", again)
		}
		if a := w.settle(s, again[0], job.Discard); a.State != job.Dead {
			t.Fatalf("discard: %+v", a)
		}
		missing := w.settle(s, job.Job{ID: job.ID{7}, Token: 1}, job.Succeed)
		w.fails(missing.Err, job.ErrNotFound)
	})
}

func TestBadSettlesAreRefused(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		good := engine.Settlement{ID: job.ID{1}, Token: 1, Event: job.Succeed}
		for name, spoil := range map[string]func(*engine.Settlement){
			"event":  func(s *engine.Settlement) { s.Event = job.Crash },
			"token":  func(s *engine.Settlement) { s.Token = 0 },
			"id":     func(s *engine.Settlement) { s.ID = job.ID{} },
			"delay":  func(s *engine.Settlement) { s.Delay = -1 },
			"result": func(s *engine.Settlement) { s.Result = make([]byte, job.MaxResult+1) },
		} {
			bad := good
			spoil(&bad)
			if _, err := w.Settle(w.ctx, job.ID{2}, []engine.Settlement{bad}); job.CodeOf(err) != job.InvalidArgument {
				t.Errorf("%s: %v, want InvalidArgument", name, err)
			}
		}
		if w.f.count("Succeed") > 0 {
			t.Fatal("something was settled")
		}
	})
}

func TestWaitHearsTheEndAtOnce(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		ids := w.put(2)
		s := w.open()
		jobs := w.lease(s, 1, 2)
		got := make(chan []job.Job, 1)
		go func() {
			done, err := w.Wait(w.ctx, ids, time.Minute)
			if err != nil {
				t.Errorf("wait: %v", err)
			}
			got <- done
		}()
		synctest.Wait()
		began := time.Now()
		w.settle(s, jobs[1], job.Succeed)
		if done := <-got; len(done) != 1 || done[0].ID != jobs[1].ID || time.Since(began) > 0 {
			t.Fatalf("%d jobs after %s, want the one that ended at once", len(done), time.Since(began))
		}
		none, err := w.Wait(w.ctx, ids[:1], 3*time.Second)
		w.ok(err)
		if len(none) != 0 || time.Since(began) != 3*time.Second {
			t.Fatalf("%d jobs after %s, want none at the timeout", len(none), time.Since(began))
		}
		_, err = w.Wait(w.ctx, []job.ID{{7}}, time.Second)
		w.fails(err, job.ErrNotFound)
	})
}

func TestWaitHearsOfOtherServers(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		second := start(t, w.f, engine.Config{})
		defer second.stop()
		ids := w.put(1)
		go func() {
			time.Sleep(2 * time.Second)
			_, _ = second.Cancel(w.ctx, ids)
		}()
		began := time.Now()
		done, err := w.Wait(w.ctx, ids, time.Minute)
		w.ok(err)
		if len(done) != 1 || time.Since(began) > 2600*time.Millisecond {
			t.Fatalf("%d jobs after %s", len(done), time.Since(began))
		}
	})
}

func TestDelayedJobsAreReadyInTimeAndLateOnesExpire(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		soon, far, late := item(w.id()), item(w.id()), item(w.id())
		soon.Delay, far.Delay, late.ExpiresIn = 130*time.Millisecond, time.Hour, time.Minute
		_, err := w.Enqueue(w.ctx, "", []engine.Item{soon, far, late})
		w.ok(err)
		time.Sleep(150 * time.Millisecond)
		w.is(soon.Job.ID, job.Ready)
		time.Sleep(time.Minute + time.Second)
		w.is(far.Job.ID, job.Scheduled)
		if j := w.is(late.Job.ID, job.Cancelled); j.Reason != job.WhyExpired {
			t.Fatalf("reason %q, want expired", j.Reason)
		}
		time.Sleep(time.Hour)
		w.is(far.Job.ID, job.Ready)
	})
}

func TestWakePromotesAtOnce(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		got := w.poll(w.ctx, engine.LeaseRequest{Session: w.open(), Call: 1})
		id := w.id()
		w.f.mu.Lock() // as a transaction of the caller's leaves it
		w.f.jobs[id] = &job.Job{ID: id, Queue: "default", Kind: "k", State: job.Scheduled, RunAt: w.Now(), MaxAttempts: 1}
		w.f.mu.Unlock()
		began := time.Now()
		w.ok(w.Wake(w.ctx, []string{"default"}))
		if jobs := <-got; len(jobs) != 1 || time.Since(began) > 0 {
			t.Fatalf("%d jobs after %s, want 1 at once", len(jobs), time.Since(began))
		}
	})
}

// bury makes n dead letters.
func (w *world) bury(n int) []job.ID {
	ids := w.put(n)
	s := w.open()
	for i, j := range w.lease(s, 1, n) {
		if i < n {
			w.settle(s, j, job.Discard)
		}
	}
	return ids
}

func TestRedriveIsPacedByRunAt(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		ids := w.bury(5)
		now := w.Now()
		out, err := w.Redrive(w.ctx, ids[:2], 2)
		w.ok(err)
		for i, r := range out {
			w.ok(r.Err)
			if want := now.Add(time.Duration(i) * 500 * time.Millisecond); !r.Job.RunAt.Equal(want) || r.Job.Redrives != 1 {
				t.Fatalf("job %d runs at %s, want %s", i, r.Job.RunAt, want)
			}
		}
		page, err := w.RedriveWhere(w.ctx, ledger.DeadFilter{}, 1, 10)
		w.ok(err)
		if len(page.Redriven) != 3 || page.Done != 13 || page.Next != page.Redriven[2] {
			t.Fatalf("page %+v", page)
		}
		last, err := w.RedriveWhere(w.ctx, ledger.DeadFilter{AfterID: page.Next}, 1, page.Done)
		w.ok(err)
		if len(last.Redriven) != 0 || last.Done != 13 || !last.Next.IsZero() {
			t.Fatalf("the page after the last: %+v", last)
		}
		if j := w.f.get(page.Redriven[2]); !j.RunAt.Equal(now.Add(12 * time.Second)) {
			t.Fatalf("the 13th runs at %s", j.RunAt.Sub(now))
		}
		if _, err := w.Redrive(w.ctx, ids, -1); job.CodeOf(err) != job.InvalidArgument {
			t.Fatalf("rate -1: %v", err)
		}
	})
}

func TestRedriveOfATakenKeyStaysDeadAndIsReported(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		unique := func() job.ID {
			it := item(w.id())
			it.Job.UniqueKey, it.Job.UniqueMode = "u", job.UntilDone
			out, err := w.Enqueue(w.ctx, "", []engine.Item{it})
			w.ok(err)
			return out[0].ID
		}
		first := unique()
		s := w.open()
		w.settle(s, w.lease(s, 1, 1)[0], job.Discard)
		second := unique()
		out, err := w.Redrive(w.ctx, []job.ID{first}, 0)
		w.ok(err)
		w.reason(out[0].Err, job.ReasonUniqueHeld)
		var e *job.Error
		if !errors.As(out[0].Err, &e) || e.Holder != second {
			t.Fatal("the holder is not named")
		}
		w.is(first, job.Dead)
		page, err := w.RedriveWhere(w.ctx, ledger.DeadFilter{}, 0, 0)
		w.ok(err)
		if len(page.Problems) != 1 || len(page.Redriven) != 0 {
			t.Fatalf("page %+v, want one problem", page)
		}
	})
}

func TestPurgeDeleteAndBadTransitions(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.bury(3)
		n, capped, err := w.CountDead(w.ctx, ledger.DeadFilter{})
		w.ok(err)
		if n != 3 || capped {
			t.Fatalf("%d dead, capped %v", n, capped)
		}
		purged, more, err := w.Purge(w.ctx, ledger.DeadFilter{})
		w.ok(err)
		if purged != 3 || !more {
			t.Fatalf("purged %d, more %v", purged, more)
		}
		if purged, more, err = w.Purge(w.ctx, ledger.DeadFilter{}); err != nil || purged != 0 || more {
			t.Fatalf("purged %d of none, more %v, %v", purged, more, err)
		}
		ids := w.put(2)
		s := w.open()
		running := w.lease(s, 1, 1)[0]
		out, err := w.Delete(w.ctx, []job.ID{ids[0], ids[1], {7}})
		w.ok(err)
		w.reason(out[0].Err, job.ReasonBadTransition)
		w.ok(out[1].Err)
		w.fails(out[2].Err, job.ErrNotFound)
		w.settle(s, running, job.Succeed)
		out, err = w.Cancel(w.ctx, []job.ID{running.ID})
		w.ok(err)
		w.reason(out[0].Err, job.ReasonBadTransition)
	})
}
