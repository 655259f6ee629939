package engine_test

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/internal/scaling"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// ask asks for queue default, by 4 slots a worker and a target of 10 s.
func (w *world) ask(change ...func(*scaling.Query)) scaling.Signal {
	w.t.Helper()
	q := scaling.Query{Queue: "default", Slots: 4, Target: 10 * time.Second}
	for _, c := range change {
		c(&q)
	}
	s, err := w.Scaling(w.ctx, q)
	w.ok(err)
	return s
}

// work lets a session do n jobs, each in the time given, and takes as many
// batches of ten as that needs.
func (w *world) work(s job.ID, call int64, n int, takes time.Duration) {
	w.t.Helper()
	jobs := w.lease(s, call, n)
	time.Sleep(takes)
	for _, j := range jobs {
		w.settle(s, j, job.Succeed)
	}
}

func near(got, want float64) bool { return math.Abs(got-want) <= 0.25*want+0.01 }

func TestScalingByRunTimesOfTheLedger(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		w.put(110)
		if s := w.ask(); s.Known || s.Desired != 1 || s.ReadyJobs != 110 || s.Backlog != 0 {
			t.Errorf("nobody has seen such a job yet, and the answer is %+v", s)
		}
		s := w.open()
		w.work(s, 1, 10, 2*time.Second)
		time.Sleep(6 * time.Second)
		running := w.lease(s, 2, 10)
		time.Sleep(time.Second)
		got := w.ask()
		// 90 ready jobs of 2 s are 180 s of work: 18 hands for 10 s, and 10 are busy.
		if !got.Known || got.Backlog != 180*time.Second || got.Running != 10 || got.Desired != 7 {
			t.Errorf("%+v", got)
		}
		if got.Workers != 1 || got.Facts.Slots != 10 || got.Oldest != 9*time.Second {
			t.Errorf("workers %d, slots %d, oldest %s", got.Workers, got.Facts.Slots, got.Oldest)
		}
		// Another server, just started, says the same: ten seconds later at most.
		time.Sleep(10 * time.Second)
		got = w.ask()
		other := start(t, w.f, engine.Config{Insights: true})
		defer other.stop()
		if o := other.ask(); o.Desired != got.Desired || o.Backlog != got.Backlog {
			t.Errorf("another server says %d for %s", o.Desired, o.Backlog)
		}
		w.ok(w.Pause(w.ctx, "default"))
		time.Sleep(time.Second)
		if s := w.ask(); s.Desired != 3 || !s.Paused {
			t.Errorf("of a paused queue with 10 running jobs: %+v", s)
		}
		for _, j := range running {
			w.settle(s, j, job.Succeed)
		}
		time.Sleep(time.Second)
		if s := w.ask(); s.Desired != 0 {
			t.Errorf("of a paused queue in which nothing runs: %+v", s)
		}
	})
}

func TestScalingTellsRates(t *testing.T) {
	inWorld(t, engine.Config{Insights: true, SessionTTL: time.Hour}, func(w *world) {
		s := w.open()
		w.put(1)
		for i := range int64(100) {
			w.put(2)
			w.work(s, i+1, 1, time.Second)
			w.ask()
		}
		got := w.ask()
		if r := got.Rates; !near(r.Arrivals, 2) || !near(r.Services, 1) || r.Window < 55*time.Second || r.Window > 70*time.Second {
			t.Errorf("two arrive and one is done a second, and the rates are %+v", r)
		}
		time.Sleep(20 * time.Minute)
		w.ask()
		time.Sleep(time.Minute)
		got = w.ask()
		if r := got.Rates; r.Arrivals != 0 || r.Services != 0 {
			t.Errorf("nothing happened for long, and the rates are %+v", r)
		}
	})
}

