package engine_test

import (
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
