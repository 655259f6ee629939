package engine

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

const (
	keeperInterval = time.Second     // between two looks at the sessions, or less for short time-to-lives
	drainRest      = 2 * time.Second // silence after which a draining session has ended
	sweepBatches   = 10              // of job.MaxBatch orphans, a tick
	brakeFloor     = 5               // the brake needs so many sessions
)

// keeper finds sessions that have died. It trusts no wall clock: a session is
// dead when its beat counter has not changed for a time-to-live on this
// process's monotonic clock, counted anew when the keeper starts and after each
// gap in its own sight of the ledger.
type keeper struct {
	bell    chan struct{}
	orphans atomic.Bool // there may be jobs to take back

	pulses map[job.ID]pulse
	seen   bool          // a tick has gone well before,
	at     time.Duration // at this time

	braked  bool          // too many would die at once
	brakeAt time.Duration // since when
	died    int           // while the brake holds

	mu    sync.Mutex
	names map[job.ID]string // workers by session, for the messages of failures
}

// pulse is a beat counter and when it was first seen.
type pulse struct {
	beat  int64
	state ledger.SessionState
	since time.Duration
}

func newKeeper() *keeper {
	return &keeper{bell: make(chan struct{}, 1), pulses: map[job.ID]pulse{}, names: map[job.ID]string{}}
}

// kick has the keeper look at once, for jobs to take back too.
func (k *keeper) kick() {
	k.orphans.Store(true)
	ring(k.bell)
}

// worker returns the name of a session's worker, "" if it is not known.
func (k *keeper) worker(session job.ID) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.names[session]
}

// meet remembers the name of a session that was opened here, before the next
// look at all of them. The map is replaced, for readers hold on to it.
func (k *keeper) meet(session job.ID, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	names := make(map[job.ID]string, len(k.names)+1)
	maps.Copy(names, k.names)
	names[session] = name
	k.names = names
}

func (k *keeper) learn(list []ledger.Session) map[job.ID]string {
	names := make(map[job.ID]string, len(list))
	for i := range list {
		names[list[i].ID] = list[i].Worker
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.names = names
	return names
}

func (e *Engine) keeperTick() time.Duration {
	return max(min(keeperInterval, e.conf.SessionTTL/5), 10*time.Millisecond)
}

func (e *Engine) runKeeper(ctx context.Context) {
	e.every(ctx, "keep", e.keeperTick(), e.keeper.bell, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
		defer cancel()
		err := e.keep(ctx)
		if err != nil {
			e.keeper.seen = false
		}
		return err
	})
}

// keep is one tick.
func (e *Engine) keep(ctx context.Context) error {
	k := e.keeper
	list, err := e.ledger.ListSessions(ctx, false)
	if err != nil {
		return fmt.Errorf("look at the sessions: %w", err)
	}
	names := k.learn(list)
	e.dispatch.expel(list)
	e.sessions.prune(e.conf.Monotonic() - 4*e.conf.SessionTTL)
	if e.conf.Roles&RoleKeeper == 0 {
		return nil // it only remembers names
	}
	silent, live := e.observe(list)
	for _, s := range e.doomed(silent, live) {
		if err := e.end(ctx, s); err != nil {
			return err
		}
		k.orphans.Store(true)
	}
	if !k.orphans.Swap(false) {
		return nil // the pulse asks for those that others have left
	}
	return e.sweep(ctx, names)
}

// observe takes the pulses and returns the sessions that have been silent for
// too long, and how many are live.
func (e *Engine) observe(list []ledger.Session) (silent []ledger.Session, live int) {
	k, now := e.keeper, e.conf.Monotonic()
	if !k.seen || now-k.at > 3*e.keeperTick()+time.Second {
		// Who was blind cannot tell who was silent: all counts begin anew.
		clear(k.pulses)
	}
	k.seen, k.at = true, now
	next := make(map[job.ID]pulse, len(list))
	for _, s := range list {
		if s.State == ledger.SessionLive {
			live++
		} else if s.State != ledger.SessionDraining {
			continue
		}
		p, ok := k.pulses[s.ID]
		if !ok || p.beat != s.Beat || p.state != s.State {
			p = pulse{s.Beat, s.State, now}
		}
		next[s.ID] = p
		if now-p.since >= e.patienceWith(s) {
			silent = append(silent, s)
		}
	}
	k.pulses = next
	return silent, live
}