// A wall clock that jumps makes no arrivals and no negative rates, and what is
// known of run times stays.
func TestScalingThroughAJumpOfTheClock(t *testing.T) {
	for name, jump := range map[string]time.Duration{"forward": 5 * time.Hour, "back": -5 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, engine.Config{Insights: true, SessionTTL: time.Hour}, func(w *world) {
				s := w.open()
				w.put(200)
				steps := int64(0)
				busy := func(n int) {
					for range n {
						steps++
						w.work(s, steps, 2, time.Second)
						w.ask()
					}
				}
				busy(30)
				w.f.mu.Lock()
				w.f.skew = jump
				w.f.mu.Unlock()
				time.Sleep(2 * time.Second) // the engine hears of it
				busy(30)
				got := w.ask()
				if got.Rates.Services < 0 || got.Rates.Services > 2.5 || got.Rates.Arrivals != 0 && got.Rates.Arrivals > 4 {
					t.Errorf("rates %+v", got.Rates)
				}
				if got.Oldest < 0 || !got.Known || got.Runs["k"] > 3*time.Second {
					t.Errorf("oldest %s, known %t, runs %v", got.Oldest, got.Known, got.Runs)
				}
			})
		})
	}
}

func TestScalingOfKinds(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		items := make([]engine.Item, 60)
		for i := range items {
			items[i] = item(w.id())
			if i%3 == 0 {
				items[i].Job.Kind = "orphan"
			}
		}
		_, err := w.Enqueue(w.ctx, "", items)
		w.ok(err)
		s := w.open()
		w.lease(s, 1, 3)
		only := func(kinds ...string) func(*scaling.Query) { return func(q *scaling.Query) { q.Kinds = kinds } }
		all, k, orphan := w.ask(), w.ask(only("k")), w.ask(only("orphan"))
		if all.ReadyJobs != k.ReadyJobs+orphan.ReadyJobs || all.Running != 3 || k.Running+orphan.Running != 3 {
			t.Errorf("all %d ready and %d running; k %d, %d; orphan %d, %d", all.ReadyJobs, all.Running, k.ReadyJobs, k.Running, orphan.ReadyJobs, orphan.Running)
		}
		if none := w.ask(only("nothing")); none.Desired != 0 || none.ReadyJobs != 0 {
			t.Errorf("a kind without jobs: %+v", none)
		}
	})
}

// However many ask, the counters are read once a second, and the sums once
// in five for each queue.
func TestScalingReadsCountersOnceForAll(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		w.put(10)
		time.Sleep(5 * time.Second)
		before := w.f.count("Counts")
		for range 1000 {
			w.ask()
		}
		if n := w.f.count("Counts") - before; n > 1 {
			t.Errorf("a thousand questions within a second read the counters %d times", n)
		}
	})
}

// What a scrape of the metrics has read within the last second is not read again, and a
// scrape reads anew whatever scaling has read.
func TestScalingTakesWhatAScrapeHasRead(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		w.put(10)
		time.Sleep(5 * time.Second)
		look := func(what string, want int, fn func()) {
			t.Helper()
			before := w.f.count("Counts")
			if fn(); w.f.count("Counts")-before != want {
				t.Errorf("%s: the counters were read %d times, want %d", what, w.f.count("Counts")-before, want)
			}
		}
		scrape := func() {
			queues, sessions, err := w.Overview(w.ctx)
			w.ok(err)
			if len(queues) != 1 || queues[0].Counts[job.Ready] < 10 || len(sessions) != 1 {
				t.Errorf("queues %+v, sessions %+v", queues, sessions)
			}
		}
		s := w.open()
		look("a scrape", 1, scrape)
		look("scaling after it", 0, func() {
			if got := w.ask(); got.ReadyJobs != 10 || got.Workers != 1 {
				t.Errorf("%+v", got)
			}
		})
		w.put(5)
		look("another scrape", 1, scrape)
		time.Sleep(1100 * time.Millisecond)
		w.work(s, 1, 10, time.Second)
		look("scaling a second later", 1, func() {
			if got := w.ask(); got.ReadyJobs != 5 {
				t.Errorf("%+v", got)
			}
		})
		look("a scrape after it", 1, func() { _, _, err := w.Overview(w.ctx); w.ok(err) })
	})
}

