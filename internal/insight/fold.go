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
	p := NewPile(b)
	for _, t := range stored.Tallies {
		name := pair{t.Queue, t.Kind}
		p.names.known[name], p.names.queues[name.queue] = true, true
		p.tallies[tallyKey{name, t.Outcome}] = heap[ledger.Tally]{row: t}
	}
	for _, f := range stored.Faults {
		k := faultKey{pair{f.Queue, f.Kind}, f.Message}
		p.patterns.known[k] = true
		p.faults[k] = heap[ledger.Fault]{row: f}
	}
	if err := p.Add(added); err != nil {
		return ledger.Sums{}, err
	}
	return p.Sums(), nil
}

// Pile is what was added up of one hour.
type Pile struct {
	names    *pairs
	patterns *faults
	tallies  map[tallyKey]heap[ledger.Tally]
	faults   map[faultKey]heap[ledger.Fault]
}

// heap is a row of a pile.
type heap[T any] struct {
	row     T
	changed bool
}

// NewPile returns an empty Pile.
func NewPile(b Bounds) *Pile {
	return &Pile{
		names: newPairs(b.Pairs), patterns: newFaults(b.Faults),
		tallies: map[tallyKey]heap[ledger.Tally]{}, faults: map[faultKey]heap[ledger.Fault]{},
	}
}

// Add adds sums of the pile's hour. An error says that a distribution cannot be
// read; what came before it was added.
func (p *Pile) Add(added ledger.Sums) error {
	for _, t := range added.Tallies {
		k := tallyKey{p.names.admit(pair{t.Queue, t.Kind}), t.Outcome}
		sum, err := addTally(p.tallies[k].row, t)
		if err != nil {
			return unreadable(&t, err)
		}
		sum.Queue, sum.Kind = k.queue, k.kind
		p.tallies[k] = heap[ledger.Tally]{sum, true}
	}
	for _, f := range added.Faults {
		k := p.patterns.admit(faultKey{p.names.admit(pair{f.Queue, f.Kind}), f.Message})
		sum := addFault(p.faults[k].row, f)
		sum.Queue, sum.Kind, sum.Message = k.queue, k.kind, k.message
		p.faults[k] = heap[ledger.Fault]{sum, true}
	}
	return nil
}

// Sums returns the rows to which something was added.
func (p *Pile) Sums() (out ledger.Sums) {
	for _, t := range p.tallies {
		if t.changed {
			out.Tallies = append(out.Tallies, t.row)
		}
	}
	for _, f := range p.faults {
		if f.changed {
			out.Faults = append(out.Faults, f.row)
		}
	}
	return out
}

// unreadable says of which row a distribution cannot be read.
func unreadable(t *ledger.Tally, err error) error {
	return fmt.Errorf("%s of %s in %s: %w", t.Kind, t.Queue, t.Hour.Start(), err)
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
