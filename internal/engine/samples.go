package engine

import (
	"context"
	"sync"
	"time"

	"github.com/errandhq/errand/internal/scaling"
	"github.com/errandhq/errand/ledger"
)

// samples are the sums of one queue as they stood at a few moments of the last
// minute. The time between two of them is by the monotonic clock, and sums are
// compared hour by hour, so that a wall clock which jumps makes no rate of its own.
type samples struct {
	mu    sync.Mutex // one look at a time
	list  []tallied  // oldest first
	known bool       // the statistics have heard of the queue
	asked time.Duration

	older  during        // all that is remembered, while the list tells of no attempt
	looked time.Duration // when that was read
}

// tallied is what the ledger had added up of this hour and the one before.
type tallied struct {
	at   time.Duration
	wall time.Time
	from ledger.Hour
	sums map[tallyKey]amount
}

type tallyKey struct {
	hour    ledger.Hour
	kind    string
	outcome ledger.Outcome
}

// amount is how often, and for how long together.
type amount struct {
	n   int64
	sum time.Duration
}

// of returns the samples of a queue, and forgets those that nobody asks for.
func (s *signals) of(queue string, now time.Duration) *samples {
	s.book.Lock()
	defer s.book.Unlock()
	mine := s.queues[queue]
	if mine == nil {
		for name, one := range s.queues {
			if now-one.asked > sampleIdle {
				delete(s.queues, name)
			}
		}
		mine = &samples{}
		s.queues[queue] = mine
	}
	mine.asked = now
	return mine
}

func (s *signals) forget(queue string) {
	s.book.Lock()
	defer s.book.Unlock()
	delete(s.queues, queue)
}

// look takes a new sample if the last is old enough, and returns what the
// samples tell.
func (s *samples) look(ctx context.Context, e *Engine, queue string) (past, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.list); n == 0 || e.conf.Monotonic()-s.list[n-1].at >= sampleEvery {
		if err := s.take(ctx, e, queue); err != nil {
			return past{}, err
		}
	}
	return s.tell(), nil
}

func (s *samples) take(ctx context.Context, e *Engine, queue string) error {
	at := e.conf.Monotonic()
	now, err := e.clock.now(ctx)
	if err != nil {
		return err
	}
	one := tallied{at: at, wall: now, from: ledger.HourOf(now) - 1, sums: map[tallyKey]amount{}}
	err = e.readStats(ctx, one.from, queue, func(t ledger.Tally) bool {
		k := tallyKey{t.Hour, t.Kind, t.Outcome}
		sum := one.sums[k]
		one.sums[k] = amount{sum.n + t.N, sum.sum + t.Sum}
		return true
	}, nil)
	if err != nil {
		return err
	}
	if err := s.remember(ctx, e, queue, &one); err != nil {
		return err
	}
	for len(s.list) > 1 && at-s.list[1].at >= sampleWindow {
		s.list = s.list[1:]
	}
	if len(s.list) == 1 && at-s.list[0].at > 2*sampleWindow {
		s.list = nil // nobody asked for so long that it would tell of another time
	}
	s.list = append(s.list, one)
	return nil
}

// remember reads all that the ledger knows of a queue of which the last hours tell
// no attempt's time, as of one whose work comes once a night.
func (s *samples) remember(ctx context.Context, e *Engine, queue string, now *tallied) error {
	s.known = s.known || len(now.sums) > 0
	if long := now.long(); long.all().n > 0 {
		s.older = during{}
		return nil
	}
	if s.older.kinds != nil && now.at-s.looked < sampleIdle {
		return nil
	}
	older := during{kinds: map[string]*doings{}}
	err := e.readStats(ctx, 0, queue, func(t ledger.Tally) bool {
		s.known = true
		older.add(tallyKey{t.Hour, t.Kind, t.Outcome}, amount{t.N, t.Sum})
		return true
	}, nil)
	if err != nil {
		return err
	}
	s.older, s.looked = older, now.at
	return nil
}

// long is what happened since the hour before this one began.
func (t *tallied) long() during {
	d := during{took: max(t.wall.Sub(t.from.Start()), time.Second), kinds: map[string]*doings{}}
	for k, v := range t.sums {
		d.add(k, v)
	}
	return d
}

// past is what became of a queue's jobs: within the window, since the hour
// before this one began, and ever, as samples have it.
type past struct {
	known               bool
	lately, long, older during
}

// during is what happened in a time.
type during struct {
	took  time.Duration
	kinds map[string]*doings
}

// doings are of one kind.
type doings struct {
	arrived int64
	ended   amount // attempts that ran to an end of their own
}

func (s *samples) tell() past {
	first, last := &s.list[0], &s.list[len(s.list)-1]
	p := past{known: s.known, long: last.long(), older: s.older}
	p.lately = during{took: last.at - first.at, kinds: map[string]*doings{}}
	for k, v := range last.sums {
		if was := first.sums[k]; k.hour >= first.from {
			p.lately.add(k, amount{v.n - was.n, v.sum - was.sum})
		}
	}
	return p
}

func (d *during) add(k tallyKey, v amount) {
	one := d.kinds[k.kind]
	if one == nil {
		one = &doings{}
		d.kinds[k.kind] = one
	}
	switch k.outcome {
	case ledger.OutcomeArrived:
		one.arrived += max(v.n, 0)
	case ledger.OutcomeSucceeded, ledger.OutcomeFailed, ledger.OutcomeDiscarded, ledger.OutcomeSnoozed:
		one.ended.n += max(v.n, 0)
		one.ended.sum += max(v.sum, 0)
	}
}

// into adds to the facts what is known of rates and times: of the last minute
// where that is enough to tell, else of the last hour or two; of times, else of
// all that is remembered.
func (p *past) into(f *scaling.Facts, kinds []string) {
	from := &p.lately
	if from.took < sampleEvery {
		from = &p.long
	}
	f.Rates = from.rates(kinds)
	f.Runs = map[string]time.Duration{}
	p.older.times(f, 1)
	p.long.times(f, 1)
	p.lately.times(f, fewRuns)
}

// times puts how long attempts took in place of what f says, where there were few or more.
func (d *during) times(f *scaling.Facts, few int64) {
	for kind, one := range d.kinds {
		if run := one.ended.mean(few); run > 0 {
			f.Runs[kind] = run
		}
	}
	if run := d.all().mean(few); run > 0 {
		f.Otherwise = run
	}
}

// mean is zero unless there were few or more.
func (a amount) mean(few int64) time.Duration {
	if a.n < few {
		return 0
	}
	return max(a.sum/time.Duration(a.n), time.Microsecond) // less than can be measured is not unknown
}

func (d *during) all() (out amount) {
	for _, one := range d.kinds {
		out.n += one.ended.n
		out.sum += one.ended.sum
	}
	return out
}

// rates are of the kinds named, or of all.
func (d *during) rates(kinds []string) scaling.Rates {
	r := scaling.Rates{Window: d.took}
	add := func(one *doings) {
		if one != nil {
			r.Arrivals += float64(one.arrived) / d.took.Seconds()
			r.Services += float64(one.ended.n) / d.took.Seconds()
		}
	}
	if len(kinds) > 0 {
		for _, k := range kinds {
			add(d.kinds[k])
		}
		return r
	}
	for _, one := range d.kinds {
		add(one)
	}
	return r
}