// Each fold locks the sums of all servers: whoever asks folds nothing, and is
// told what this server has seen all the same.
func TestScalingFoldsNothing(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		time.Sleep(time.Second)
		s := w.open()
		w.put(20)
		w.work(s, 1, 10, 2*time.Second)
		for range 5 {
			if got := w.ask(); !got.Known || got.Backlog != 20*time.Second {
				t.Errorf("%+v", got)
			}
		}
		if n := w.f.count("FoldStats"); n != 0 {
			t.Errorf("there were %d folds", n)
		}
	})
}

// Whoever reaches the scaler's address may ask for any name: of one that is not
// known nothing is kept.
func TestScalingForgetsNamesThatNobodyKnows(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		w.put(1)
		w.ask()
		for i := range 1000 {
			_, err := w.Scaling(w.ctx, scaling.Query{Queue: fmt.Sprintf("guess-%d", i)})
			w.reason(err, job.ReasonQueueNotFound)
		}
		if n := w.Sampled(); n != 1 {
			t.Errorf("samples of %d queues are kept, of which one is known", n)
		}
	})
}

func TestScalingErrors(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		_, err := w.Scaling(w.ctx, scaling.Query{Queue: "nobody"})
		w.reason(err, job.ReasonQueueNotFound)
		_, err = w.Scaling(w.ctx, scaling.Query{Queue: "default", Min: 5, Max: 2})
		if job.CodeOf(err) != job.InvalidArgument {
			t.Errorf("bounds the wrong way round: %v", err)
		}
		w.open()
		time.Sleep(time.Second)
		if s := w.ask(); s.Desired != 0 || s.Workers != 1 {
			t.Errorf("a queue that only a worker knows: %+v", s)
		}
		time.Sleep(2 * time.Second)
		down := job.Errorf(job.Unavailable, job.ReasonLedgerDown, "counters: %w", errors.New("gone"))
		w.f.hook(func(method string) error {
			if method == "Counts" {
				return down
			}
			return nil
		}, nil)
		if _, err = w.Scaling(w.ctx, scaling.Query{Queue: "default"}); job.CodeOf(err) != job.Unavailable {
			t.Errorf("a ledger that is down: %v", err)
		}
		w.f.hook(nil, nil)
	})
}

// What comes once a night is judged by how long it took the night before, by
// every server, also by one that has just begun.
func TestScalingRemembersRunTimesOverTheDay(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		w.put(20)
		w.work(w.open(), 1, 20, 2*time.Second)
		w.ask()
		for range 3 {
			time.Sleep(3 * time.Hour)
			w.ask()
		}
		w.put(100)
		time.Sleep(time.Second)
		other := start(t, w.f, engine.Config{Insights: true})
		defer other.stop()
		for who, s := range map[string]scaling.Signal{"that was there all day": w.ask(), "that has just begun": other.ask()} {
			if !s.Known || s.Backlog != 200*time.Second || s.Desired != 5 {
				t.Errorf("the server %s says %d for %s, known %t", who, s.Desired, s.Backlog, s.Known)
			}
		}
	})
}

// A queue that is idle for days is still known, by what is remembered of it.
func TestScalingKnowsAQueueThatWasEmptiedLongAgo(t *testing.T) {
	inWorld(t, engine.Config{Insights: true}, func(w *world) {
		w.f.mu.Lock()
		w.f.sums.Tallies = append(w.f.sums.Tallies, ledger.Tally{Hour: 3, Queue: "weekly", Kind: "k", Outcome: ledger.OutcomeArrived, N: 1})
		w.f.mu.Unlock()
		s, err := w.Scaling(w.ctx, scaling.Query{Queue: "weekly"})
		if err != nil || s.Desired != 0 {
			t.Errorf("%+v, %v", s, err)
		}
	})
}
