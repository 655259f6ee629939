package ledgertest

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var handleTests = []test{
	{"ReopenedStoreHasEverything", hasReopen, handlesReopen},
	{"TwoHandlesShareTheWork", hasSecond, handlesShare},
	{"NothingIsLeftBehind", hasSecond, handlesLate},
	{"LateCommitIsFound", hasHoldInsert, handlesHeld},
	{"NobodyWaitsForALockedRow", hasSecond, handlesLocked},
	{"PauseIsSeenByAll", hasSecond, handlesPause},
	{"WakeReachesTheOther", hasSecond, handlesWake},
	{"OneOfManyHandlesWinsAKey", hasSecond, handlesUnique},
}

func handlesReopen(w *world) {
	var kept []job.Job
	for s := job.Scheduled; s <= job.Cancelled; s++ {
		kept = append(kept, w.inState(s, kind(s.String()), unique("key"+s.String(), job.UntilDone, 0)))
	}
	it := w.idem("c", "key", 1, kind("idem"))
	w.tryInsert(it)
	front := w.many(3, kind("order"))
	w.insert(front...)
	s := w.session()
	w.must(w.claim(s, 1, "order")[0].ID, job.Move{Event: job.Release})
	w.ok(w.l.SetPaused(w.ctx, w.now, "p", true))
	counts := w.counts()
	w.l = w.suite.features.Reopen(w.TB, w.l)
	for _, j := range kept {
		w.wantJob("after the restart", w.get(j.ID), j)
		w.checkKey(j.State.String(), j)
	}
	for k, n := range counts {
		if k.kind == "order" && w.counts()[k] != n {
			w.Errorf("%v: %d, was %d", k, w.counts()[k], n)
		}
	}
	w.wantOutcome("idempotency key", w.tryInsert(w.idem("c", "key", 1))[0], ledger.Duplicate, it.Job.ID)
	last := w.job(kind("order"))
	w.insert(last)
	w.wantIDs("order", idsOf(w.claim(s, 10, "order")), append(idsOf(front), last.ID))
	if p, err := w.l.Paused(w.ctx); err != nil || !slices.Equal(p, []string{"p"}) {
		w.Errorf("paused: %v, %v", p, err)
	}
	for _, j := range kept {
		if j.State == job.Running {
			w.done(j)
		}
	}
}

func (w *world) second() ledger.Ledger {
	w.Helper()
	return w.suite.features.Second(w.TB, w.l)
}

func handlesShare(w *world) { drainTogether(w, []ledger.Ledger{w.l, w.second(), w.second()}) }

// handlesLate inserts single jobs through two handles while both claim: commits
// come in another order than their numbers were drawn.
func handlesLate(w *world) {
	handles := []ledger.Ledger{w.l, w.second()}
	sessions := []job.ID{w.session(), w.session()}
	var producing, left atomic.Int64
	producing.Store(6)
	var mu sync.Mutex
	given := map[job.ID]bool{}
	jobs := w.many(6*60, kind("k0"))
	w.together(8, func(i int) error {
		l := handles[i%2]
		if i < 6 {
			defer producing.Add(-1)
			return insertAll(w, l, jobs[i*60:(i+1)*60], 1)
		}
		var end time.Time
		for late, found := false, 1; !late || found > 0; {
			if producing.Load() == 0 && end.IsZero() {
				end = time.Now().Add(time.Second) // half a second is promised
			}
			late = !end.IsZero() && time.Now().After(end)
			got, err := l.Claim(w.ctx, w.now, []ledger.Claim{{Session: sessions[i-6], Call: 1, Queue: "q", Max: 5, MaxBytes: 1 << 20}})
			if err != nil {
				return err
			}
			found = len(got[0].Jobs)
			mu.Lock()
			for _, j := range got[0].Jobs {
				if given[j.ID] {
					left.Add(1)
				}
				given[j.ID] = true
			}
			mu.Unlock()
		}
		return nil
	})
	if len(given) != len(jobs) || left.Load() != 0 {
		w.Errorf("%d of %d jobs were found, %d twice", len(given), len(jobs), left.Load())
	}
}

