package engine_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/internal/insight"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var lately = insight.Query{Since: time.Hour, Target: time.Minute, Most: 100}

// insights asks, and returns what is told of the one kind that these tests have.
func (w *world) insights() insight.Kind {
	w.t.Helper()
	r, err := w.Insights(w.ctx, lately)
	w.ok(err)
	if len(r.Kinds) == 0 {
		return insight.Kind{}
	}
	return r.Kinds[0]
}

// Every way in which an attempt and a job can end is counted once, with its time.
func TestWhatBecomesOfJobsIsAddedUp(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		w.put(6)
		time.Sleep(3 * time.Second) // of virtual time: they wait
		s := w.open()
		jobs := w.lease(s, 1, 6)
		time.Sleep(2 * time.Second)
		for i, e := range []job.Event{job.Succeed, job.Fail, job.Discard, job.Release, job.Succeed, job.Succeed} {
			w.settle(s, jobs[i], e)
		}
		k := w.insights()
		want := insight.Counts{Arrived: 6, Started: 6, Succeeded: 3, Failed: 1, Discarded: 1, Released: 1, Dead: 1}
		if k.Counts != want {
			t.Errorf("counts %+v, want %+v", k.Counts, want)
		}
		if k.Busy != 12*time.Second || k.Wasted != 4*time.Second || k.Wait.Mean != 3*time.Second || k.Run.Mean != 2*time.Second {
			t.Errorf("busy %s, wasted %s, wait %s, run %s", k.Busy, k.Wasted, k.Wait.Mean, k.Run.Mean)
		}
	})
}

// The numbers by which outcomes are stored are those of the events.
func TestOutcomesAreEvents(t *testing.T) {
	for e, o := range map[job.Event]ledger.Outcome{
		job.Succeed: ledger.OutcomeSucceeded, job.Fail: ledger.OutcomeFailed, job.Discard: ledger.OutcomeDiscarded,
		job.Snooze: ledger.OutcomeSnoozed, job.Release: ledger.OutcomeReleased, job.Crash: ledger.OutcomeCrashed,
	} {
		if int(e) != int(o) {
			t.Errorf("event %s is %d, its outcome %d", e, e, o)
		}
	}
}

// What a ledger does not take is kept until it does; what it may have taken is
// not added again.
func TestStatisticsOutliveAnOutage(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		down := job.Errorf(job.Unavailable, job.ReasonLedgerDown, "down")
		w.f.hook(func(method string) error {
			if method == "FoldStats" {
				return down
			}
			return nil
		}, nil)
		w.put(3)
		if _, err := w.Insights(w.ctx, lately); !errors.Is(err, down) {
			t.Errorf("insights of a ledger that is down: %v", err)
		}
		time.Sleep(time.Minute) // of virtual time: folds that fail
		w.f.hook(nil, func(method string) error {
			if method == "FoldStats" {
				return job.ErrUnknown // though it was committed
			}
			return nil
		})
		time.Sleep(time.Minute)
		w.f.hook(nil, nil)
		w.put(2)
		if k := w.insights(); k.Arrived != 5 {
			t.Errorf("%d arrived, want 5", k.Arrived)
		}
	})
}

// A time-out says that the ledger has added nothing; and a caller who gives up ends only his call.
func TestStatisticsOutliveATimeout(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		w.f.hook(func(method string) error {
			if method == "FoldStats" {
				return context.DeadlineExceeded
			}
			return nil
		}, nil)
		w.put(3)
		if _, err := w.Insights(w.ctx, lately); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("insights of a ledger that is slow: %v", err)
		}
		w.f.hook(nil, nil)
		gone, leave := context.WithCancel(w.ctx)
		leave()
		folds := w.f.count("FoldStats")
		_, _ = w.Insights(gone, lately)
		if w.f.count("FoldStats") == folds {
			t.Error("who gave up ended the fold of all")
		}
		if k := w.insights(); k.Arrived != 3 {
			t.Errorf("%d arrived, want 3", k.Arrived)
		}
	})
}

// A server that stops leaves what it knew, and one that has nothing to tell
// writes nothing.
func TestStatisticsAreFoldedAtTheEnd(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		time.Sleep(time.Minute)
		if n := w.f.count("FoldStats"); n != 0 {
			t.Errorf("%d folds of nothing", n)
		}
		w.put(4)
		w.stop()
		other := start(t, w.f, engine.Config{Insights: true})
		defer other.stop()
		if k := other.insights(); k.Arrived != 4 {
			t.Errorf("%d arrived, as another server tells it, want 4", k.Arrived)
		}
		w.stop = func() {}
	})
}

// A job that a transaction of the handler's own completed is a success too.
func TestCompletedInATransactionIsCounted(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		id := w.put(1)[0]
		s := w.open()
		j := w.lease(s, 1, 1)[0]
		w.f.mu.Lock()
		done := w.f.jobs[id] // as errand.complete_v1 does
		done.State, done.DoneAt, done.SettledToken, done.SettledAs = job.Succeeded, time.Now().Add(time.Second), j.Token, job.Succeed
		w.f.mu.Unlock()
		w.settle(s, j, job.Succeed)
		if k := w.insights(); k.Succeeded != 1 {
			t.Errorf("%d succeeded, want 1", k.Succeeded)
		}
	})
}

func TestNoStatisticsUnlessWanted(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(4)
		if k := w.insights(); k.Counts != (insight.Counts{}) {
			t.Errorf("counted %+v", k.Counts)
		}
	})
}
