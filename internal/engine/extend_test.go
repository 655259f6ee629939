package engine_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// hear extends in the background with a wait of 5 s.
func (w *world) hear(s job.ID, call int64, held []job.Job) <-chan engine.ExtendReply {
	out := make(chan engine.ExtendReply, 1)
	go func() {
		r, err := w.Extend(w.ctx, engine.ExtendRequest{Session: s, Call: call, Held: names(held), Wait: 5 * time.Second})
		if err != nil {
			w.t.Errorf("extend: %v", err)
		}
		out <- r
	}()
	synctest.Wait()
	return out
}

func TestUnnamedLeaseIsGivenBackUncharged(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(3)
		s := w.open()
		kept := w.lease(s, 1, 1)
		lost := w.lease(s, 2, 1)
		late := w.lease(s, 9, 1)
		if r := w.extend(s, 3, kept, 2); len(r.Lost)+len(r.Cancelled) > 0 {
			t.Fatalf("reply %+v, want nothing to tell", r)
		}
		w.is(lost[0].ID, job.Running) // pending: its reply may still come
		w.extend(s, 4, kept)
		w.is(kept[0].ID, job.Running)
		w.is(late[0].ID, job.Running) // of a later call than the renewal
		j := w.is(lost[0].ID, job.Ready)
		if j.Attempt != 0 || j.Crashes != 0 || j.Token != lost[0].Token {
			t.Fatalf("attempt %d, crashes %d: a lost reply was charged", j.Attempt, j.Crashes)
		}
		if a := w.settle(s, lost[0], job.Succeed); a.Err == nil {
			t.Fatal("a lease given back was settled")
		}
	})
}

func TestLostJobsAreToldOnceAsNews(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(1)
		s := w.open()
		jobs := w.lease(s, 1, 1)
		w.extend(s, 2, nil) // the worker forgot it
		if r := <-w.hear(s, 3, jobs); len(r.Lost) != 1 {
			t.Fatalf("reply %+v, want the job lost", r)
		}
		began := time.Now()
		if r := <-w.hear(s, 4, jobs); len(r.Lost) != 1 || time.Since(began) < 4*time.Second {
			t.Fatalf("told again after %s: a stubborn handler makes its worker spin", time.Since(began))
		}
	})
}

func TestCancelOfARunningJobIsHeardAtOnce(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		ids := w.put(1)
		s := w.open()
		jobs := w.lease(s, 1, 1)
		reply := w.hear(s, 2, jobs)
		began := time.Now()
		for range 2 { // cancelling twice is no error
			out, err := w.Cancel(w.ctx, ids)
			w.ok(err)
			w.ok(out[0].Err)
		}
		if r := <-reply; len(r.Cancelled) != 1 || time.Since(began) > 0 {
			t.Fatalf("reply %+v after %s, want the cancellation at once", r, time.Since(began))
		}
		if r := <-w.hear(s, 3, jobs); len(r.Cancelled) != 1 || time.Since(began) < 4*time.Second {
			t.Fatal("an old cancellation was news")
		}
		if a := w.settle(s, jobs[0], job.Fail); a.State != job.Cancelled {
			t.Fatalf("settled as %s, want cancelled", a.State)
		}
		out, err := w.Cancel(w.ctx, ids)
		w.ok(err)
		w.ok(out[0].Err)
	})
}

func TestCancelAtAnotherServerIsHeardWithinASecond(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		second := start(t, w.f, engine.Config{})
		defer second.stop()
		ids := w.put(1)
		s := w.open()
		reply := w.hear(s, 2, w.lease(s, 1, 1))
		began := time.Now()
		_, err := second.Cancel(w.ctx, ids)
		w.ok(err)
		if r := <-reply; len(r.Cancelled) != 1 || time.Since(began) > time.Second {
			t.Fatalf("reply %+v after %s", r, time.Since(began))
		}
	})
}

