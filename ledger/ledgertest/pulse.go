package ledgertest

import (
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var pulseTests = []test{
	{"Nothing", nil, pulseNothing},
	{"Due", nil, pulseDue},
	{"Expired", nil, pulseExpired},
	{"Orphans", nil, pulseOrphans},
	{"Cancels", nil, pulseCancels},
	{"Ready", nil, pulseReady},
	{"Lanes", nil, pulseLanes},
	{"LateCommit", hasHoldInsert, pulseLate},
	{"Clock", nil, pulseClock},
}

// everything asks for all there is, of queue q and of r's kind k.
func everything() ledger.Ask {
	return ledger.Ask{Due: true, Orphans: true, Cancels: true, Queues: []ledger.Head{{Queue: "q"}, {Queue: "r", Kinds: []string{"k"}}}}
}

func (w *world) pulse(ask ledger.Ask) ledger.Pulse {
	w.Helper()
	p, err := w.l.Pulse(w.ctx, w.now, ask)
	w.ok(err)
	slices.Sort(p.Ready)
	return p
}

// wantPulse asks for everything, and then for nothing, which brings nothing.
func (w *world) wantPulse(what string, due, orphans, cancels bool, ready ...string) {
	w.Helper()
	p := w.pulse(everything())
	if p.Due != due || p.Orphans != orphans || p.Cancels != cancels || !slices.Equal(p.Ready, ready) {
		w.Errorf("%s: %+v, want due %t, orphans %t, cancels %t, ready %v", what, p, due, orphans, cancels, ready)
	}
	if p := w.pulse(ledger.Ask{}); p.Due || p.Orphans || p.Cancels || len(p.Ready) > 0 {
		w.Errorf("%s, not asked for: %+v", what, p)
	}
}

func pulseNothing(w *world) {
	w.wantPulse("an empty ledger", false, false, false)
	s := w.session()
	w.insert(w.job(), w.job(at(w.now.Add(time.Hour))), w.job(at(w.now.Add(time.Hour)), expires(w.now.Add(2*time.Hour))))
	w.claim(s, 1)
	w.wantPulse("nothing to do", false, false, false)
	p := w.pulse(ledger.Ask{Queues: []ledger.Head{{Queue: "nowhere"}, {Queue: ""}, {Queue: "nowhere", Kinds: []string{"k"}}}})
	if len(p.Ready) > 0 {
		w.Errorf("queues that are not there: %v", p.Ready)
	}
}

func pulseDue(w *world) {
	w.insert(w.job(at(w.now.Add(time.Second))))
	w.pass(time.Second - time.Microsecond)
	w.wantPulse("not yet", false, false, false)
	w.pass(time.Microsecond)
	w.wantPulse("due", true, false, false)
	w.stepAll(ledger.Pick{Due: w.now, Limit: 1}, job.Due)
	w.wantPulse("promoted", false, false, false, "q")
}

func pulseExpired(w *world) {
	soon := expires(w.now.Add(time.Second))
	s := w.session()
	w.insert(w.job(soon, kind("run")), w.job(soon), w.job(soon, at(w.now.Add(time.Hour))))
	w.claim(s, 1, "run")
	w.pass(time.Second - time.Microsecond)
	w.wantPulse("not yet", false, false, false, "q")
	w.pass(time.Microsecond)
	for range 2 { // whether an expired job is ready is left to the ledger
		if !w.pulse(everything()).Due {
			w.Error("an expired job is not told of")
		}
		w.stepAll(ledger.Pick{Expired: w.now, Limit: 1}, job.Expire)
	}
	w.wantPulse("the running one stays", false, false, false)
}

func pulseOrphans(w *world) {
	for state, orphan := range map[ledger.SessionState]bool{
		ledger.SessionDraining: false, ledger.SessionDead: true, ledger.SessionDrained: true, ledger.SessionAbsent: true,
	} {
		idle := w.session()
		s := w.session()
		w.insert(w.job())
		w.claim(s, 1)
		w.wantPulse("a live session", false, false, false)
		w.move(idle, state)
		w.wantPulse("a "+state.String()+" session that holds nothing", false, false, false)
		w.move(s, state)
		w.wantPulse("a "+state.String()+" session", false, orphan, false)
		for _, of := range []ledger.SessionState{ledger.SessionDead, ledger.SessionDrained} {
			w.stepAll(ledger.Pick{Orphans: of, Limit: 10}, job.Release)
		}
		w.wantPulse("swept", false, false, false, ready(orphan)...)
		w.claim(w.session(), 1)
	}
}

func ready(is bool) []string {
	if is {
		return []string{"q"}
	}
	return nil
}

func pulseCancels(w *world) {
	s := w.session()
	ids := w.insert(w.job(), w.job(queue("r")))
	w.claim(s, 1)
	w.must(ids[1], job.Move{Event: job.Cancel})
	w.wantPulse("a ready job was cancelled", false, false, false)
	w.must(ids[0], job.Move{Event: job.Cancel})
	w.wantPulse("cancellation asked for", false, false, true)
	w.must(ids[0], job.Move{Event: job.Release})
	w.wantPulse("given back", false, false, false)
}

func pulseReady(w *world) {
	s := w.session()
	of := func(heads ...ledger.Head) []string { return w.pulse(ledger.Ask{Queues: heads}).Ready }
	w.insert(w.job(), w.job(queue("r")), w.job(kind("other")), w.job(queue("else")))
	w.wantPulse("ready", false, false, false, "q", "r")
	if got := of(ledger.Head{Queue: "r"}, ledger.Head{Queue: "r", Kinds: []string{"k", "k"}}); !slices.Equal(got, []string{"r"}) {
		w.Errorf("named twice: %v", got)
	}
	if got := of(ledger.Head{Queue: "r", Kinds: []string{"nosuch", "other"}}); len(got) > 0 {
		w.Errorf("of other kinds: %v", got)
	}
	w.claim(s, 1, "k")
	w.wantPulse("another kind is left", false, false, false, "q", "r")
	if got := of(ledger.Head{Queue: "q", Kinds: []string{"k"}}); len(got) > 0 {
		w.Errorf("the other kind: %v", got)
	}
	if got := of(ledger.Head{Queue: "q", Kinds: []string{"k"}}, ledger.Head{Queue: "q", Kinds: []string{"other"}}); !slices.Equal(got, []string{"q"}) {
		w.Errorf("both kinds, named apart: %v", got)
	}
	w.claim(s, 1)
	w.wantPulse("taken", false, false, false, "r")
	w.ok(w.l.SetPaused(w.ctx, w.now, "r", true))
	_, err := w.l.Upkeep(w.ctx, w.now, ledger.Keep{})
	w.ok(err)
	if got := of(ledger.Head{Queue: "q"}, ledger.Head{Queue: "q", Kinds: []string{"k", "other"}}); len(got) > 0 {
		w.Errorf("after upkeep: %v", got)
	}
}

// pulseLanes has one job after another ready in each lane, with pulses that saw none before it.
func pulseLanes(w *world) {
	ask := ledger.Ask{Queues: []ledger.Head{{Queue: "q", Kinds: []string{"k"}}}}
	none := func(what string) {
		w.Helper()
		if p := w.pulse(ask); len(p.Ready) > 0 {
			w.Errorf("%s: %v", what, p.Ready)
		}
	}
	some := func(what string) {
		w.Helper()
		if p := w.pulse(ask); len(p.Ready) != 1 {
			w.Errorf("%s: nothing ready", what)
		}
	}
	s := w.session()
	for p := range 10 {
		none("nothing yet")
		id := w.insert(w.job(prio(p)))[0]
		some("ready")
		w.claim(s, 1)
		none("claimed")
		w.must(id, job.Move{Event: job.Release})
		some("given back")
		w.claim(s, 1)
		none("claimed again")
		w.must(id, job.Move{Event: job.Crash, Failure: job.Failure{Message: "died"}})
		some("a suspect")
		w.claim(s, 1)
		none("the suspect is claimed")
		w.must(id, job.Move{Event: job.Succeed})
	}
}

// pulseLate has a job commit after the claims and the pulses have passed it.
func pulseLate(w *world) {
	s := w.session()
	ask := ledger.Ask{Queues: []ledger.Head{{Queue: "q", Kinds: []string{"k"}}}}
	commit := w.suite.features.HoldInsert(w.TB, w.l, ledger.Item{Job: w.job()})
	for range 20 {
		w.insert(w.job())
		w.claim(s, 5, "k")
		if p := w.pulse(ask); len(p.Ready) > 0 {
			w.Errorf("what is not committed is ready")
		}
	}
	commit()
	if p := w.pulse(ask); len(p.Ready) != 1 {
		w.Errorf("the late job is not seen")
	}
	w.eventually("the late job is found", 2*time.Second, func() bool { return len(w.claim(s, 5, "k")) == 1 })
}

func pulseClock(w *world) {
	before, err := w.l.Now(w.ctx)
	w.ok(err)
	p := w.pulse(everything())
	after, err := w.l.Now(w.ctx)
	w.ok(err)
	if p.Now.Before(before) || p.Now.After(after) {
		w.Errorf("the clock is %s, want between %s and %s", p.Now, before, after)
	}
}
