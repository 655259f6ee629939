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
				if ok[i].OK {
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
			if err == nil && ok[0].OK {
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