func TestRenewalsShareAWrite(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		s := w.open()
		time.Sleep(2 * time.Second)
		before := w.f.count("Beat")
		for call := range int64(10) {
			w.extend(s, call+1, nil)
		}
		if n := w.f.count("Beat") - before; n != 1 {
			t.Fatalf("%d beats within a second, want 1", n)
		}
		time.Sleep(time.Second)
		w.extend(s, 11, nil)
		if n := w.f.count("Beat") - before; n != 2 {
			t.Fatalf("%d beats after it, want 2", n)
		}
	})
}

func TestOpeningAgainIsNoErrorWhileItLives(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		s := w.open()
		_, err := w.OpenSession(w.ctx, ledger.Session{ID: s, Queues: []string{"default"}})
		w.ok(err)
		time.Sleep(ttl + 2*time.Second)
		_, err = w.OpenSession(w.ctx, ledger.Session{ID: s, Queues: []string{"default"}})
		w.fails(err, job.ErrSessionLost)
	})
}

func TestProgressIsWrittenAtMostOnceInFiveSeconds(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		ids := w.put(1)
		s := w.open()
		jobs := w.lease(s, 1, 1)
		note := func(call int64, token int64, text string) {
			_, err := w.Extend(w.ctx, engine.ExtendRequest{Session: s, Call: call, Held: names(jobs),
				Progress: []engine.Progress{{ID: ids[0], Token: token, Note: []byte(text)}}})
			w.ok(err)
			synctest.Wait()
		}
		v := w.f.get(ids[0]).Version
		note(2, 1, "first")
		if got := string(w.f.get(ids[0]).Progress); got != "first" {
			t.Fatalf("progress %q, want the first note at once", got)
		}
		for i := range int64(4) {
			note(3+i, 1, "later")
			time.Sleep(time.Second)
		}
		if got := string(w.f.get(ids[0]).Progress); got != "first" {
			t.Fatalf("progress %q: written again within 5 s", got)
		}
		time.Sleep(2 * time.Second)
		j := w.f.get(ids[0])
		if string(j.Progress) != "later" || j.Version != v+2 {
			t.Fatalf("progress %q after %d writes, want the last note in one", j.Progress, j.Version-v)
		}
		if w.Info().StaleResults != 0 {
			t.Fatal("a good note was counted as stale")
		}
	})
}

func TestStaleAndLargeNotesAreRefused(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		ids := w.put(1)
		s := w.open()
		jobs := w.lease(s, 1, 1)
		_, err := w.Extend(w.ctx, engine.ExtendRequest{Session: s, Call: 2, Held: names(jobs),
			Progress: []engine.Progress{{ID: ids[0], Token: 7, Note: []byte("x")}}})
		w.ok(err)
		synctest.Wait()
		if w.Info().StaleResults != 1 || w.f.get(ids[0]).Progress != nil {
			t.Fatalf("stale %d, want the note refused and counted", w.Info().StaleResults)
		}
		_, err = w.Extend(w.ctx, engine.ExtendRequest{Session: s, Call: 3,
			Progress: []engine.Progress{{ID: ids[0], Token: 1, Note: make([]byte, 2000)}}})
		w.reason(err, job.ReasonTooLarge)
	})
}

// patient extends in the background as an idle worker does.
func (w *world) patient(s job.ID, call int64) <-chan error {
	out := make(chan error, 1)
	go func() {
		_, err := w.Extend(context.WithoutCancel(w.ctx), engine.ExtendRequest{Session: s, Call: call, Wait: time.Second})
		out <- err
	}()
	synctest.Wait()
	return out
}

