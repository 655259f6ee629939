package engine

import (
	"context"
	"fmt"
	"time"
)

// Drain makes every long poll answer at once that the server is draining, now
// and from now on; everything else goes on until Run's context ends. It may be
// called more than once.
func (e *Engine) Drain() {
	e.drain.Do(func() {
		e.log.Info("draining: long polls are answered, settles and renewals go on")
		close(e.draining)
		ring(e.renewals.bell) // nobody gathers any more
	})
}

func (e *Engine) isDraining() bool {
	select {
	case <-e.draining:
		return true
	case <-e.stopped:
		return true
	default:
		return false
	}
}

// Ready reports why the engine cannot serve, or nil: it is draining, does not
// run, or the ledger did not answer within 2 s.
func (e *Engine) Ready(ctx context.Context) error {
	if e.isDraining() {
		return errStopped()
	}
	if !e.running.Load() {
		return fmt.Errorf("the engine has not started")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := e.ledger.Now(ctx); err != nil {
		return fmt.Errorf("the ledger does not answer: %w", err)
	}
	return nil
}

// Info returns what the engine has counted since its start.
func (e *Engine) Info() Info {
	relay, view := &e.relay.stats, e.view
	return Info{
		StaleResults: e.stale.Load(), Rescued: e.rescued.Load(), Crashed: e.crashed.Load(), Brake: e.brake.Load(),
		RelayLeads: relay.leads.Load(), RefsPublished: relay.published.Load(), Republished: relay.republished.Load(),
		RefsReturned: relay.returned.Load(), LeasedByRef: e.carry.leased.Load(),
		CacheHits: view.hits.Load(), CacheMisses: view.misses.Load(), CacheShed: view.shed.Load(), CacheProbed: view.probed.Load(), CacheDrift: view.drift.Load(),
		CacheAway: view.away(),
	}
}
