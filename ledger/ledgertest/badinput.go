package ledgertest

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var badInputTests = []test{
	{"EmptyAndZeroPicks", nil, badPicks},
	{"EmptyAndZeroClaims", nil, badClaims},
	{"IDNamedTwice", nil, badTwice},
	{"HugeStrings", nil, badHuge},
	{"EndedContextChangesNothing", nil, badContext},
	{"TimesToTheMicrosecond", nil, badTimes},
}

// badPicks choose nothing, or fail: they never change a job.
func badPicks(w *world) {
	var kept []job.Job
	for s := job.Scheduled; s <= job.Cancelled; s++ {
		kept = append(kept, w.inState(s, expires(w.now.Add(time.Hour)), kind(s.String())))
	}
	w.pass(2 * time.Hour)
	for _, p := range []ledger.Pick{
		{}, {Limit: 10}, {IDs: []job.ID{}}, {IDs: []job.ID{}, Limit: 10}, {Due: w.now}, {Expired: w.now},
		{Orphans: ledger.SessionDrained}, {Dead: &ledger.DeadFilter{}}, {Due: w.now, Limit: -1}, {Dead: &ledger.DeadFilter{}, Limit: -5},
		{Orphans: ledger.SessionLive, Limit: 5},
	} {
		got, err := w.l.Apply(w.ctx, w.now, p, func(j *job.Job) error { j.State, j.DoneAt = job.Deleted, w.now; return nil })
		if err == nil && len(got) != 0 {
			w.Errorf("pick %+v: %d answers", p, len(got))
		}
	}
	for _, j := range kept {
		w.wantJob("untouched", w.get(j.ID), j)
	}
}

func badClaims(w *world) {
	j := w.job()
	w.insert(j)
	s := w.session()
	w.tryClaim()
	for _, c := range []ledger.Claim{
		{Session: s, Queue: "q", Max: 0, MaxBytes: 100}, {Session: s, Queue: "q", Max: -1, MaxBytes: 100},
		{Session: s, Queue: "", Max: 5, MaxBytes: 100}, {Session: s, Queue: "q", Kinds: []string{""}, Max: 5, MaxBytes: 100},
		{Session: s, Queue: "Q", Max: 5, MaxBytes: 100}, {Queue: "q", Max: 5, MaxBytes: 100},
		{Session: s, Queue: strings.Repeat("q", 1<<20), Max: 5, MaxBytes: 100},
	} {
		got, err := w.l.Claim(w.ctx, w.now, []ledger.Claim{c})
		if err == nil && len(got[0].Jobs) != 0 {
			w.Errorf("%+.100v: gave %v", c, idsOf(got[0].Jobs))
		}
	}
	w.wantJob("untouched", w.get(j.ID), j)
	twice := w.claim(s, 5, "k", "k", "k")
	w.wantIDs("a kind named thrice", idsOf(twice), []job.ID{j.ID})
}

func badTwice(w *world) {
	for _, e := range []job.Event{job.Cancel, job.Delete, job.Redrive} {
		j := w.inState(job.Dead, kind(e.String()))
		got := w.apply(ledger.Pick{IDs: []job.ID{j.ID, j.ID}, Wait: true}, func(j *job.Job) error {
			return w.rules.Step(j, job.Move{Event: e, Now: w.now})
		})
		if got[0].Err != nil {
			w.Errorf("%s: %v", e, got[0].Err)
		}
		w.audit() // counted once
	}
}

func badHuge(w *world) {
	huge := strings.Repeat("h", 4000)
	j := w.job(queue(huge), kind(huge), tags(huge, huge), unique(strings.Repeat("u", 2000), job.UntilDone, 0), func(j *job.Job) { j.Trace = huge })
	got, err := w.l.Insert(w.ctx, w.now, items(w.job(), j))
	if err != nil {
		if n := len(w.all()); n != 0 {
			w.Errorf("an insert that failed left %d jobs", n)
		}
		return
	}
	if got[1].Outcome == ledger.InsertedNew {
		w.wantJob("stored", w.get(j.ID), j)
	}
}

