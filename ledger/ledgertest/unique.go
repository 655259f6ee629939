package ledgertest

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var uniqueTests = []test{
	{"HeldByName", nil, uniqueHeld},
	{"ScopeIsTheKind", nil, uniqueScope},
	{"FirstOfOneCallWins", nil, uniqueInCall},
	{"WhileQueuedIsFreedAtTheFirstLease", nil, uniqueWhileQueued},
	{"WhileQueuedIsNeverTakenBack", nil, uniqueNeverBack},
	{"UntilDoneHoldsThroughRetries", nil, uniqueUntilDone},
	{"UntilDoneIsFreedByTheHotSettle", nil, uniqueHotSettle},
	{"WindowHoldsUntilItsTime", nil, uniqueWindow},
	{"RedriveOfAJobWhoseKeyIsTaken", nil, uniqueRedrive},
	{"RedriveTakesAFreeKey", nil, uniqueRedriveFree},
	{"OneOf32Wins", nil, uniqueRace},
	{"RefusedItemChangesNothing", nil, uniqueRefused},
}

func (w *world) wantOutcome(what string, got ledger.Inserted, want ledger.InsertOutcome, holder job.ID) {
	w.Helper()
	if got.Outcome != want || got.Holder != holder {
		w.Errorf("%s: outcome %d of %s, want %d of %s", what, got.Outcome, got.Holder, want, holder)
	}
}

// try inserts one job.
func (w *world) try(with ...func(*job.Job)) (job.ID, ledger.Inserted) {
	w.Helper()
	j := w.job(with...)
	return j.ID, w.tryInsert(ledger.Item{Job: j})[0]
}

func uniqueHeld(w *world) {
	for _, mode := range []job.UniqueMode{job.WhileQueued, job.UntilDone, job.ForWindow} {
		window := time.Duration(0)
		if mode == job.ForWindow {
			window = time.Hour
		}
		k := kind(string('a' + rune(mode)))
		a := w.job(k, unique("key", mode, window))
		w.insert(a)
		for other := job.WhileQueued; other <= job.ForWindow; other++ {
			_, got := w.try(k, unique("key", other, time.Hour))
			w.wantOutcome("second", got, ledger.UniqueHeld, a.ID)
			if got.State != job.Ready {
				w.Errorf("holder is said to be %s", got.State)
			}
		}
		again := w.tryInsert(ledger.Item{Job: a})[0]
		w.wantOutcome("the same job again", again, ledger.Duplicate, a.ID)
	}
}

func uniqueScope(w *world) {
	u := unique("key", job.UntilDone, 0)
	a, got := w.try(kind("a"), u)
	w.wantOutcome("first", got, ledger.InsertedNew, a)
	_, got = w.try(kind("a"), queue("other"), u)
	w.wantOutcome("another queue, same kind", got, ledger.UniqueHeld, a)
	id, got := w.try(kind("b"), u)
	w.wantOutcome("another kind", got, ledger.InsertedNew, id)
	id, got = w.try(kind("a"), unique("KEY", job.UntilDone, 0))
	w.wantOutcome("case matters", got, ledger.InsertedNew, id)
	id, got = w.try(kind("a"), unique("key ", job.UntilDone, 0))
	w.wantOutcome("spaces matter", got, ledger.InsertedNew, id)
}

func uniqueInCall(w *world) {
	u := unique("key", job.UntilDone, 0)
	a, b, c := w.job(u), w.job(), w.job(u)
	got := w.tryInsert(items(a, b, c)...)
	w.wantOutcome("first", got[0], ledger.InsertedNew, a.ID)
	w.wantOutcome("plain", got[1], ledger.InsertedNew, b.ID)
	w.wantOutcome("second", got[2], ledger.UniqueHeld, a.ID)
	w.gone(c.ID)
}

