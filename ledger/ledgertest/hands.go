package ledgertest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// together calls fn from n goroutines at once and fails on their first error.
func (w *world) together(n int, fn func(i int) error) {
	w.Helper()
	var wg sync.WaitGroup
	errs := make([]error, n)
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = fn(i)
		})
	}
	close(start)
	wg.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		w.Fatalf("goroutine %d: %v", i, errs[i])
	}
}

// move brings a session to a state.
func (w *world) move(id job.ID, to ledger.SessionState) {
	w.Helper()
	moved, err := w.l.MoveSession(w.ctx, w.now, id, []ledger.SessionState{ledger.SessionLive, ledger.SessionDraining}, to, 0)
	w.ok(err)
	if !moved {
		w.Fatalf("session %s did not move to %s", id, to)
	}
}

// eventually asks until cond holds: within d, or at the first look after that.
func (w *world) eventually(what string, d time.Duration, cond func() bool) {
	w.Helper()
	for end, late := time.Now().Add(d), false; !cond(); late = time.Now().After(end) {
		if late {
			w.Fatalf("not within %s: %s", d, what)
		}
	}
}

// contextOf makes a context that ends before the test does.
func contextOf(w *world) (context.Context, context.CancelFunc) { return context.WithCancel(w.ctx) }
