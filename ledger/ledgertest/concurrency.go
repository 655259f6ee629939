package ledgertest

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var concurrencyTests = []test{
	{"NoDoubleClaim", nil, func(w *world) { drainTogether(w, []ledger.Ledger{w.l}) }},
	{"OneSettleWins", nil, concurrencySettle},
	{"OneApplyWins", nil, concurrencyApply},
	{"MixedHandsLoseNothing", nil, concurrencyMixed},
	{"PauseHolds", nil, concurrencyPause},
}

var costTests = []test{
	{"UnknownKindsInFront", searches, costUnknown},
}

var handleTests = []test{
	{"ReopenedStoreHasEverything", hasReopen, handlesReopen},
	{"TwoHandlesShareTheWork", hasSecond, handlesShare},
	{"NothingIsLeftBehind", hasSecond, handlesLate},
	{"LateCommitIsFound", hasHoldInsert, handlesHeld},
	{"PauseIsSeenByAll", hasSecond, handlesPause},
	{"WakeReachesTheOther", hasSecond, handlesWake},
	{"OneOfManyHandlesWinsAKey", hasSecond, handlesUnique},
}

// drainTogether inserts from some goroutines while others claim and succeed,
// over all handles: every job is given exactly once.
func drainTogether(w *world, handles []ledger.Ledger) {
	const producers, batches, size, workers = 4, 10, 20, 4
	const total = producers * batches * size
	jobs := make([][]job.Job, producers)
	for i := range jobs {
		jobs[i] = w.many(batches*size, kind(fmt.Sprint("k", i%2)), prio(i))
	}
	sessions := make([]job.ID, workers)
	for i := range sessions {
		sessions[i] = w.session()
	}
	var given sync.Map
	var done atomic.Int64
	w.together(producers+workers, func(i int) error {
		l := handles[i%len(handles)]
		if i < producers {
			return insertAll(w, l, jobs[i], size)
		}
		return workAll(w, l, sessions[i-producers], 13, &given, &done, total)
	})
	if done.Load() != total {
		w.Errorf("%d of %d jobs done", done.Load(), total)
	}
	if got := w.counts(); got[countKey{"q", "k0", job.Succeeded}]+got[countKey{"q", "k1", job.Succeeded}] != total {
		w.Errorf("counters %v", got)
	}
}

func insertAll(w *world, l ledger.Ledger, jobs []job.Job, size int) error {
	for batch := range slices.Chunk(jobs, size) {
		if _, err := l.Insert(w.ctx, w.now, items(batch...)); err != nil {
			return err
		}
	}
	return nil
}

// workAll claims and succeeds, batch by batch, until total jobs are done by all.
func workAll(w *world, l ledger.Ledger, s job.ID, batch int, given *sync.Map, done *atomic.Int64, total int64) error {
	for done.Load() < total {
		got, err := l.Claim(w.ctx, w.now, []ledger.Claim{{Session: s, Call: 1, Queue: "q", Kinds: []string{"k0", "k1"}, Max: batch, MaxBytes: 1 << 20}})
		if err != nil {
			return err
		}
		var its []ledger.Success
		for _, j := range got[0].Jobs {
			if _, twice := given.LoadOrStore(j.ID, s); twice {
				return fmt.Errorf("job %s was given twice", j.ID)
			}
			its = append(its, ledger.Success{ID: j.ID, Token: j.Token})
		}
		for len(its) > 0 {
			ok, err := l.Succeed(w.ctx, w.now, its)
			if err != nil {
				return err
			}
			left := its[:0]
			for i, it := range its {
				if ok[i] {
					done.Add(1)
				} else {
					left = append(left, it) // its row was locked by someone
				}
			}
			its = left
		}
	}
	return nil
}

func concurrencySettle(w *world) {
	w.insert(w.many(10)...)
	for _, j := range w.claim(w.session(), 10) {
		var wins atomic.Int32
		w.together(8, func(int) error {
			ok, err := w.l.Succeed(w.ctx, w.now, []ledger.Success{{ID: j.ID, Token: j.Token}})
			if err == nil && ok[0] {
				wins.Add(1)
			}
			return err
		})
		if wins.Load() != 1 {
			w.Errorf("%d settles of one lease were accepted", wins.Load())
		}
	}
}

func concurrencyApply(w *world) {
	for range 5 {
		j := w.inState(job.Ready, kind("apply"))
		var wins, lost atomic.Int32
		w.together(8, func(i int) error {
			e := []job.Event{job.Cancel, job.Delete, job.Expire}[i%3]
			got, err := w.l.Apply(w.ctx, w.now, ledger.Pick{IDs: []job.ID{j.ID}, Wait: true}, func(j *job.Job) error {
				if j.State != job.Ready {
					return job.ErrStale
				}
				return w.rules.Step(j, job.Move{Event: e, Now: w.now})
			})
			switch {
			case err != nil:
				return err
			case got[0].Err == nil:
				wins.Add(1)
			default:
				lost.Add(1)
			}
			return nil
		})
		if wins.Load() != 1 || lost.Load() != 7 {
			w.Errorf("%d moves of one ready job won, %d lost", wins.Load(), lost.Load())
		}
	}
}