func uniqueWhileQueued(w *world) {
	u := unique("key", job.WhileQueued, 0)
	a, _ := w.try(u, at(w.now.Add(time.Second)))
	_, got := w.try(u)
	w.wantOutcome("while scheduled", got, ledger.UniqueHeld, a)
	w.pass(time.Second)
	w.stepAll(ledger.Pick{Due: w.now, Limit: 1}, job.Due)
	_, got = w.try(u)
	w.wantOutcome("while ready", got, ledger.UniqueHeld, a)
	w.claim(w.session(), 1)
	b, got := w.try(u)
	w.wantOutcome("once leased", got, ledger.InsertedNew, b)
}

func uniqueNeverBack(w *world) {
	u := unique("key", job.WhileQueued, 0)
	a, _ := w.try(u)
	w.claim(w.session(), 1)
	b, _ := w.try(u)
	w.must(a, job.Move{Event: job.Release})
	_, got := w.try(u)
	w.wantOutcome("the newer job keeps it", got, ledger.UniqueHeld, b)
	w.must(b, job.Move{Event: job.Cancel})
	c, got := w.try(u)
	w.wantOutcome("a job leased before does not take it back", got, ledger.InsertedNew, c)
	w.must(c, job.Move{Event: job.Delete})
	held := w.claim(w.session(), 1)
	w.must(a, job.Move{Event: job.Discard})
	w.must(a, job.Move{Event: job.Redrive})
	d, got := w.try(u)
	w.wantOutcome("nor does a redrive", got, ledger.InsertedNew, d)
	w.wantIDs("claimed", idsOf(held), []job.ID{a})
}

func uniqueUntilDone(w *world) {
	u := unique("key", job.UntilDone, 0)
	a, _ := w.try(u)
	s := w.session()
	held := func(what string) {
		w.Helper()
		_, got := w.try(u)
		w.wantOutcome(what, got, ledger.UniqueHeld, a)
	}
	for _, e := range []job.Event{job.Fail, job.Snooze, job.Release, job.Crash} {
		w.claim(s, 1)
		held("running")
		w.must(a, job.Move{Event: e, Delay: time.Second})
		held("after " + e.String())
		w.pass(time.Second)
		w.stepAll(ledger.Pick{Due: w.now, Limit: 1}, job.Due)
	}
	w.claim(s, 1)
	w.must(a, job.Move{Event: job.Cancel})
	held("cancel requested")
	w.must(a, job.Move{Event: job.Fail})
	b, got := w.try(u)
	w.wantOutcome("cancelled", got, ledger.InsertedNew, b)
}

func uniqueHotSettle(w *world) {
	for _, mode := range []job.UniqueMode{job.WhileQueued, job.UntilDone} {
		u := unique("key", mode, 0)
		k := kind(string('a' + rune(mode)))
		for range 3 {
			j := w.job(u, k)
			w.insert(j)
			w.done(w.lease(j))
		}
	}
	// The settle of an old holder must not free the key of a new one.
	u := unique("other", job.WhileQueued, 0)
	a := w.job(u)
	w.insert(a)
	leased := w.lease(a)
	b := w.job(u)
	w.insert(b)
	w.done(leased)
	_, got := w.try(u)
	w.wantOutcome("held by the newer", got, ledger.UniqueHeld, b.ID)
}

func uniqueWindow(w *world) {
	u := unique("key", job.ForWindow, time.Hour)
	a := w.job(u)
	w.insert(a)
	w.done(w.lease(a))
	w.pass(30 * time.Minute)
	_, got := w.try(u)
	w.wantOutcome("done, in the window", got, ledger.UniqueHeld, a.ID)
	w.must(a.ID, job.Move{Event: job.Delete})
	_, got = w.try(u)
	w.wantOutcome("deleted, in the window", got, ledger.UniqueHeld, a.ID)
	_, err := w.l.Upkeep(w.ctx, w.now, ledger.DefaultKeep)
	w.ok(err)
	_, got = w.try(u)
	w.wantOutcome("after upkeep, in the window", got, ledger.UniqueHeld, a.ID)
	w.pass(30*time.Minute + time.Microsecond)
	b, got := w.try(u)
	w.wantOutcome("after the window", got, ledger.InsertedNew, b)
	_, got = w.try(u)
	w.wantOutcome("the next window", got, ledger.UniqueHeld, b)
}

