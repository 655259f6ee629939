package engine_test

import (
	"testing"
	"time"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

func TestDeadSessionIsFoundWithinItsTTLAndTwoSeconds(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(2)
		s := w.open()
		jobs := w.lease(s, 1, 2)
		time.Sleep(ttl - time.Second)
		w.is(jobs[0].ID, job.Running)
		time.Sleep(3 * time.Second)
		j := w.is(jobs[0].ID, job.Ready)
		if j.Crashes != 1 || len(j.Errors) != 1 || !j.Errors[0].Crash || j.Errors[0].Worker == "" {
			t.Fatalf("the crash is not recorded: %+v", j)
		}
		if w.Info().Rescued != 2 {
			t.Fatalf("rescued %d, want 2", w.Info().Rescued)
		}
		_, err := w.Extend(w.ctx, engine.ExtendRequest{Session: s, Call: 2, Held: names(jobs)})
		w.fails(err, job.ErrSessionLost)
		if a := w.settle(s, jobs[0], job.Succeed); a.Err == nil {
			t.Fatal("a dead session's settle was taken")
		}
		if w.Info().StaleResults != 1 {
			t.Fatalf("stale results %d, want 1", w.Info().StaleResults)
		}
	})
}

func TestRenewedSessionLives(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(1)
		s := w.open()
		jobs := w.lease(s, 1, 1)
		for call := int64(2); call < 30; call++ {
			time.Sleep(ttl / 3)
			if r := w.extend(s, call, jobs); len(r.Lost) > 0 {
				t.Fatal("lost a job while renewing")
			}
		}
		w.is(jobs[0].ID, job.Running)
	})
}

func TestOutageBeginsTheCountAnew(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(1)
		s := w.open()
		jobs := w.lease(s, 1, 1)
		time.Sleep(ttl / 2)
		down := job.Errorf(job.Unavailable, job.ReasonLedgerDown, "down")
		w.f.hook(func(string) error { return down }, nil)
		time.Sleep(ttl)
		w.f.hook(nil, nil)
		time.Sleep(ttl - 2*time.Second)
		w.is(jobs[0].ID, job.Running)
		time.Sleep(4 * time.Second)
		w.is(jobs[0].ID, job.Ready)
	})
}

func TestStartBeginsTheCountAnew(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(1)
		jobs := w.lease(w.open(), 1, 1)
		time.Sleep(ttl - time.Second)
		w.stop()
		second := start(t, w.f, engine.Config{})
		time.Sleep(ttl - time.Second)
		w.is(jobs[0].ID, job.Running)
		time.Sleep(3 * time.Second)
		w.is(jobs[0].ID, job.Ready)
		w.stop = second.stop
	})
}

func TestBrakeHoldsAMassDeathAndThenPacesIt(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		var silent []job.ID
		for range 8 {
			silent = append(silent, w.open())
		}
		time.Sleep(ttl + 2*time.Second)
		if !w.Info().Brake {
			t.Fatal("the brake is not on")
		}
		for _, s := range silent {
			if w.f.session(s) != ledger.SessionLive {
				t.Fatal("a session died under the brake")
			}
		}
		time.Sleep(ttl)
		dead := 0
		for _, s := range silent {
			if w.f.session(s) == ledger.SessionDead {
				dead++
			}
		}
		if dead == 0 || dead > 4 {
			t.Fatalf("%d sessions are dead just after the brake's wait, want a few", dead)
		}
		time.Sleep(20 * time.Second)
		for _, s := range silent {
			if w.f.session(s) != ledger.SessionDead {
				t.Fatal("the brake needs a person")
			}
		}
		if w.Info().Brake {
			t.Fatal("the brake is still on")
		}
	})
}

func TestBrakeLetsGoWhenTheSessionsComeBack(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		var all []job.ID
		for range 6 {
			all = append(all, w.open())
		}
		time.Sleep(ttl + 5*time.Second)
		if !w.Info().Brake {
			t.Fatal("the brake is not on")
		}
		for _, s := range all[:5] {
			w.extend(s, 1, nil)
		}
		time.Sleep(2 * time.Second)
		if w.Info().Brake || w.f.session(all[5]) != ledger.SessionDead || w.f.session(all[0]) != ledger.SessionLive {
			t.Fatal("the brake did not let go of the one that is dead")
		}
	})
}

func TestDrainedSessionIsNotCharged(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(1)
		s := w.open()
		jobs := w.lease(s, 1, 1)
		w.ok(w.CloseSession(w.ctx, s, true))
		if _, _, err := w.Lease(w.ctx, engine.LeaseRequest{Session: s, Call: 2, Queues: []string{"default"}, Max: 1}); err == nil {
			t.Fatal("a draining session got a lease")
		}
		time.Sleep(4 * time.Second)
		j := w.is(jobs[0].ID, job.Ready)
		if j.Attempt != 0 || j.Crashes != 0 {
			t.Fatalf("attempt %d, crashes %d: the drain was charged", j.Attempt, j.Crashes)
		}
	})
}

func TestJobsOfAnAbsentSessionAreGivenBack(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(1)
		s := w.open()
		jobs := w.lease(s, 1, 1)
		w.ok(w.CloseSession(w.ctx, s, false))
		time.Sleep(2 * time.Second)
		if j := w.is(jobs[0].ID, job.Ready); j.Attempt != 0 {
			t.Fatalf("attempt %d, want 0", j.Attempt)
		}
		w.ok(w.CloseSession(w.ctx, s, false))
	})
}

func TestCancelThenTheWorkerDies(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		ids := w.put(1)
		w.lease(w.open(), 1, 1)
		_, err := w.Cancel(w.ctx, ids)
		w.ok(err)
		w.is(ids[0], job.Running)
		time.Sleep(ttl + 2*time.Second)
		w.is(ids[0], job.Cancelled)
	})
}

func TestThreeCrashesAreADeadLetter(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		ids := w.put(1)
		for range 3 {
			w.lease(w.open(), 1, 1)
			time.Sleep(ttl + 2*time.Second)
		}
		if j := w.is(ids[0], job.Dead); j.Reason != job.WhyCrashed {
			t.Fatalf("reason %q, want %q", j.Reason, job.WhyCrashed)
		}
	})
}