// TestRenewalsGather: those of idle workers that come within half a second are
// one transaction.
func TestRenewalsGather(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		var sessions []job.ID
		for range 20 {
			s := w.open()
			w.extend(s, 1, nil)
			sessions = append(sessions, s)
		}
		time.Sleep(5 * time.Second)
		beats, looks := w.f.count("Beat"), w.f.count("Held")
		var waiting []<-chan error
		for _, s := range sessions {
			waiting = append(waiting, w.patient(s, 2))
			time.Sleep(20 * time.Millisecond)
		}
		if n := w.f.count("Beat") - beats; n != 0 {
			t.Errorf("%d beats within 400 ms, want none yet", n)
		}
		time.Sleep(200 * time.Millisecond)
		if n := w.f.count("Beat") - beats; n != 1 {
			t.Errorf("%d beats for 20 renewals, want 1", n)
		}
		if n := w.f.count("Held") - looks; n > 1 { // one is the watch for cancellations
			t.Errorf("%d looks at what is held beside it", n)
		}
		for _, c := range waiting {
			w.ok(<-c)
		}
	})
}

// TestSomeRenewalsDoNotWait: the first, one that is late, and one that asks for an
// answer at once, which those who gathered go with.
func TestSomeRenewalsDoNotWait(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		a, b := w.open(), w.open()
		goesAtOnce := func(s job.ID, call int64, what string) {
			t.Helper()
			before := w.f.count("Beat")
			answer := w.patient(s, call)
			if n := w.f.count("Beat") - before; n != 1 {
				t.Errorf("%s: %d beats at once, want 1", what, n)
			}
			w.ok(<-answer)
		}
		goesAtOnce(a, 1, "the first")
		time.Sleep(ttl / 3)
		goesAtOnce(a, 2, "a late one")
		time.Sleep(2 * time.Second)
		before := w.f.count("Beat")
		gathers := w.patient(a, 3)
		if n := w.f.count("Beat") - before; n != 0 {
			t.Errorf("%d beats, want it to wait", n)
		}
		w.extend(b, 1, nil)
		synctest.Wait()
		if n := w.f.count("Beat") - before; n != 1 {
			t.Errorf("%d beats, want one for both", n)
		}
		w.ok(<-gathers)
	})
}

// TestACancelDoesNotWaitForRenewalsToGather, nor does a server that drains.
func TestACancelDoesNotWaitForRenewalsToGather(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		ids := w.put(1)
		s := w.open()
		jobs := w.lease(s, 1, 1)
		w.extend(s, 2, jobs)
		time.Sleep(2 * time.Second)
		reply := w.hear(s, 3, jobs) // gathers
		began := time.Now()
		_, err := w.Cancel(w.ctx, ids)
		w.ok(err)
		if r := <-reply; len(r.Cancelled) != 1 || time.Since(began) > 0 {
			t.Errorf("reply %+v after %s, want the cancellation at once", r, time.Since(began))
		}
		time.Sleep(2 * time.Second)
		reply = w.hear(s, 4, jobs)
		began = time.Now()
		w.Drain()
		if r := <-reply; !r.Draining || time.Since(began) > 0 {
			t.Errorf("reply %+v after %s, want to hear of the drain at once", r, time.Since(began))
		}
	})
}

// TestAServerDiesWithRenewalsGathering: the workers hear of it and renew at
// another server, long before their sessions end.
func TestAServerDiesWithRenewalsGathering(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		second := start(t, w.f, engine.Config{})
		defer func() { second.stop() }()
		s := second.open()
		second.extend(s, 1, nil)
		time.Sleep(5 * time.Second)
		answer := second.patient(s, 2)
		second.stop()
		second.stop = func() {}
		w.reason(<-answer, job.ReasonShuttingDown)
		w.ok(<-w.patient(s, 3))
		time.Sleep(ttl - 5*time.Second)
		w.extend(s, 4, nil) // it lives
	})
}

// TestUpkeepRestsWhileThereIsNothingToDo.
func TestUpkeepRestsWhileThereIsNothingToDo(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		time.Sleep(5 * time.Second)
		before := w.f.count("Upkeep")
		time.Sleep(time.Minute)
		if n := w.f.count("Upkeep") - before; n < 5 || n > 7 {
			t.Errorf("%d times in an idle minute, want 6", n)
		}
	})
}
