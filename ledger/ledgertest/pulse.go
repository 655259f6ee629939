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
	{"Clock", nil, pulseClock},
}

// everything asks for all there is, of queues q and r.
func everything() ledger.Ask {
	return ledger.Ask{Due: true, Orphans: true, Cancels: true, Queues: []string{"q", "r"}}
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
	p := w.pulse(ledger.Ask{Queues: []string{"nowhere", ""}})
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
	for _, ready := range [][]string{{"q"}, {"q"}, nil} {
		if p := w.pulse(everything()); p.Due != (ready != nil) {
			w.Errorf("due: %t, want %t", p.Due, ready != nil)
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
	w.insert(w.job(), w.job(queue("r")), w.job(kind("other")), w.job(queue("else")))
	w.wantPulse("ready", false, false, false, "q", "r")
	if p := w.pulse(ledger.Ask{Queues: []string{"r", "r"}}); !slices.Equal(p.Ready, []string{"r"}) {
		w.Errorf("named twice: %v", p.Ready)
	}
	w.claim(s, 1, "k")
	w.wantPulse("another kind is left", false, false, false, "q", "r")
	w.claim(s, 1)
	w.wantPulse("taken", false, false, false, "r")
	w.ok(w.l.SetPaused(w.ctx, w.now, "r", true))
	_, err := w.l.Upkeep(w.ctx, w.now, ledger.Keep{})
	w.ok(err)
	if p := w.pulse(ledger.Ask{Queues: []string{"q"}}); len(p.Ready) > 0 {
		w.Errorf("after upkeep: %v", p.Ready)
	}
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