// patienceWith is how long a session may be silent.
func (e *Engine) patienceWith(s ledger.Session) time.Duration {
	ttl := s.TTL
	if ttl <= 0 {
		ttl = e.conf.SessionTTL
	}
	if s.State == ledger.SessionDraining {
		return min(ttl, drainRest)
	}
	return ttl
}

// doomed chooses which of the silent sessions end now: all of them, unless so
// many live ones went silent together that the fault is more likely ours, or the
// network's. Then the brake holds them for one more time-to-live, and
// lets them go a tenth at a time after that.
func (e *Engine) doomed(silent []ledger.Session, live int) []ledger.Session {
	k, now := e.keeper, e.conf.Monotonic()
	var drained, dead []ledger.Session
	for _, s := range silent {
		if s.State == ledger.SessionDraining {
			drained = append(drained, s)
		} else {
			dead = append(dead, s)
		}
	}
	most := live >= brakeFloor && 2*len(dead) > live
	held := now-k.brakeAt < e.conf.SessionTTL
	switch {
	case !k.braked && most:
		k.braked, k.brakeAt, k.died, held = true, now, 0, true
		e.brake.Store(true)
	case k.braked && (len(dead) == 0 || held && !most):
		k.braked = false
		e.brake.Store(false)
		e.log.Info("brake released", "silent", len(dead), "sessions", live, "died", k.died)
	}
	if !k.braked {
		return append(drained, dead...)
	}
	e.log.Warn("brake: most sessions are silent at once; their jobs are rescued late, and slowly",
		"silent", len(dead), "sessions", live, "held_for", now-k.brakeAt)
	if held {
		return drained
	}
	n := min(len(dead), max(1, (len(dead)+k.died)/10))
	k.died += n
	return append(drained, dead[:n]...)
}

// end declares a silent session dead, or drained, unless it has just beaten.
func (e *Engine) end(ctx context.Context, s ledger.Session) error {
	now, err := e.clock.now(ctx)
	if err != nil {
		return err
	}
	to := ledger.SessionDead
	if s.State == ledger.SessionDraining {
		to = ledger.SessionDrained
	}
	moved, err := e.ledger.MoveSession(ctx, now, s.ID, []ledger.SessionState{s.State}, to, s.Beat)
	if err != nil {
		return fmt.Errorf("end session %s: %w", s.ID, err)
	}
	if !moved {
		return nil
	}
	e.sessions.forget(s.ID)
	if to == ledger.SessionDead {
		e.log.Warn("session died", "session", s.ID, "worker", s.Worker)
	} else {
		e.log.Info("session drained", "session", s.ID, "worker", s.Worker)
	}
	return nil
}

// sweep takes the jobs of dead and absent sessions back: charged with a crash
// where the session died, free where it had drained or is gone.
func (e *Engine) sweep(ctx context.Context, names map[job.ID]string) error {
	for _, of := range []ledger.SessionState{ledger.SessionDead, ledger.SessionDrained} {
		for range sweepBatches {
			n, err := e.sweepOnce(ctx, of, names)
			if err != nil {
				return fmt.Errorf("rescue jobs of %s sessions: %w", of, err)
			}
			if n == 0 {
				break
			}
		}
	}
	return nil
}

func (e *Engine) sweepOnce(ctx context.Context, of ledger.SessionState, names map[job.ID]string) (int, error) {
	now, err := e.clock.now(ctx)
	if err != nil {
		return 0, err
	}
	event := job.Release
	if of == ledger.SessionDead {
		event = job.Crash
	}
	applied, err := e.ledger.Apply(ctx, now, ledger.Pick{Orphans: of, Limit: job.MaxBatch}, func(j *job.Job) error {
		m := job.Move{Event: event, Now: now}
		if event == job.Crash {
			m.Failure = job.Failure{Message: "the worker's session died while the job was running", Worker: names[j.Session]}
		}
		return e.rules.Step(j, m)
	})
	if err != nil {
		return 0, err
	}
	n, dead := 0, 0
	for i := range applied {
		if applied[i].Err != nil {
			continue
		}
		n++
		if applied[i].Job.State == job.Dead {
			dead++
		}
	}
	if n > 0 {
		e.rescued.Add(int64(n))
		if event == job.Crash {
			e.crashed.Add(int64(n))
		}
		e.log.Info("jobs rescued", "of_sessions", of.String(), "jobs", n, "dead_letters", dead)
	}
	e.follow(now, event, applied)
	return len(applied), nil
}
