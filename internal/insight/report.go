package insight

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

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

// Make makes a report of what a ledger has stored since q.From(now).
func Make(sums ledger.Sums, q Query, now time.Time) (Report, error) {
	g := groups{kinds: map[pair]*sum{}, queues: map[string]*sum{}, hours: map[ledger.Hour]*sum{}, flow: map[queueHour]*sum{}}
	for i := range sums.Tallies {
		if err := g.add(&sums.Tallies[i]); err != nil {
			return Report{}, err
		}
	}
	return Report{
		From: q.From(now).Start(), Until: now,
		Kinds: g.slowest(q.Most), Queues: g.sized(q, now), Hours: g.busiest(q.Most), Failures: failures(sums.Faults, q.Most),
	}, nil
}

// groups are the sums of tallies, by all that a report tells of.
type groups struct {
	kinds  map[pair]*sum
	queues map[string]*sum
	hours  map[ledger.Hour]*sum
	flow   map[queueHour]*sum
}

type queueHour struct {
	queue string
	hour  ledger.Hour
}

func of[K comparable](m map[K]*sum, k K) *sum {
	s := m[k]
	if s == nil {
		s = &sum{}
		m[k] = s
	}
	return s
}

func (g *groups) add(t *ledger.Tally) error {
	kind, queue := of(g.kinds, pair{t.Queue, t.Kind}), of(g.queues, t.Queue)
	for _, s := range []*sum{kind, queue, of(g.hours, t.Hour), of(g.flow, queueHour{t.Queue, t.Hour})} {
		s.count(t)
	}
	for _, s := range []*sum{kind, queue} {
		if err := s.spread(t); err != nil {
			return fmt.Errorf("%s of %s in %s: %w", t.Kind, t.Queue, t.Hour.Start(), err)
		}
	}
	return nil
}

// sum is what became of a group of jobs.
type sum struct {
	Counts
	Work
	wait, run spread
}

// count adds the numbers of a tally.
func (s *sum) count(t *ledger.Tally) {
	switch t.Outcome {
	case ledger.OutcomeArrived:
		s.Arrived += t.N
	case ledger.OutcomeLeased:
		s.Started += t.N
	case ledger.OutcomeSucceeded:
		s.Succeeded += t.N
	case ledger.OutcomeFailed:
		s.Failed += t.N
		s.Wasted = plus(s.Wasted, t.Sum)
	case ledger.OutcomeDiscarded:
		s.Discarded += t.N
	case ledger.OutcomeSnoozed:
		s.Snoozed += t.N
	case ledger.OutcomeReleased:
		s.Released += t.N
		s.Wasted = plus(s.Wasted, t.Sum)
	case ledger.OutcomeCrashed:
		s.Crashed += t.N
		s.Wasted = plus(s.Wasted, t.Sum)
	case ledger.OutcomeCancelled:
		s.Cancelled += t.N
	case ledger.OutcomeExpired:
		s.Expired += t.N
	case ledger.OutcomeDied:
		s.Dead += t.N
	}
	if t.Outcome >= ledger.OutcomeSucceeded && t.Outcome <= ledger.OutcomeCrashed {
		s.Busy = plus(s.Busy, t.Sum)
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

func (g *groups) slowest(most int) []Kind {
	var out []Kind
	for p, s := range g.kinds {
		out = append(out, Kind{Queue: p.queue, Kind: p.kind, Counts: s.Counts, Wait: s.wait.times(), Run: s.run.times(), Work: s.Work})
	}
	slices.SortFunc(out, func(a, b Kind) int {
		return cmp.Or(cmp.Compare(b.Run.P95, a.Run.P95), cmp.Compare(b.Busy, a.Busy), cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Kind, b.Kind))
	})
	return out[:min(len(out), most)]
}

func (g *groups) busiest(most int) []Hour {
	var out []Hour
	for h, s := range g.hours {
		out = append(out, Hour{Start: h.Start(), Counts: s.Counts, Work: s.Work})
	}
	slices.SortFunc(out, func(a, b Hour) int {
		return cmp.Or(cmp.Compare(b.Busy, a.Busy), cmp.Compare(b.Arrived, a.Arrived), b.Start.Compare(a.Start))
	})
	return out[:min(len(out), most)]
}

// sized says how many hands each queue needs at its peak.
func (g *groups) sized(q Query, now time.Time) []Queue {
	peaks := map[string]Queue{}
	for k, flow := range g.flow {
		if rate := flow.rate(k.hour, now); rate > peaks[k.queue].Rate {
			peaks[k.queue] = Queue{Rate: rate, Peak: k.hour.Start()}
		}
	}
	var out []Queue
	for name, s := range g.queues {
		one := peaks[name]
		one.Queue, one.Wait = name, s.wait.times()
		if n := s.ended(); n > 0 {
			one.Run = s.Busy / time.Duration(n)
		}
		one.Slots, one.Load = Slots(one.Rate, one.Run, q.Target)
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b Queue) int { return cmp.Or(cmp.Compare(b.Load, a.Load), cmp.Compare(a.Queue, b.Queue)) })
	return out[:min(len(out), q.Most)]
}

// leastElapsed is how much of an hour must have passed for a rate of it: what
// came in the first second of an hour says little of the rest.
const leastElapsed = 5 * time.Minute

// rate is how many attempts an hour asked for, a second: those that arrived, or
// that were made, if that is more: of a backlog, or because a server that crashed
// took some arrivals with it.
func (s *sum) rate(hour ledger.Hour, now time.Time) float64 {
	elapsed := min(max(now.Sub(hour.Start()), leastElapsed), time.Hour)
	return float64(max(s.Arrived, s.Started-s.Released)) / elapsed.Seconds()
}

// failures groups faults of all hours.
func failures(faults []ledger.Fault, most int) []Failure {
	groups := map[faultKey]ledger.Fault{}
	for _, f := range faults {
		k := faultKey{pair{f.Queue, f.Kind}, f.Message}
		groups[k] = addFault(groups[k], f)
	}
	var out []Failure
	for k, f := range groups {
		out = append(out, Failure{
			Queue: k.queue, Kind: k.kind, Pattern: k.message, Fingerprint: fingerprint(k.message),
			Count: f.N, First: f.First, Last: f.Last,
		})
	}
	slices.SortFunc(out, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), b.Last.Compare(a.Last),
			cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Pattern, b.Pattern))
	})
	return out[:min(len(out), most)]
}

// fingerprint is a short name of a pattern.
func fingerprint(pattern string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(pattern)) // never fails
	return fmt.Sprintf("%016x", h.Sum64())
}
