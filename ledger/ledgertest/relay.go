package ledgertest

import (
	"maps"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var relayTests = []test{
	{"OneHolder", nil, relayHold},
	{"TwoHandles", hasSecond, relayHandles},
	{"OneOfManyWins", nil, relayRace},
	{"Identity", nil, relayIdentity},
	{"ReopenedStore", hasReopen, relayReopen},
}

func (w *world) hold(holder job.ID, ttl time.Duration, leads bool, epoch int64) {
	w.Helper()
	got, at, err := w.l.HoldRelay(w.ctx, w.now, holder, ttl)
	w.ok(err)
	if got != leads || at != epoch {
		w.Errorf("leads %v, epoch %d; want %v, %d", got, at, leads, epoch)
	}
}

func relayHold(w *world) {
	a, b := newID(), newID()
	const ttl = 10 * time.Second
	w.hold(b, 0, false, 0) // nothing to give up
	w.hold(a, ttl, true, 1)
	w.hold(b, ttl, false, 1)
	w.pass(ttl - time.Microsecond)
	w.hold(b, ttl, false, 1)
	w.hold(a, ttl, true, 1) // renewed
	w.pass(ttl - time.Microsecond)
	w.hold(b, ttl, false, 1)
	w.pass(time.Microsecond)
	w.hold(b, ttl, true, 2)
	w.hold(a, ttl, false, 2)
	w.hold(a, 0, false, 2) // is not a's to give up
	w.hold(a, ttl, false, 2)
	w.hold(b, -time.Second, false, 2)
	w.hold(a, ttl, true, 3)
	w.pass(time.Hour)
	w.hold(a, ttl, true, 3) // nobody came between
	w.hold(b, ttl, false, 3)
}

func relayHandles(w *world) {
	first, second := w.l, w.second()
	a, b := newID(), newID()
	w.hold(a, time.Minute, true, 1)
	w.l = second
	w.hold(b, time.Minute, false, 1)
	w.pass(time.Minute)
	w.hold(b, time.Minute, true, 2)
	w.l = first
	w.hold(a, time.Minute, false, 2)
}

func relayRace(w *world) {
	for round := range 5 {
		var leaders atomic.Int64
		w.together(8, func(int) error {
			leads, _, err := w.l.HoldRelay(w.ctx, w.now, newID(), time.Second)
			if leads {
				leaders.Add(1)
			}
			return err
		})
		if leaders.Load() != 1 {
			w.Errorf("round %d: %d leaders", round, leaders.Load())
		}
		w.pass(time.Second)
	}
	w.hold(newID(), time.Second, true, 6)
}

func (w *world) identity(l ledger.Ledger) string {
	w.Helper()
	name, err := l.Identity(w.ctx)
	w.ok(err)
	return name
}

func relayIdentity(w *world) {
	name := w.identity(w.l)
	if !regexp.MustCompile(`^[a-z0-9]{16}$`).MatchString(name) {
		w.Errorf("the identity is %q", name)
	}
	if again := w.identity(w.l); again != name {
		w.Errorf("asked again: %q, was %q", again, name)
	}
	if w.suite.features.Second != nil {
		if other := w.identity(w.second()); other != name {
			w.Errorf("another handle says %q, not %q", other, name)
		}
	}
	if other := w.identity(w.suite.open(w.TB)); other == name {
		w.Errorf("two ledgers are called %q", name)
	}
}

func relayReopen(w *world) {
	a, b := newID(), newID()
	name := w.identity(w.l)
	w.hold(a, time.Minute, true, 1)
	w.ok(w.l.SetRoute(w.ctx, w.now, "q", "kafka"))
	w.l = w.suite.features.Reopen(w.TB, w.l)
	w.hold(b, time.Minute, false, 1)
	w.hold(a, time.Minute, true, 1)
	if again := w.identity(w.l); again != name {
		w.Errorf("after the restart the identity is %q, was %q", again, name)
	}
	w.wantRoutes(map[string]string{"q": "kafka"})
}

func (w *world) wantRoutes(want map[string]string) {
	w.Helper()
	got, err := w.l.Routes(w.ctx)
	w.ok(err)
	if !maps.Equal(got, want) {
		w.Errorf("routes %v, want %v", got, want)
	}
}

// queueRoutes sees that routes and pauses leave each other alone.
func queueRoutes(w *world) {
	route := func(queue, name string) {
		w.Helper()
		w.ok(w.l.SetRoute(w.ctx, w.now, queue, name))
	}
	wantPaused := func(want ...string) {
		w.Helper()
		got, err := w.l.Paused(w.ctx)
		w.ok(err)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			w.Errorf("paused %q, want %q", got, want)
		}
	}
	w.wantRoutes(nil)
	route("never seen", "")
	route("q", "kafka")
	route("r", "any name: 'x'")
	w.wantRoutes(map[string]string{"q": "kafka", "r": "any name: 'x'"})
	wantPaused()
	w.ok(w.l.SetPaused(w.ctx, w.now, "q", true))
	route("q", "rabbitmq")
	wantPaused("q")
	w.wantRoutes(map[string]string{"q": "rabbitmq", "r": "any name: 'x'"})
	w.ok(w.l.SetPaused(w.ctx, w.now, "q", false))
	route("r", "")
	route("r", "")
	w.wantRoutes(map[string]string{"q": "rabbitmq"})
	w.ok(w.l.SetPaused(w.ctx, w.now, "r", true))
	wantPaused("r")
	w.wantRoutes(map[string]string{"q": "rabbitmq"})
	j := w.job()
	w.insert(j)
	w.wantIDs("a routed queue gives", idsOf(w.claim(w.session(), 5)), []job.ID{j.ID})
}
