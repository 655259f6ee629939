package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/errandhq/errand/ledger"
)

// rhythm is a time that comes again.
type rhythm struct {
	every time.Duration
	next  time.Time
}

// beat reports whether the time has come, and sets the next one. What would come
// within a twentieth of its interval is taken at once, so that rhythms that agree stay together.
func (r *rhythm) beat(now time.Time) bool {
	if now.Before(r.next.Add(-r.every / 20)) {
		return false
	}
	r.next = now.Add(r.every)
	return true
}

// runPulse asks the ledger, in one reading, what there is to do that nobody told
// this process of, and has those look who do it: so a ledger with nothing to do is asked
// twice a second, however many they are. Ready jobs, and those that are due or expired, it
// asks for at every poll interval; jobs of sessions that have ended, cancellations
// and the ledger's clock at least each second.
func (e *Engine) runPulse(ctx context.Context) {
	poll, second := rhythm{every: e.conf.PollInterval}, rhythm{every: e.keeperTick()}
	ill := false
	for {
		now := time.Now()
		err := e.pulse(ctx, poll.beat(now), second.beat(now))
		if ctx.Err() != nil {
			return
		}
		ill = e.report("pulse", ill, err)
		next := poll.next
		if second.next.Before(next) {
			next = second.next
		}
		if !pause(ctx, time.Until(next)) {
			return
		}
	}
}

// pulse asks once.
func (e *Engine) pulse(ctx context.Context, poll, second bool) error {
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	keeper := e.conf.Roles&RoleKeeper != 0
	ask := ledger.Ask{Due: poll && keeper, Orphans: second && keeper, Cancels: second && e.sessions.waiting()}
	if poll {
		ask.Queues = e.dispatch.ask()
	}
	if !second && !ask.Due && len(ask.Queues) == 0 {
		return nil
	}
	now, err := e.clock.now(ctx)
	if err != nil {
		return err
	}
	before := e.conf.Monotonic()
	found, err := e.ledger.Pulse(ctx, now, ask)
	if err != nil {
		err = fmt.Errorf("ask what there is to do: %w", err)
		found = everything(&ask) // it says nothing: so all look, each by a statement of their own
	} else {
		e.clock.set(found.Now, before, e.conf.Monotonic())
	}
	e.dispatch.poll(found.Ready)
	if found.Due {
		e.promoter.kick()
	}
	if found.Orphans {
		e.keeper.kick()
	}
	if found.Cancels {
		ring(e.cancels)
	}
	return err
}

// everything is the pulse that has found all that was asked for.
func everything(ask *ledger.Ask) ledger.Pulse {
	p := ledger.Pulse{Due: ask.Due, Orphans: ask.Orphans, Cancels: ask.Cancels}
	for _, h := range ask.Queues {
		p.Ready = add(p.Ready, h.Queue)
	}
	return p
}
