package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// load is one scenario's producers and workers, and what they have counted.
type load struct {
	plan      Plan
	alarm     func() alarm
	sys       System
	name      string
	measuring func(bool) // see Runner
	epoch     time.Time  // what the stamps of payloads count from

	enqueued atomic.Int64
	handled  atomic.Int64
	phase    atomic.Pointer[phase]
}

// phase is what progress is reported of.
type phase struct {
	name  string
	count *atomic.Int64
	from  int64
	total int64
}

func (l *load) begin(name string, count *atomic.Int64, total int) {
	l.phase.Store(&phase{name: name, count: count, from: count.Load(), total: int64(total)})
}

// report tells to of the progress until stop, which waits for the last word.
func (l *load) report(to func(Progress)) (stop func()) {
	if to == nil {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-end:
				return
			}
			if p := l.phase.Load(); p != nil {
				to(Progress{Scenario: l.name, Phase: p.name, Done: p.count.Load() - p.from, Total: p.total})
			}
		}
	}()
	return func() { close(end); <-ended }
}

// enqueue is one call. When ctx ends it may still come to its own end for a
// while, so that no job is left behind that nobody counted.
func (l *load) enqueue(ctx context.Context, batch [][]byte) error {
	calling, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(callGrace, cancel) })
	defer stop()
	if err := l.sys.Enqueue(calling, batch); err != nil {
		return err
	}
	l.enqueued.Add(int64(len(batch)))
	return nil
}

// callGrace is how long a call under way at an interruption is waited for.
const callGrace = 30 * time.Second

// fill enqueues n jobs in batches of size, from all producers, and records how
// long each call took.
func (l *load) fill(ctx context.Context, n, size int, calls *latencies) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(l.plan.Producers, (n+size-1)/size) {
		g.Go(func() error {
			for ctx.Err() == nil {
				first := int(next.Add(int64(size))) - size
				if first >= n {
					return nil
				}
				batch := payloads(min(size, n-first), l.plan.Payload, 0)
				began := time.Now()
				if err := l.enqueue(ctx, batch); err != nil {
					return err
				}
				calls.record(time.Since(began))
			}
			return context.Cause(ctx)
		})
	}
	return g.Wait()
}

// crew is the workers of a scenario while they work.
type crew struct {
	l     *load
	stop  func() error
	fail  <-chan error
	bell  chan struct{} // rung when the target is reached
	until atomic.Int64  // the number of handled jobs that is waited for
}

// hire starts the workers. each, if set, is called with each payload.
func (l *load) hire(ctx context.Context, each func(payload []byte)) (*crew, error) {
	c := &crew{l: l, bell: make(chan struct{}, 1)}
	var err error
	c.stop, c.fail, err = l.sys.Work(context.WithoutCancel(ctx), func(payload []byte) {
		if each != nil {
			each(payload)
		}
		if l.handled.Add(1) == c.until.Load() {
			select {
			case c.bell <- struct{}{}:
			default:
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("start the workers: %w", err)
	}
	return c, nil
}

// await waits until n jobs have been handled since the start of the scenario.
// It gives up when for a minute none was.
func (c *crew) await(ctx context.Context, n int64) error {
	c.until.Store(n)
	tick := time.NewTicker(stuckAfter)
	defer tick.Stop()
	for last := int64(-1); c.l.handled.Load() < n; {
		select {
		case <-c.bell:
		case <-tick.C:
			now := c.l.handled.Load()
			if now == last {
				return fmt.Errorf("%d of %d jobs were carried out, and then none for %s", now, n, stuckAfter)
			}
			last = now
		case err := <-c.fail:
			return fmt.Errorf("a worker ended: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// stuckAfter is how long nothing may happen.
const stuckAfter = time.Minute

// workOff carries out what the scenario has left, so that nothing of it stays
// in a ledger that is somebody's. It goes on until giveUp ends, if that is set.
func (l *load) workOff(giveUp context.Context) error {
	left := l.enqueued.Load() - l.handled.Load()
	if left <= 0 {
		return nil
	}
	ctx := giveUp
	if ctx == nil {
		ctx = context.Background()
	}
	l.begin("clean up", &l.handled, int(left))
	c, err := l.hire(ctx, nil)
	if err != nil {
		return fmt.Errorf("%d jobs are left behind: %w", left, err)
	}
	err = c.await(ctx, l.enqueued.Load())
	if serr := c.stop(); err == nil {
		err = serr
	}
	if err != nil {
		return fmt.Errorf("%d jobs may be left behind: %w", left, err)
	}
	return nil
}

// timeline counts the jobs that are done in each window of a run.
type timeline struct {
	mu     sync.Mutex
	begin  time.Time
	window time.Duration
	counts []int64
}

func newTimeline(d time.Duration) *timeline {
	window := 10 * time.Second
	if d < 6*window {
		window = d / 6
	}
	return &timeline{begin: time.Now(), window: window, counts: make([]int64, d/window)}
}

// add counts a job that is done now, unless the run is over.
func (t *timeline) add() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := int(time.Since(t.begin) / t.window); i < len(t.counts) {
		t.counts[i]++
	}
}

// into sets a result's windows: those that were over after ran.
func (t *timeline) into(r *Result, ran time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.WindowSeconds = t.window.Seconds()
	for _, n := range t.counts[:min(len(t.counts), int(ran/t.window))] {
		r.Windows = append(r.Windows, float64(n)/t.window.Seconds())
	}
}
