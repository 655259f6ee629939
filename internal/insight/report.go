package insight

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Query asks for a Report.
type Query struct {
	Queue  string        // "": all
	Since  time.Duration // how far back; whole hours are told of
	Target time.Duration // how long attempts may wait, for the number of slots
	Most   int           // entries of each list
}

// Report is what became of jobs since From.
type Report struct {
	From, Until time.Time
	Kinds       []Kind    // the slowest first: by the 95th percentile of their runs
	Queues      []Queue   // those that need most first
	Hours       []Hour    // the busiest first
	Failures    []Failure // the most frequent first
}

// Times are a distribution's mean and percentiles.
type Times struct {
	Mean, P50, P95, P99 time.Duration
}

// Kind is what became of the jobs of one kind in one queue.
type Kind struct {
	Queue, Kind string
	Counts
	Wait Times // from when a job could be taken to its lease
	Run  Times // of attempts that succeeded, failed or were discarded
	Work
}

// Counts says how often what happened.
type Counts struct {
	Arrived int64 // became ready: new jobs, those whose time had come, and retries

	Started, Succeeded, Failed, Discarded, Snoozed, Released, Crashed int64 // attempts
	Cancelled, Expired, Dead                                          int64 // jobs
}

// Work is time of workers' hands.
type Work struct {
	Busy   time.Duration // all attempts
	Wasted time.Duration // of it: attempts that failed, crashed or were given back, and had to be made again
}

// Queue says how many hands a queue needs.
type Queue struct {
	Queue string
	Peak  time.Time // the hour with the most arrivals
	Rate  float64   // of attempts to make in it, a second
	Run   time.Duration
	Load  float64 // hands busy on average at that rate
	Slots int     // hands needed for the target at that rate
	Wait  Times   // of all hours
}

// Hour is an hour of all that was asked for.
type Hour struct {
	Start time.Time
	Counts
	Work
}

// Failure is a group of attempts that failed alike.
type Failure struct {
	Queue, Kind, Pattern string
	Fingerprint          string // of the pattern: the same everywhere
	Count                int64
	First, Last          time.Time
}

// From is the first hour that a query at a time tells of.
func (q Query) From(now time.Time) ledger.Hour { return ledger.HourOf(now.Add(-q.Since)) }

// draftBounds say how much of all hours a report tells apart: no list of it is
// longer than job.MaxPage. What comes later, and so is of older hours, is Other.
var draftBounds = Bounds{Pairs: job.MaxPage, Faults: 5 * job.MaxPage}

// Draft is a report under way. Rows are added one by one, those of the latest
// hours first, and none is kept: it holds as much as draftBounds allow and a few words for
// each hour and queue.
type Draft struct {
	q        Query
	now      time.Time
	names    *pairs
	patterns *faults

	kinds  map[pair]*sum
	queues map[string]*sum
	hours  map[ledger.Hour]*sum
	flow   map[queueHour]*Counts
	groups map[faultKey]ledger.Fault
}

type queueHour struct {
	queue string
	hour  ledger.Hour
}

// NewDraft begins a report that is made at a time.
func NewDraft(q Query, now time.Time) *Draft {
	return &Draft{
		q: q, now: now, names: newPairs(draftBounds.Pairs), patterns: newFaults(draftBounds.Faults),
		kinds: map[pair]*sum{}, queues: map[string]*sum{}, hours: map[ledger.Hour]*sum{},
		flow: map[queueHour]*Counts{}, groups: map[faultKey]ledger.Fault{},
	}
}

// of returns what a map has under a key, made at its first use.
func of[K comparable, V any](m map[K]*V, k K) *V {
	v := m[k]
	if v == nil {
		v = new(V)
		m[k] = v
	}
	return v
}

// Tally adds a row of a ledger.
func (d *Draft) Tally(t ledger.Tally) error {
	name := d.names.admit(pair{t.Queue, t.Kind})
	kind, queue := of(d.kinds, name), of(d.queues, name.queue)
	for _, s := range []*sum{kind, queue, of(d.hours, t.Hour)} {
		s.count(&t)
	}
	of(d.flow, queueHour{name.queue, t.Hour}).count(&t)
	for _, s := range []*sum{kind, queue} {
		if err := s.spread(&t); err != nil {
			return unreadable(&t, err)
		}
	}
	return nil
}

// Fault adds a row of a ledger.
func (d *Draft) Fault(f ledger.Fault) {
	k := d.patterns.admit(faultKey{d.names.admit(pair{f.Queue, f.Kind}), f.Message})
	d.groups[k] = addFault(d.groups[k], f)
}

// Report tells what was added.
func (d *Draft) Report() Report {
	return Report{
		From: d.q.From(d.now).Start(), Until: d.now,
		Kinds: d.slowest(), Queues: d.sized(), Hours: d.busiest(), Failures: d.failures(),
	}
}

// sum is what became of a group of jobs.
type sum struct {
	Counts
	Work
	wait, run spread
}

// count adds the numbers of a tally, and its time.
func (s *sum) count(t *ledger.Tally) {
	s.Counts.count(t)
	switch t.Outcome {
	case ledger.OutcomeFailed, ledger.OutcomeReleased, ledger.OutcomeCrashed:
		s.Wasted = plus(s.Wasted, t.Sum)
	}
	if t.Outcome >= ledger.OutcomeSucceeded && t.Outcome <= ledger.OutcomeCrashed {
		s.Busy = plus(s.Busy, t.Sum)
	}
}

