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
	of   Role // runs if the process has any of these roles
}

// Run carries the engine's loops until ctx ends, and returns nil when all of
// them have ended. It is called once.
func (e *Engine) Run(ctx context.Context) error {
	e.running.Store(true)
	loops := []loop{
		{"pulse", e.runPulse, allRoles},                // asks what there is to do, keeps step with the ledger's clock
		{"enqueue", e.inserts.run, allRoles},           // single enqueues share commits
		{"succeed", e.succeeds.run, allRoles},          // so do settles,
		{"settle", e.settles.run, allRoles},            //
		{"renew", e.renewals.run, allRoles},            // and renewals
		{"wake", e.runWaker, allRoles},                 // tells other processes of new work
		{"listen", e.runListener, RoleAPI | RoleRelay}, // hears of theirs
		{"routes", e.runRoutes, RoleAPI | RoleRelay},   // knows by which carrier each queue's jobs go
		{"dispatch", e.runDispatch, RoleAPI},           // claims jobs for whoever waits in Lease
		{"carry", e.runCarry, RoleAPI},                 // leases by the refs that carriers bring
		{"cancel", e.runCancelWatch, RoleAPI},          // finds cancellations asked for elsewhere
		{"progress", e.runNotes, RoleAPI},              // writes progress notes, not too often
		{"wait", e.runWaits, RoleAPI},                  // finds jobs that ended elsewhere
		{"view", e.runView, allRoles},                  // writes job states to the cache
		{"news", e.runNews, RoleAPI},                   // hears by it of what other processes do
		{"drift", e.runDrift, RoleAPI | RoleKeeper},    // compares it with the ledger
		{"relay", e.runRelay, RoleRelay},               // publishes refs of ready jobs, if it leads
		{"promote", e.runPromoter, RoleKeeper},         // scheduled jobs become ready, late ones expire
		{"keep", e.runKeeper, RoleAPI | RoleKeeper},    // finds dead sessions, rescues their jobs
		{"upkeep", e.runUpkeep, RoleKeeper},            // has the ledger keep house
		{"statistics", e.runStats, allRoles},           // adds up what became of jobs
	}
	var group sync.WaitGroup
	for _, l := range loops {
		if l.of&e.conf.Roles != 0 {
			group.Go(func() { l.run(ctx) })
		}
	}
	group.Wait()
	e.lastStats()
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

// at calls fn at each ring of bell, until ctx ends, with its troubles logged as those of every.
func (e *Engine) at(ctx context.Context, name string, bell <-chan struct{}, fn func(context.Context) error) {
	ill := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-bell:
		}
		err := fn(ctx)
		if ctx.Err() != nil {
			return
		}
		ill = e.report(name, ill, err)
	}
}

// retry calls fn again, with growing pauses, until it returns nil or ctx ends.
// fn says by well that what it does goes well.
func (e *Engine) retry(ctx context.Context, name string, fn func(ctx context.Context, well func()) error) {
	const first, longest = 100 * time.Millisecond, 5 * time.Second
	ill, wait := false, first
	well := func() { ill, wait = e.report(name, ill, nil), first }
	for ctx.Err() == nil {
		err := fn(ctx, well)
		if err == nil || ctx.Err() != nil {
			return
		}
		ill = e.report(name, ill, err)
		if !pause(ctx, wait/2+time.Duration(e.conf.Rand()*float64(wait/2))) {
			return
		}
		wait = min(2*wait, longest)
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