// badContext tries every write with a context that has ended.
func badContext(w *world) {
	running, dead := w.inState(job.Running), w.inState(job.Dead, kind("dead"))
	ready := w.inState(job.Ready)
	refs, s := w.refsOf(ready), w.session()
	ended, cancel := context.WithCancel(w.ctx)
	cancel()
	j := w.job()
	for name, call := range map[string]func() error{
		"Insert": func() error { _, err := w.l.Insert(ended, w.now, items(j)); return err },
		"Claim": func() error {
			_, err := w.l.Claim(ended, w.now, []ledger.Claim{{Session: s, Queue: "q", Max: 5, MaxBytes: 100}})
			return err
		},
		"Claim by name": func() error {
			_, err := w.l.Claim(ended, w.now, []ledger.Claim{byName(s, refs...)})
			return err
		},
		"Heads": func() error { _, err := w.l.Heads(ended, w.now, []ledger.Head{{Queue: "q", Max: 5}}); return err },
		"HoldRelay": func() error {
			_, _, err := w.l.HoldRelay(ended, w.now, newID(), time.Hour)
			return err
		},
		"SetRoute": func() error { return w.l.SetRoute(ended, w.now, "q", "kafka") },
		"Succeed": func() error {
			_, err := w.l.Succeed(ended, w.now, []ledger.Success{{ID: running.ID, Token: running.Token}})
			return err
		},
		"Apply": func() error {
			_, err := w.l.Apply(ended, w.now, ledger.Pick{IDs: []job.ID{dead.ID}}, func(j *job.Job) error { j.State = job.Deleted; return nil })
			return err
		},
		"OpenSession": func() error {
			return w.l.OpenSession(ended, ledger.Session{ID: newID(), State: ledger.SessionLive, OpenedAt: w.now, BeatAt: w.now})
		},
		"Beat": func() error { _, err := w.l.Beat(ended, w.now, []job.ID{s}); return err },
		"MoveSession": func() error {
			_, err := w.l.MoveSession(ended, w.now, s, []ledger.SessionState{ledger.SessionLive}, ledger.SessionDead, 0)
			return err
		},
		"SetPaused": func() error { return w.l.SetPaused(ended, w.now, "q", true) },
		"Upkeep":    func() error { _, err := w.l.Upkeep(ended, w.now.Add(1000*time.Hour), ledger.DefaultKeep); return err },
	} {
		if err := call(); err == nil {
			w.Errorf("%s: no error", name)
		} else if errors.Is(err, job.ErrUnknown) {
			w.Errorf("%s: the outcome is known: nothing was begun", name)
		}
	}
	w.gone(j.ID)
	for _, j := range []job.Job{running, dead, ready} {
		w.wantJob("untouched", w.get(j.ID), j)
	}
	if got, _ := w.sessionOf(s); got.State != ledger.SessionLive || got.Beat != 1 {
		w.Errorf("session: %+v", got)
	}
	if p, err := w.l.Paused(w.ctx); err != nil || len(p) != 0 {
		w.Errorf("paused: %v, %v", p, err)
	}
	w.wantRoutes(nil)
	w.hold(newID(), time.Hour, true, 1)
}

func badTimes(w *world) {
	for _, t := range []time.Time{
		time.Date(1999, 12, 31, 23, 59, 59, 999999000, time.UTC),
		time.Date(2036, 2, 29, 1, 2, 3, 1000, time.FixedZone("x", -7*3600)),
		w.now.Add(job.MaxDelay),
	} {
		j := w.job(at(t), expires(t.Add(time.Microsecond)), func(j *job.Job) {
			j.CreatedAt, j.Timeout = t.Add(-time.Microsecond), job.MaxDelay
		})
		w.insert(j)
		w.wantJob(t.String(), w.get(j.ID), j)
	}
}
