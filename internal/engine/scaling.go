package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/errandhq/errand/internal/scaling"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

const (
	signalAge    = time.Second      // how old the counters may be by which workers are counted
	sampleEvery  = 5 * time.Second  // between two looks at what became of a queue's jobs
	sampleWindow = time.Minute      // rates and run times are of so long, if they can be
	sampleIdle   = 10 * time.Minute // a queue that nobody asked for is forgotten
	fewRuns      = 10               // attempts in the window by which run times are judged
)

// Scaling says how many workers a queue needs, by package scaling. Its numbers
// are the ledger's: counters at most a second old, read once for however many ask, and
// the sums of statistics, which servers add to every ten seconds. So servers on
// one ledger agree, but for what each saw of the last minute, and one that was just
// started knows what the others know.
// Without Config.Insights on the servers nobody adds to those sums, and the number
// of workers is held.
//
// A queue is known if it has jobs, a worker, or a setting, or is remembered in
// the statistics; of any other the answer is an *job.Error with code NotFound.
func (e *Engine) Scaling(ctx context.Context, q scaling.Query) (scaling.Signal, error) {
	if err := q.Complete(); err != nil {
		return scaling.Signal{}, err
	}
	f, known, err := e.facts(ctx, q)
	if err != nil {
		return scaling.Signal{}, fmt.Errorf("scaling of %q: %w", q.Queue, err)
	}
	past, err := e.signals.of(q.Queue, e.conf.Monotonic()).look(ctx, e, q.Queue)
	if err != nil {
		return scaling.Signal{}, fmt.Errorf("scaling of %q: %w", q.Queue, err)
	}
	if !known && !past.known {
		e.signals.forget(q.Queue)
		return scaling.Signal{}, job.Errorf(job.NotFound, job.ReasonQueueNotFound, "queue %q is not known: no job, no worker and no setting names it", q.Queue)
	}
	past.into(&f, q.Kinds)
	return scaling.Judge(q, f), nil
}

// facts reads what counts now, and whether the queue is known. One that is not
// may have been made within the last second.
func (e *Engine) facts(ctx context.Context, q scaling.Query) (f scaling.Facts, known bool, err error) {
	for _, age := range []time.Duration{signalAge, 0} {
		now, err := e.signals.read(ctx, e, age)
		if err != nil {
			return f, false, err
		}
		if f, known = now.facts(q); known {
			break
		}
	}
	return f, known, nil
}

// signals are what Scaling remembers.
type signals struct {
	mu   sync.Mutex // one read at a time
	last *census

	book   sync.Mutex
	queues map[string]*samples
}

func newSignals() *signals { return &signals{queues: map[string]*samples{}} }

// census is an overview with the queues by name.
type census struct {
	of       *overview
	queues   map[string]*QueueInfo
	sessions []ledger.Session
}

// read returns the state, of at most age before the call: who waited for another's
// read takes that, and who comes after a scrape of the metrics what that has read.
func (s *signals) read(ctx context.Context, e *Engine, age time.Duration) (*census, error) {
	asked := e.conf.Monotonic()
	s.mu.Lock()
	defer s.mu.Unlock()
	o := e.lately.Load()
	if o == nil || o.at <= asked-age {
		var err error
		if o, err = e.overview(ctx); err != nil {
			return nil, err
		}
	}
	if s.last == nil || s.last.of != o {
		c := &census{of: o, queues: make(map[string]*QueueInfo, len(o.queues)), sessions: o.sessions}
		for i := range o.queues {
			c.queues[o.queues[i].Queue] = &o.queues[i]
		}
		s.last = c
	}
	return s.last, nil
}

// facts gathers what counts for a query, and whether the queue is known.
func (c *census) facts(q scaling.Query) (f scaling.Facts, known bool) {
	f.Ready = map[string]int64{}
	wanted := func(kind string) bool { return len(q.Kinds) == 0 || slices.Contains(q.Kinds, kind) }
	info := c.queues[q.Queue]
	if info != nil {
		f.Paused = info.Paused
		f.Scheduled = info.Counts[job.Scheduled]
		for _, k := range info.Kinds {
			if wanted(k.Kind) {
				f.Ready[k.Kind] = k.Ready
				f.Oldest = max(f.Oldest, k.OldestReady)
			}
		}
		for kind, n := range info.Running {
			if wanted(kind) {
				f.Running += n
			}
		}
	}
	for i := range c.sessions {
		s := &c.sessions[i]
		if s.State == ledger.SessionLive && slices.Contains(s.Queues, q.Queue) && !s.OfCanary() &&
			(len(s.Kinds) == 0 || slices.ContainsFunc(s.Kinds, wanted)) {
			f.Workers++
			f.Slots += s.Concurrency
		}
	}
	return f, info != nil || f.Workers > 0
}

// followBeat is the longest silence of FollowScaling, so that whoever waits
// knows that the line holds.
const followBeat = 30 * time.Second

// FollowScaling calls each with the signal at once, whenever a queue turns active or
// idle, and after followBeat at the latest. Trouble at the beginning is
// the answer; later it is no news, and nothing is told until it is over. It ends with ctx, with
// an error of each, or when the server drains.
func (e *Engine) FollowScaling(ctx context.Context, q scaling.Query, each func(scaling.Signal) error) error {
	tick := time.NewTicker(signalAge)
	defer tick.Stop()
	var told struct {
		at     time.Duration
		active bool
		any    bool
	}
	for {
		s, err := e.Scaling(ctx, q)
		if err != nil && !told.any {
			return err
		}
		now := e.conf.Monotonic()
		if err == nil && (!told.any || told.active != s.Active() || now-told.at >= followBeat) {
			if err := each(s); err != nil {
				return err
			}
			told.at, told.active, told.any = now, s.Active(), true
		}
		select {
		case <-tick.C:
		case <-e.draining:
			return errStopped()
		case <-e.stopped:
			return errStopped()
		case <-ctx.Done():
			return ended(ctx)
		}
	}
}
