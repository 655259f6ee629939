package ledgertest

import (
	"os"
	"strconv"
	"time"
)

var costTests = []test{
	{"UnknownKindsInFront", searches, costUnknown},
	{"HeadsOfABacklog", searches, costHeads},
}

// backlogVar sets how many jobs lie in front in the tests of cost: 20,000 by
// default. Where it is set the machine is taken to be quiet, and the bound is
// the promise itself: a tenth, and a little for the clock.
const backlogVar = "ERRAND_COST_BACKLOG"

// costUnknown measures claims of one kind with nothing, then with many jobs of
// another kind in front. The usual bound is wide: it tells a scan from a search.
func costUnknown(w *world) {
	backlog, bound := 20_000, func(alone time.Duration) time.Duration { return 4*alone + 5*time.Millisecond }
	if n, err := strconv.Atoi(os.Getenv(backlogVar)); err == nil {
		backlog, bound = n, func(alone time.Duration) time.Duration { return alone + alone/10 + 100*time.Microsecond }
	}
	s := w.session()
	measure := func() time.Duration {
		best := time.Hour
		for range 50 {
			w.insert(w.many(10, kind("known"), prio(9))...)
			start := time.Now()
			if got := w.claim(s, 10, "known"); len(got) != 10 {
				w.Fatalf("%d of 10 jobs", len(got))
			}
			best = min(best, time.Since(start))
		}
		return best
	}
	alone := measure()
	for range backlog / 1000 {
		w.insert(w.many(1000, kind("unknown"), prio(0))...)
	}
	behind := measure()
	w.Logf("a claim took %s alone and %s behind %d jobs of an unknown kind", alone, behind, backlog)
	if behind > bound(alone) {
		w.Errorf("that is more than %s", bound(alone))
	}
}

// costHeads asks for the heads of a queue with few jobs, then with a backlog of
// unknown kinds in front, of known ones behind, and of jobs that are done.
func costHeads(w *world) {
	s := w.session()
	measure := func() time.Duration {
		best := time.Hour
		for range 15 {
			start := time.Now()
			if got := w.heads(10, "known"); len(got) != 10 {
				w.Fatalf("%d of 10 refs", len(got))
			}
			best = min(best, time.Since(start))
		}
		return best
	}
	w.insert(w.many(10, kind("known"))...)
	alone := measure()
	const backlog = 10
	for range backlog {
		w.insert(w.many(1000, kind("unknown"), prio(0))...)
		w.insert(w.many(1000, kind("known"))...)
		w.done(w.claim(s, 1000, "known")...)
	}
	w.insert(w.many(1000, kind("known"))...)
	if behind := measure(); behind > 4*alone+5*time.Millisecond {
		w.Errorf("the heads took %s alone and %s in a backlog", alone, behind)
	}
}