// handlesHeld commits a job long after jobs with larger numbers were claimed.
func handlesHeld(w *world) {
	s := w.session()
	late := w.job()
	commit := w.suite.features.HoldInsert(w.TB, w.l, ledger.Item{Job: late})
	for range 20 {
		j := w.job()
		w.insert(j)
		w.wantIDs("others pass", idsOf(w.claim(s, 5)), []job.ID{j.ID})
	}
	commit()
	w.eventually("the late job is found", 2*time.Second, func() bool {
		w.insert(w.job())
		return slices.Contains(idsOf(w.claim(s, 50)), late.ID)
	})
}

// handlesLocked looks at a job from another handle while Apply holds it.
func handlesLocked(w *world) {
	other := w.second()
	j := w.inState(job.Running, kind("held"))
	next := w.job()
	w.insert(next)
	s := w.session()
	var once sync.Once
	got := w.apply(ledger.Pick{IDs: []job.ID{j.ID}, Wait: true}, func(held *job.Job) error {
		once.Do(func() {
			ok, err := other.Succeed(w.ctx, w.now, []ledger.Success{{ID: j.ID, Token: j.Token}})
			w.ok(err)
			if ok[0].OK {
				w.Error("a locked job was settled")
			}
			busy, err := other.Apply(w.ctx, w.now, ledger.Pick{IDs: []job.ID{j.ID, next.ID}}, func(*job.Job) error { return job.ErrStale })
			w.ok(err)
			if !errors.Is(busy[0].Err, job.ErrBusy) || !errors.Is(busy[1].Err, job.ErrStale) {
				w.Errorf("apply to a locked job: %v; to another: %v", busy[0].Err, busy[1].Err)
			}
			_, err = other.Insert(w.ctx, w.now, items(w.job()))
			w.ok(err)
			claimed, err := other.Claim(w.ctx, w.now, []ledger.Claim{{Session: s, Call: 1, Queue: "q", Max: 1, MaxBytes: 1 << 20}})
			w.ok(err)
			w.wantIDs("claimed meanwhile", idsOf(claimed[0].Jobs), []job.ID{next.ID})
		})
		return w.rules.Step(held, job.Move{Event: job.Fail, Now: w.now})
	})
	w.ok(got[0].Err)
}

func handlesPause(w *world) {
	other := w.second()
	s := w.session()
	w.insert(w.many(3)...)
	claim := func(l ledger.Ledger) int {
		got, err := l.Claim(w.ctx, w.now, []ledger.Claim{{Session: s, Call: 1, Queue: "q", Max: 1, MaxBytes: 1 << 20}})
		w.ok(err)
		return len(got[0].Jobs)
	}
	if claim(other) != 1 {
		w.Fatal("nothing to claim")
	}
	w.ok(w.l.SetPaused(w.ctx, w.now, "q", true))
	if claim(other) != 0 || claim(w.l) != 0 {
		w.Error("a claim after the pause gave a job")
	}
	w.ok(other.SetPaused(w.ctx, w.now, "q", false))
	if claim(w.l) != 1 || claim(other) != 1 {
		w.Error("a claim after the resumption gave nothing")
	}
}

func handlesWake(w *world) {
	other := w.second()
	ctx, cancel := contextOf(w)
	heard, ended := make(chan string, 100), make(chan error, 1)
	go func() { ended <- other.Listen(ctx, func(q string) { heard <- q }) }()
	w.eventually("the other hears of the queue", 10*time.Second, func() bool {
		w.ok(w.l.Wake(w.ctx, []string{"some queue"}))
		select {
		case q := <-heard:
			return q == "some queue"
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	cancel()
	w.ok(<-ended)
}

func handlesUnique(w *world) {
	handles := []ledger.Ledger{w.l, w.second(), w.second()}
	jobs := w.many(24, unique("key", job.UntilDone, 0))
	var wins atomic.Int32
	w.together(len(jobs), func(i int) error {
		got, err := handles[i%3].Insert(w.ctx, w.now, items(jobs[i]))
		if err == nil && got[0].Outcome == ledger.InsertedNew {
			wins.Add(1)
		}
		return err
	})
	if wins.Load() != 1 {
		w.Errorf("%d inserts won the key", wins.Load())
	}
}
