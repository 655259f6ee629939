package ledgertest

import (
	"fmt"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var pickTests = []test{
	{"Due", nil, pickDue},
	{"Expired", nil, pickExpired},
	{"Orphans", nil, pickOrphans},
	{"Dead", nil, pickDead},
	{"DeadByErrorText", nil, pickDeadText},
	{"DeadPages", nil, pickDeadPages},
	{"RefusedJobsStay", nil, pickRefused},
}

func pickDue(w *world) {
	var ids []job.ID
	for _, i := range []int{3, 1, 5, 2, 4} {
		j := w.job(at(w.now.Add(time.Duration(i) * time.Second)))
		w.insert(j)
		ids = append(ids, j.ID)
	}
	start := w.now
	w.wantIDs("none yet", w.stepAll(ledger.Pick{Due: w.now, Limit: 10}, job.Due), nil)
	w.pass(4 * time.Second)
	w.wantIDs("oldest first", w.stepAll(ledger.Pick{Due: w.now, Limit: 2}, job.Due), []job.ID{ids[1], ids[3]})
	w.wantIDs("up to now", w.stepAll(ledger.Pick{Due: w.now, Limit: 10}, job.Due), []job.ID{ids[0], ids[4]})
	w.wantIDs("not again", w.stepAll(ledger.Pick{Due: w.now, Limit: 10}, job.Due), nil)
	w.wantIDs("to the microsecond, not yet", w.stepAll(ledger.Pick{Due: start.Add(5*time.Second - time.Microsecond), Limit: 10}, job.Due), nil)
	w.wantIDs("to the microsecond", w.stepAll(ledger.Pick{Due: start.Add(5 * time.Second), Limit: 10}, job.Due), []job.ID{ids[2]})
	w.wantIDs("claimed as promoted", w.claimAll(w.session()), []job.ID{ids[1], ids[3], ids[0], ids[4], ids[2]})
}

func pickExpired(w *world) {
	soon := expires(w.now.Add(time.Second))
	ready, scheduled, running := w.job(soon), w.job(soon, at(w.now.Add(time.Hour))), w.job(soon, kind("run"))
	never, later := w.job(), w.job(expires(w.now.Add(time.Hour)))
	w.insert(ready, scheduled, running, never, later)
	w.claim(w.session(), 1, "run")
	w.pass(2 * time.Second)
	w.wantSet("expired", w.stepAll(ledger.Pick{Expired: w.now, Limit: 10}, job.Expire), []job.ID{ready.ID, scheduled.ID})
	if j := w.get(ready.ID); j.State != job.Cancelled || j.Reason != job.WhyExpired {
		w.Errorf("%s, %s", j.State, j.Reason)
	}
	if w.get(running.ID).State != job.Running {
		w.Error("a running job is left")
	}
}

func pickOrphans(w *world) {
	held := map[ledger.SessionState]job.ID{}
	for _, s := range []ledger.SessionState{ledger.SessionLive, ledger.SessionDraining, ledger.SessionDead, ledger.SessionDrained, ledger.SessionAbsent} {
		j := w.job()
		w.insert(j)
		session := w.session()
		w.claim(session, 1)
		held[s] = j.ID
		if s != ledger.SessionLive {
			w.move(session, s)
		}
	}
	w.wantIDs("of the dead", w.stepAll(ledger.Pick{Orphans: ledger.SessionDead, Limit: 10}, job.Crash), []job.ID{held[ledger.SessionDead]})
	w.wantSet("of the drained and absent", w.stepAll(ledger.Pick{Orphans: ledger.SessionDrained, Limit: 10}, job.Release),
		[]job.ID{held[ledger.SessionDrained], held[ledger.SessionAbsent]})
	for _, s := range []ledger.SessionState{ledger.SessionLive, ledger.SessionDraining} {
		if w.get(held[s]).State != job.Running {
			w.Errorf("a %s session lost its job", s)
		}
	}
	w.wantIDs("no more", w.stepAll(ledger.Pick{Orphans: ledger.SessionDead, Limit: 10}, job.Crash), nil)
}

// died makes a dead letter with a message.
func (w *world) died(message string, with ...func(*job.Job)) job.ID {
	w.Helper()
	j := w.job(with...)
	w.insert(j)
	w.lease(j)
	w.must(j.ID, job.Move{Event: job.Discard, Failure: job.Failure{Message: message}})
	return j.ID
}

// look names the jobs of a pick and changes nothing.
func (w *world) look(p ledger.Pick) []job.ID {
	w.Helper()
	var ids []job.ID
	for _, a := range w.apply(p, func(*job.Job) error { return job.ErrBusy }) {
		ids = append(ids, a.Job.ID)
	}
	return ids
}

func (w *world) wantDead(what string, f ledger.DeadFilter, want ...job.ID) {
	w.Helper()
	w.wantIDs(what, w.look(ledger.Pick{Dead: &f, Limit: 100}), want)
	n, err := w.l.CountDead(w.ctx, f, 100)
	w.ok(err)
	if n != len(want) {
		w.Errorf("%s: counted %d, want %d", what, n, len(want))
	}
}

func pickDead(w *world) {
	a := w.died("disk full", queue("a"), kind("x"))
	w.pass(time.Minute)
	b := w.died("disk fuller", queue("b"), kind("x"))
	w.pass(time.Minute)
	c := w.died("other", queue("a"), kind("y"))
	w.inState(job.Succeeded)
	w.wantDead("all, newest first", ledger.DeadFilter{}, c, b, a)
	w.wantDead("queue", ledger.DeadFilter{Queue: "a"}, c, a)
	w.wantDead("kind", ledger.DeadFilter{Kind: "x"}, b, a)
	w.wantDead("queue and kind", ledger.DeadFilter{Queue: "a", Kind: "x"}, a)
	w.wantDead("text", ledger.DeadFilter{Error: "full"}, b, a)
	w.wantDead("before", ledger.DeadFilter{Before: w.now}, b, a)
	w.wantDead("none", ledger.DeadFilter{Queue: "nosuch"})
	w.wantDead("after", ledger.DeadFilter{AfterID: b}, a)
	w.wantIDs("limit", w.look(ledger.Pick{Dead: &ledger.DeadFilter{}, Limit: 2}), []job.ID{c, b})
	if n, err := w.l.CountDead(w.ctx, ledger.DeadFilter{}, 2); err != nil || n != 2 {
		w.Errorf("counted %d of at most 2, %v", n, err)
	}
	w.wantIDs("redrive", w.stepAll(ledger.Pick{Dead: &ledger.DeadFilter{Kind: "x"}, Limit: 10}, job.Redrive), []job.ID{b, a})
	w.wantDead("left", ledger.DeadFilter{}, c)
}

// pickDeadText asks for text that a pattern language would misread.
func pickDeadText(w *world) {
	texts := []string{"100% done", "100 done", "a_b", "axb", `back\slash`, "Case", "case", "quote'd", "日本語", "[set]", "*", "?"}
	ids := map[string]job.ID{}
	for _, s := range texts {
		ids[s] = w.died(s, kind(s))
		w.pass(time.Millisecond)
	}
	for _, s := range []string{"100%", "a_b", `k\s`, "Case", "case", "e'd", "本", "[set]", "*", "?"} {
		var want []job.ID
		for i := range texts {
			if t := texts[len(texts)-1-i]; containsText(t, s) {
				want = append(want, ids[t])
			}
		}
		w.wantDead(fmt.Sprintf("text %q", s), ledger.DeadFilter{Error: s}, want...)
	}
}

func containsText(s, part string) bool {
	for i := range s {
		if len(s)-i >= len(part) && s[i:i+len(part)] == part {
			return true
		}
	}
	return false
}

func pickDeadPages(w *world) {
	jobs := w.many(25)
	w.insert(jobs...)
	w.claim(w.session(), 25)
	w.apply(ledger.Pick{IDs: idsOf(jobs)}, func(j *job.Job) error {
		return w.rules.Step(j, job.Move{Event: job.Discard, Now: w.now})
	})
	var seen []job.ID
	f := ledger.DeadFilter{}
	for range 10 {
		page := w.look(ledger.Pick{Dead: &f, Limit: 4})
		if len(page) == 0 {
			break
		}
		seen = append(seen, page...)
		f.AfterID = page[len(page)-1]
	}
	w.wantSet("every letter once, though all died at one moment", seen, idsOf(jobs))
}

func pickRefused(w *world) {
	j := w.job(at(w.now))
	w.insert(j)
	w.wantIDs("looked at", w.look(ledger.Pick{Due: w.now, Limit: 5}), []job.ID{j.ID})
	w.wantJob("unchanged", w.get(j.ID), j)
}