func uniqueRedrive(w *world) {
	u := unique("key", job.UntilDone, 0)
	a := w.inState(job.Dead, u)
	b, got := w.try(u)
	w.wantOutcome("a dead letter holds no key", got, ledger.InsertedNew, b)
	for _, delay := range []time.Duration{0, time.Minute} {
		res := w.step(a.ID, job.Move{Event: job.Redrive, Delay: delay})
		if job.ReasonOf(res.Err) != job.ReasonUniqueHeld || holderOf(res.Err) != b {
			w.Errorf("redrive: %v, holder %s, want %s", res.Err, holderOf(res.Err), b)
		}
		w.wantJob("answer", res.Job, a)
		w.wantJob("stays dead", w.get(a.ID), a)
	}
	w.must(b, job.Move{Event: job.Cancel})
	if j := w.must(a.ID, job.Move{Event: job.Redrive}); j.State != job.Ready {
		w.Errorf("once the key is free: %s", j.State)
	}
	_, got = w.try(u)
	w.wantOutcome("held again", got, ledger.UniqueHeld, a.ID)
}

func uniqueRedriveFree(w *world) {
	u := unique("key", job.UntilDone, 0)
	a, b := w.inState(job.Dead, u), w.inState(job.Dead, u)
	other := w.inState(job.Dead, kind("other"))
	ids := []job.ID{a.ID, other.ID, b.ID}
	got := w.apply(ledger.Pick{IDs: ids}, func(j *job.Job) error {
		return w.rules.Step(j, job.Move{Event: job.Redrive, Now: w.now})
	})
	if (got[0].Err == nil) == (got[2].Err == nil) || got[1].Err != nil {
		w.Errorf("of two letters with one key exactly one is redriven: %v, %v, %v", got[0].Err, got[1].Err, got[2].Err)
	}
}

func uniqueRace(w *world) {
	const n = 32
	u := unique("key", job.UntilDone, 0)
	for _, mixed := range []bool{false, true} {
		w.one(n, mixed, u)
		w.must(w.claim(w.session(), 1, "race")[0].ID, job.Move{Event: job.Discard})
	}
}

// one lets n goroutines insert with one key: one wins, all name it.
func (w *world) one(n int, mixed bool, u func(*job.Job)) {
	w.Helper()
	jobs := w.many(n, u, kind("race"))
	answers := make([]ledger.Inserted, n)
	var wins atomic.Int32
	w.together(n, func(i int) error {
		its := items(jobs[i])
		if mixed {
			its = append(its, items(w.many(3)...)...)
		}
		got, err := w.l.Insert(w.ctx, w.now, its)
		if err != nil {
			return err
		}
		if answers[i] = got[0]; got[0].Outcome == ledger.InsertedNew {
			wins.Add(1)
		}
		return nil
	})
	if wins.Load() != 1 {
		w.Fatalf("%d of %d inserts won the key", wins.Load(), n)
	}
	for i, a := range answers {
		if !slices.Contains([]ledger.InsertOutcome{ledger.InsertedNew, ledger.UniqueHeld}, a.Outcome) || a.Holder != answers[0].Holder {
			w.Errorf("answer %d: %+v, the first was %+v", i, a, answers[0])
		}
	}
}

func uniqueRefused(w *world) {
	u := unique("key", job.UntilDone, 0)
	a := w.job(u)
	w.insert(a)
	loser := ledger.Item{Job: w.job(u), Caller: "c", IdempotencyKey: "i"}
	w.wantOutcome("refused", w.tryInsert(loser)[0], ledger.UniqueHeld, a.ID)
	w.must(a.ID, job.Move{Event: job.Cancel})
	w.wantOutcome("its idempotency key was not used up", w.tryInsert(loser)[0], ledger.InsertedNew, loser.Job.ID)
}
