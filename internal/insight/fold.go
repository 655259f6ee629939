// Package insight remembers what became of jobs: how long they waited and ran,
// how they failed, and when. A Recorder gathers that in memory, Fold adds it to
// what a ledger has stored, and Report makes of it what people want to know. Nothing
// here reads a job from a ledger, and nothing is written for each job.
package insight

import (
	"fmt"
	"math"
	"time"

	"github.com/errandhq/errand/ledger"
)

// Other stands for the kinds, queues and failures beyond the bounds.
const Other = "other"

// Bounds say how much an hour may hold.
type Bounds struct {
	Pairs  int // of queue and kind; beyond it kinds are Other, and so are new queues
	Faults int // of queue, kind and pattern; beyond it patterns are Other
}

// DefaultBounds are those of a server. A week of full hours is about 150,000
// rows; a usual one a few thousand.
var DefaultBounds = Bounds{Pairs: 200, Faults: 500}

type (
	pair     struct{ queue, kind string }
	tallyKey struct {
		pair
		outcome ledger.Outcome
	}
	faultKey struct {
		pair
		message string
	}
)

// pairs admits the first pairs that come, and tells under which name the others
// are counted.
type pairs struct {
	most   int
	known  map[pair]bool
	queues map[string]bool
}

func newPairs(most int) *pairs {
	return &pairs{most: most, known: map[pair]bool{}, queues: map[string]bool{}}
}

func (s *pairs) admit(p pair) pair {
	switch {
	case s.known[p]:
		return p
	case len(s.known) < s.most:
	case s.queues[p.queue]:
		p.kind = Other // at most one more for each queue
	default:
		p = pair{Other, Other}
	}
	s.known[p], s.queues[p.queue] = true, true
	return p
}

// faults admits patterns likewise.
type faults struct {
	most  int
	known map[faultKey]bool
}

func newFaults(most int) *faults { return &faults{most: most, known: map[faultKey]bool{}} }

func (s *faults) admit(k faultKey) faultKey {
	switch {
	case s.known[k]:
		return k
	case len(s.known) >= s.most:
		k.message = Other // at most one more for each pair
	}
	s.known[k] = true
	return k
}

// Fold adds sums of one hour to those that are stored of it, and returns the
// rows that changed. It changes neither argument.
func Fold(stored, added ledger.Sums, b Bounds) (ledger.Sums, error) {
	names, patterns := newPairs(b.Pairs), newFaults(b.Faults)
	tallies := make(map[tallyKey]ledger.Tally, len(stored.Tallies))
	for _, t := range stored.Tallies {
		p := pair{t.Queue, t.Kind}
		names.known[p], names.queues[p.queue] = true, true
		tallies[tallyKey{p, t.Outcome}] = t
	}
	all := make(map[faultKey]ledger.Fault, len(stored.Faults))
	for _, f := range stored.Faults {
		k := faultKey{pair{f.Queue, f.Kind}, f.Message}
		patterns.known[k] = true
		all[k] = f
	}
	changedTallies, changedFaults := map[tallyKey]bool{}, map[faultKey]bool{}
	for _, t := range added.Tallies {
		k := tallyKey{names.admit(pair{t.Queue, t.Kind}), t.Outcome}
		sum, err := addTally(tallies[k], t)
		if err != nil {
			return ledger.Sums{}, fmt.Errorf("%s of %s in %s: %w", k.kind, k.queue, t.Hour.Start(), err)
		}
		sum.Queue, sum.Kind = k.queue, k.kind
		tallies[k], changedTallies[k] = sum, true
	}
	for _, f := range added.Faults {
		k := patterns.admit(faultKey{names.admit(pair{f.Queue, f.Kind}), f.Message})
		sum := addFault(all[k], f)
		sum.Queue, sum.Kind, sum.Message = k.queue, k.kind, k.message
		all[k], changedFaults[k] = sum, true
	}
	var out ledger.Sums
	for k := range changedTallies {
		out.Tallies = append(out.Tallies, tallies[k])
	}
	for k := range changedFaults {
		out.Faults = append(out.Faults, all[k])
	}
	return out, nil
}

func addTally(to, t ledger.Tally) (ledger.Tally, error) {
	if to.Sketch != nil && t.Sketch != nil {
		var s Sketch
		for _, stored := range [][]byte{to.Sketch, t.Sketch} {
			if err := s.Merge(stored); err != nil {
				return to, err
			}
		}
		to.Sketch = s.Bytes()
	} else if to.Sketch == nil {
		to.Sketch = t.Sketch
	}
	to.Hour, to.Outcome = t.Hour, t.Outcome
	to.N += t.N
	to.Sum = plus(to.Sum, t.Sum)
	return to, nil
}

// plus adds times, of which a few dozen can be more than a Duration has room for: then
// the sum is the largest there is.
func plus(a, b time.Duration) time.Duration {
	if a > 0 && b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

func addFault(to, f ledger.Fault) ledger.Fault {
	if to.N == 0 || f.First.Before(to.First) {
		to.First = f.First
	}
	if f.Last.After(to.Last) {
		to.Last = f.Last
	}
	to.Hour = f.Hour
	to.N += f.N
	return to
}
