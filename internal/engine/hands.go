package engine

import (
	"slices"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// queues returns the queues that any waiter wants, but for canaries.
func (d *dispatcher) queues() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := map[string]bool{}
	var queues []string
	for _, w := range d.waiters {
		if w.ofCanary() {
			continue
		}
		for _, q := range w.queues {
			if !seen[q] {
				seen[q] = true
				queues = append(queues, q)
			}
		}
	}
	return queues
}

// ofCanary tells a server's own waiter, which takes canaries alone: none of a carrier's jobs.
func (w *waiter) ofCanary() bool { return len(w.kinds) == 1 && w.kinds[0] == job.KindCanary }

// free reports whether a carrier's ref of the queue may be given to the waiter.
func (w *waiter) free(queue string) bool {
	return !w.flying && !w.gone && !w.once && !w.ofCanary() && slices.Contains(w.queues, queue)
}

func (w *waiter) takes(kind string) bool { return len(w.kinds) == 0 || slices.Contains(w.kinds, kind) }

// hands returns how many jobs of the queue the waiters could take; with refs in
// hand only those waiters count that take one of them.
func (d *dispatcher) hands(queue string, held []heldRef) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, w := range d.waiters {
		if n >= job.MaxBatch {
			break
		}
		if w.free(queue) && (len(held) == 0 || slices.ContainsFunc(held, func(h heldRef) bool { return w.takes(h.Kind) })) {
			n += w.max
		}
	}
	return min(n, job.MaxBatch)
}

// assign gives refs to waiters, the longest without an answer first, and returns
// the requests and the refs that nobody here takes now.
func (d *dispatcher) assign(queue string, held []heldRef) (tries []try, given, left []heldRef) {
	d.mu.Lock()
	defer d.mu.Unlock()
	left = held
	for _, w := range d.waiters {
		if len(left) == 0 || len(tries) == roundRequests {
			break
		}
		if !w.free(queue) {
			continue
		}
		var refs []ledger.Ref
		var others []heldRef
		for _, h := range left {
			if len(refs) < min(w.max, job.MaxBatch) && w.takes(h.Kind) {
				refs = append(refs, h.Ref)
				given = append(given, h)
			} else {
				others = append(others, h)
			}
		}
		if len(refs) > 0 {
			w.flying = true
			tries = append(tries, try{w: w, want: want{queue, w.kindsKey}, refs: refs})
			left = others
		}
	}
	return tries, given, left
}
