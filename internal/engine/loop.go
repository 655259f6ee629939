package engine

import (
	"context"
	"sync"
	"time"
)

// ledgerPatience bounds each call that a loop makes to the ledger, so that no
// hung connection holds a loop for good.
const ledgerPatience = 15 * time.Second

// loop is one of the engine's named activities.
type loop struct {
	name string
	run  func(context.Context)
}

// Run carries the engine's loops until ctx ends, and returns nil when all of
// them have ended. It is called once.
func (e *Engine) Run(ctx context.Context) error {
	e.running.Store(true)
	loops := []loop{
		{"clock", e.runClock},       // keeps step with the ledger's clock
		{"enqueue", e.inserts.run},  // single enqueues share commits
		{"succeed", e.succeeds.run}, // so do settles,
		{"settle", e.settles.run},
		{"renew", e.renewals.run},    // and renewals
		{"dispatch", e.runDispatch},  // claims jobs for whoever waits in Lease
		{"wake", e.runWaker},         // tells other processes of new work
		{"listen", e.runListener},    // hears of theirs
		{"promote", e.runPromoter},   // scheduled jobs become ready, late ones expire
		{"keep", e.runKeeper},        // finds dead sessions, rescues their jobs
		{"cancel", e.runCancelWatch}, // finds cancellations asked for elsewhere
		{"progress", e.runNotes},     // writes progress notes, not too often
		{"wait", e.runWaits},         // finds jobs that ended elsewhere
		{"upkeep", e.runUpkeep},      // has the ledger keep house
	}
	var group sync.WaitGroup
	for _, l := range loops {
		group.Go(func() { l.run(ctx) })
	}
	group.Wait()
	close(e.stopped)
	return nil
}

// every calls fn at once, then after each interval and at each ring of bell,
// until ctx ends. Trouble is logged when it begins and when it ends, not at
// every beat in between. bell may be nil.
func (e *Engine) every(ctx context.Context, name string, interval time.Duration, bell <-chan struct{}, fn func(context.Context) error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	ill := false
	for {
		err := fn(ctx)
		if ctx.Err() != nil {
			return
		}
		ill = e.report(name, ill, err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-bell:
		}
	}
}

// report logs a change between well and ill, and returns the state after err.
func (e *Engine) report(name string, ill bool, err error) bool {
	switch {
	case err != nil && !ill:
		e.log.Error("loop in trouble, trying on", "loop", name, "err", err)
	case err == nil && ill:
		e.log.Info("loop is well again", "loop", name)
	}
	return err != nil
}

// patient returns a context for one call to the ledger that outlives the end
// of ctx, so that a commit under way is not torn off by a shutdown, but not
// for ever.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), ledgerPatience)
}

// ring makes a bell of capacity one ring, if it does not already.
func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}