func (c *Counts) count(t *ledger.Tally) {
	switch t.Outcome {
	case ledger.OutcomeArrived:
		c.Arrived += t.N
	case ledger.OutcomeLeased:
		c.Started += t.N
	case ledger.OutcomeSucceeded:
		c.Succeeded += t.N
	case ledger.OutcomeFailed:
		c.Failed += t.N
	case ledger.OutcomeDiscarded:
		c.Discarded += t.N
	case ledger.OutcomeSnoozed:
		c.Snoozed += t.N
	case ledger.OutcomeReleased:
		c.Released += t.N
	case ledger.OutcomeCrashed:
		c.Crashed += t.N
	case ledger.OutcomeCancelled:
		c.Cancelled += t.N
	case ledger.OutcomeExpired:
		c.Expired += t.N
	case ledger.OutcomeDied:
		c.Dead += t.N
	}
}

// spread adds the distribution of a tally.
func (s *sum) spread(t *ledger.Tally) error {
	switch t.Outcome {
	case ledger.OutcomeLeased:
		return s.wait.add(t)
	case ledger.OutcomeSucceeded, ledger.OutcomeFailed, ledger.OutcomeDiscarded:
		return s.run.add(t)
	}
	return nil
}

// ended is how many attempts ended, and took hands while they lasted.
func (c *Counts) ended() int64 {
	return c.Succeeded + c.Failed + c.Discarded + c.Snoozed + c.Released + c.Crashed
}

// spread is a distribution under way.
type spread struct {
	total  time.Duration
	sketch Sketch
}

func (d *spread) add(t *ledger.Tally) error {
	d.total = plus(d.total, t.Sum)
	return d.sketch.Merge(t.Sketch)
}

func (d *spread) times() Times {
	n := d.sketch.Count()
	if n == 0 {
		return Times{}
	}
	return Times{Mean: d.total / time.Duration(n), P50: d.sketch.At(0.5), P95: d.sketch.At(0.95), P99: d.sketch.At(0.99)}
}

func (d *Draft) slowest() []Kind {
	var out []Kind
	for p, s := range d.kinds {
		out = append(out, Kind{Queue: p.queue, Kind: p.kind, Counts: s.Counts, Wait: s.wait.times(), Run: s.run.times(), Work: s.Work})
	}
	slices.SortFunc(out, func(a, b Kind) int {
		return cmp.Or(cmp.Compare(b.Run.P95, a.Run.P95), cmp.Compare(b.Busy, a.Busy), cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Kind, b.Kind))
	})
	return out[:min(len(out), d.q.Most)]
}

func (d *Draft) busiest() []Hour {
	var out []Hour
	for h, s := range d.hours {
		out = append(out, Hour{Start: h.Start(), Counts: s.Counts, Work: s.Work})
	}
	slices.SortFunc(out, func(a, b Hour) int {
		return cmp.Or(cmp.Compare(b.Busy, a.Busy), cmp.Compare(b.Arrived, a.Arrived), b.Start.Compare(a.Start))
	})
	return out[:min(len(out), d.q.Most)]
}

// sized says how many hands each queue needs at its peak.
func (d *Draft) sized() []Queue {
	peaks := map[string]Queue{}
	for k, flow := range d.flow {
		if rate := flow.rate(k.hour, d.now); rate > peaks[k.queue].Rate {
			peaks[k.queue] = Queue{Rate: rate, Peak: k.hour.Start()}
		}
	}
	var out []Queue
	for name, s := range d.queues {
		one := peaks[name]
		one.Queue, one.Wait = name, s.wait.times()
		if n := s.ended(); n > 0 {
			one.Run = s.Busy / time.Duration(n)
		}
		one.Slots, one.Load = Slots(one.Rate, one.Run, d.q.Target)
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b Queue) int { return cmp.Or(cmp.Compare(b.Load, a.Load), cmp.Compare(a.Queue, b.Queue)) })
	return out[:min(len(out), d.q.Most)]
}

// leastElapsed is how much of an hour must have passed for a rate of it: what
// came in the first second of an hour says little of the rest.
const leastElapsed = 5 * time.Minute

// rate is how many attempts an hour asked for, a second: those that arrived, or
// that were made, if that is more: of a backlog, or because a server that crashed
// took some arrivals with it.
func (c *Counts) rate(hour ledger.Hour, now time.Time) float64 {
	elapsed := min(max(now.Sub(hour.Start()), leastElapsed), time.Hour)
	return float64(max(c.Arrived, c.Started-c.Released)) / elapsed.Seconds()
}

func (d *Draft) failures() []Failure {
	var out []Failure
	for k, f := range d.groups {
		out = append(out, Failure{
			Queue: k.queue, Kind: k.kind, Pattern: k.message, Fingerprint: fingerprint(k.message),
			Count: f.N, First: f.First, Last: f.Last,
		})
	}
	slices.SortFunc(out, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), b.Last.Compare(a.Last),
			cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Pattern, b.Pattern))
	})
	return out[:min(len(out), d.q.Most)]
}

// fingerprint is a short name of a pattern.
func fingerprint(pattern string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(pattern)) // never fails
	return fmt.Sprintf("%016x", h.Sum64())
}