// concurrencyMixed lets every write meet every other; the audit counts.
func concurrencyMixed(w *world) {
	s := w.session()
	w.together(12, func(i int) error {
		for n := range 8 {
			if err := mixedStep(w, i, n, s); err != nil {
				return err
			}
		}
		return nil
	})
}

func mixedStep(w *world, i, n int, s job.ID) error {
	step := func(e job.Event) func(*job.Job) error {
		return func(j *job.Job) error {
			return w.rules.Step(j, job.Move{Event: e, Now: w.now, Delay: time.Microsecond})
		}
	}
	var err error
	switch (i + n) % 6 {
	case 0, 1:
		with := unique(fmt.Sprint("u", n), job.UntilDone, 0)
		_, err = w.l.Insert(w.ctx, w.now, items(w.job(), w.job(), w.job(with), w.job(prio(n))))
	case 2:
		var got []ledger.Claimed
		got, err = w.l.Claim(w.ctx, w.now, []ledger.Claim{{Session: s, Call: 1, Queue: "q", Max: 3, MaxBytes: 1 << 20}})
		if err == nil && len(got[0].Jobs) > 1 {
			if _, err = w.l.Succeed(w.ctx, w.now, []ledger.Success{{ID: got[0].Jobs[0].ID, Token: got[0].Jobs[0].Token}}); err == nil {
				_, err = w.l.Apply(w.ctx, w.now, ledger.Pick{IDs: idsOf(got[0].Jobs[1:])}, step(job.Fail))
			}
		}
	case 3:
		_, err = w.l.Apply(w.ctx, w.now, ledger.Pick{Due: w.now.Add(time.Second), Limit: 5}, step(job.Due))
	case 4:
		_, err = w.l.Upkeep(w.ctx, w.now, ledger.DefaultKeep)
	case 5:
		_, err = w.l.Beat(w.ctx, w.now, []job.ID{s})
	}
	return err
}

// concurrencyPause: once SetPaused returned, no claim that begins gives a job.
func concurrencyPause(w *world) {
	w.insert(w.many(200)...)
	s := w.session()
	var paused atomic.Bool
	w.together(5, func(i int) error {
		if i == 0 {
			err := w.l.SetPaused(w.ctx, w.now, "q", true)
			paused.Store(true)
			return err
		}
		for stop := false; !stop; {
			stop = paused.Load()
			got, err := w.l.Claim(w.ctx, w.now, []ledger.Claim{{Session: s, Call: 1, Queue: "q", Max: 1, MaxBytes: 1 << 20}})
			if err != nil {
				return err
			}
			if stop && len(got[0].Jobs) > 0 {
				return fmt.Errorf("a claim after the pause gave %s", got[0].Jobs[0].ID)
			}
			stop = stop || len(got[0].Jobs) == 0
		}
		return nil
	})
}

// costUnknown measures claims of one kind with nothing, then with many jobs of
// another kind in front. The bound is wide: it tells a scan from a search.
func costUnknown(w *world) {
	const backlog = 20_000
	s := w.session()
	measure := func() time.Duration {
		best := time.Hour
		for range 15 {
			w.insert(w.many(10, kind("known"), prio(9))...)
			start := time.Now()
			if got := w.claim(s, 10, "known"); len(got) != 10 {
				w.Fatalf("%d of 10 jobs", len(got))
			}
			best = min(best, time.Since(start))
		}
		return best
	}
	alone := measure()
	for range backlog / 1000 {
		w.insert(w.many(1000, kind("unknown"), prio(0))...)
	}
	if behind := measure(); behind > 4*alone+5*time.Millisecond {
		w.Errorf("a claim took %s alone and %s behind %d jobs of an unknown kind", alone, behind, backlog)
	}
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
		for end.IsZero() || time.Now().Before(end) {
			if producing.Load() == 0 && end.IsZero() {
				end = time.Now().Add(time.Second) // half a second is promised
			}
			got, err := l.Claim(w.ctx, w.now, []ledger.Claim{{Session: sessions[i-6], Call: 1, Queue: "q", Max: 5, MaxBytes: 1 << 20}})
			if err != nil {
				return err
			}
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

// eventually asks until cond holds, at most for d.
func (w *world) eventually(what string, d time.Duration, cond func() bool) {
	w.Helper()
	for end := time.Now().Add(d); !cond(); {
		if time.Now().After(end) {
			w.Fatalf("not within %s: %s", d, what)
		}
	}
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
