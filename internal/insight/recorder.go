package insight

import (
	"sync"
	"time"

	"github.com/errandhq/errand/ledger"
)

// Recorder gathers sums in memory until they are taken. It is safe for
// concurrent use.
type Recorder struct {
	bounds Bounds

	mu    sync.Mutex
	hours map[ledger.Hour]*hour
}

// hour is what was gathered of an hour.
type hour struct {
	names    *pairs
	patterns *faults
	cells    map[pair]*cell
	faults   map[faultKey]*ledger.Fault
}

// cell is what was gathered of a queue and kind within an hour.
type cell [ledger.OutcomeDied + 1]struct {
	n      int64
	sum    time.Duration
	sketch Sketch
}

// NewRecorder returns an empty Recorder.
func NewRecorder(b Bounds) *Recorder {
	return &Recorder{bounds: b, hours: map[ledger.Hour]*hour{}}
}

// Batch is a Recorder held for many events at once.
type Batch struct {
	r    *Recorder
	at   time.Time
	hour *hour
	last pair // batches are mostly of one queue and kind
	cell *cell
}

// Begin holds the recorder, for events of one moment, until the batch's End.
func (r *Recorder) Begin(at time.Time) *Batch {
	r.mu.Lock()
	n := ledger.HourOf(at)
	h := r.hours[n]
	if h == nil {
		h = &hour{names: newPairs(r.bounds.Pairs), patterns: newFaults(r.bounds.Faults), cells: map[pair]*cell{}, faults: map[faultKey]*ledger.Fault{}}
		r.hours[n] = h
	}
	return &Batch{r: r, at: at, hour: h}
}

// End lets go of the recorder.
func (b *Batch) End() { b.r.mu.Unlock() }

// Count counts an event.
func (b *Batch) Count(queue, kind string, o ledger.Outcome) { b.of(queue, kind)[o].n++ }

// Time counts an event that took a time.
func (b *Batch) Time(queue, kind string, o ledger.Outcome, took time.Duration) {
	c := &b.of(queue, kind)[o]
	took = min(max(took, 0), longest)
	c.n++
	c.sum = plus(c.sum, took)
	c.sketch.Add(took)
}

// Fail counts a failure under its pattern.
func (b *Batch) Fail(queue, kind, message string) {
	k := b.hour.patterns.admit(faultKey{b.hour.names.admit(pair{queue, kind}), Pattern(message)})
	f := b.hour.faults[k]
	if f == nil {
		f = &ledger.Fault{Queue: k.queue, Kind: k.kind, Message: k.message, First: b.at}
		b.hour.faults[k] = f
	}
	f.N++
	f.Last = b.at
}

func (b *Batch) of(queue, kind string) *cell {
	p := pair{queue, kind}
	if b.cell != nil && p == b.last {
		return b.cell
	}
	named := b.hour.names.admit(p)
	c := b.hour.cells[named]
	if c == nil {
		c = &cell{}
		b.hour.cells[named] = c
	}
	b.last, b.cell = p, c
	return c
}

// Take returns what was gathered, by hour, and begins anew.
func (r *Recorder) Take() map[ledger.Hour]ledger.Sums {
	r.mu.Lock()
	hours := r.hours
	r.hours = map[ledger.Hour]*hour{}
	r.mu.Unlock()
	out := make(map[ledger.Hour]ledger.Sums, len(hours))
	for n, h := range hours {
		out[n] = h.sums(n)
	}
	return out
}

func (h *hour) sums(n ledger.Hour) ledger.Sums {
	var s ledger.Sums
	for p, c := range h.cells {
		for o := range c {
			if c[o].n > 0 {
				s.Tallies = append(s.Tallies, ledger.Tally{
					Hour: n, Queue: p.queue, Kind: p.kind, Outcome: ledger.Outcome(o),
					N: c[o].n, Sum: c[o].sum.Truncate(time.Microsecond), Sketch: c[o].sketch.Bytes(),
				})
			}
		}
	}
	for _, f := range h.faults {
		f.Hour = n
		s.Faults = append(s.Faults, *f)
	}
	return s
}
