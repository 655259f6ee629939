package engine_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
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
		for range 6 {
			time.Sleep(10 * time.Second) // of virtual time: folds that fail
			if k := w.insights(); k.Arrived != 3 {
				t.Errorf("%d arrived, want 3, of which the ledger has none", k.Arrived)
			}
		}
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

// A time-out says that the ledger has added nothing.
func TestStatisticsOutliveATimeout(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		w.f.hook(func(method string) error {
			if method == "FoldStats" {
				return context.DeadlineExceeded
			}
			return nil
		}, nil)
		w.put(3)
		time.Sleep(time.Minute)
		w.f.hook(nil, nil)
		time.Sleep(time.Minute)
		if k := w.insights(); k.Arrived != 3 {
			t.Errorf("%d arrived, want 3", k.Arrived)
		}
	})
}

// Whoever asks writes nothing, however often, and what is asked for is made once at a time: those who wait for a report and
// want the same share the next one, others wait, no longer than they like.
func TestReportsAreMadeOneAtATime(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		w.put(3)
		reading, read := 0, make(chan struct{})
		w.f.hook(func(method string) error {
			if method == "ReadStats" {
				if reading++; reading > 1 {
					t.Error("two readings at once")
				}
				<-read
				reading--
			}
			return nil
		}, nil)
		const callers = 50
		arrived := make(chan int64, callers)
		ask := func() {
			k := w.insights()
			arrived <- k.Arrived
		}
		go ask()
		synctest.Wait() // the first one reads
		for range callers - 1 {
			go ask()
		}
		short, cancel := context.WithTimeout(w.ctx, time.Second)
		defer cancel()
		if _, err := w.Insights(short, insight.Query{Since: 2 * time.Hour, Most: 1}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who gave up got %v", err)
		}
		close(read)
		for range callers {
			if n := <-arrived; n != 3 {
				t.Errorf("%d arrived, want 3", n)
			}
		}
		if n := w.f.count("ReadStats"); n != 2 {
			t.Errorf("%d readings for %d callers, want that of the first and one for all others", n, callers)
		}
		if n := w.f.count("FoldStats"); n != 0 {
			t.Errorf("%d folds by those who only asked", n)
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

// told counts what an observer hears, by event.
type told map[job.Event]int

func (o told) Observe(changes []engine.Change) {
	for i := range changes {
		o[changes[i].Event]++
	}
}

// A job that a transaction of the handler's own completed is a success too, and
// one success, however often its worker settles.
func TestCompletedInATransactionIsCounted(t *testing.T) {
	heard := told{}
	inWorld(t, engine.Config{Insights: true, Observers: []engine.Observer{heard}}, func(w *world) {
		id := w.put(1)[0]
		s := w.open()
		j := w.lease(s, 1, 1)[0]
		w.f.change(id, func(done *job.Job) { // as errand.complete_v1 does
			done.State, done.DoneAt, done.SettledToken, done.SettledAs = job.Succeeded, time.Now().Add(time.Second), j.Token, job.Succeed
			done.Session, done.Call = job.ID{}, job.CallUntold
		})
		for range 3 {
			if a := w.settle(s, j, job.Succeed); a.State != job.Succeeded || !a.Repeated {
				t.Errorf("answered %+v", a)
			}
		}
		if k := w.insights(); k.Succeeded != 1 || heard[job.Succeed] != 1 {
			t.Errorf("%d succeeded in the statistics, %d were told; want 1", k.Succeeded, heard[job.Succeed])
		}
	})
}

// An outcome is told once, whatever became of the answer: lost on the way to
// the worker, which repeats it, or unknown to the server, committed or not.
func TestRepeatedOutcomesAreCountedOnce(t *testing.T) {
	for _, e := range []job.Event{job.Succeed, job.Fail, job.Discard} {
		heard := told{}
		inWorld(t, engine.Config{Insights: true, Observers: []engine.Observer{heard}}, func(w *world) {
			w.put(3)
			s := w.open()
			jobs := w.lease(s, 1, 3)
			w.settle(s, jobs[0], e)
			w.settle(s, jobs[0], e)
			method := "Apply"
			if e == job.Succeed {
				method = "Succeed"
			}
			once := func(m string) error {
				if m != method {
					return nil
				}
				w.f.hook(nil, nil)
				return job.ErrUnknown
			}
			for i, hook := range [][2]func(string) error{{nil, once}, {once, nil}} { // committed; not committed
				w.f.hook(hook[0], hook[1])
				j := jobs[i+1]
				if _, err := w.Settle(w.ctx, s, []engine.Settlement{{ID: j.ID, Token: j.Token, Event: e}}); !errors.Is(err, job.ErrUnknown) {
					t.Fatalf("%s: %v", e, err)
				}
				w.settle(s, j, e)
				w.settle(s, j, e)
			}
			if heard[e] != 3 {
				t.Errorf("%s was told %d times of 3 jobs", e, heard[e])
			}
			if k := w.insights(); k.Succeeded+k.Failed+k.Discarded != 3 {
				t.Errorf("%s: counted %+v", e, k.Counts)
			}
		})
	}
}

func TestNoStatisticsUnlessWanted(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.put(4)
		if k := w.insights(); k.Counts != (insight.Counts{}) {
			t.Errorf("counted %+v", k.Counts)
		}
	})
}
