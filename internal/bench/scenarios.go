package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// bulk and single measure the calls of producers, with nobody at work.
func (l *load) bulk(ctx context.Context, res *Result) error {
	return l.produce(ctx, res, l.plan.batch())
}
func (l *load) single(ctx context.Context, res *Result) error { return l.produce(ctx, res, 1) }

func (l *load) produce(ctx context.Context, res *Result, size int) error {
	calls := newLatencies()
	l.begin("enqueue", &l.enqueued, l.plan.Jobs)
	clock := l.start()
	err := l.fill(ctx, l.plan.Jobs, size, calls)
	l.took(res, l.enqueued.Load(), clock)
	calls.into(res)
	return err
}

// drain measures workers on a full queue, from their start until the last
// success is recorded durably.
func (l *load) drain(ctx context.Context, res *Result) error {
	if err := l.prepare(ctx, l.plan.Jobs); err != nil {
		return err
	}
	return l.empty(ctx, res, int64(l.plan.Jobs))
}

// prepare fills the queue, off the clock.
func (l *load) prepare(ctx context.Context, n int) error {
	l.begin("fill", &l.enqueued, n)
	return l.fill(ctx, n, l.plan.batch(), newLatencies())
}

// empty times workers over the first n jobs.
func (l *load) empty(ctx context.Context, res *Result, n int64) error {
	before := l.handled.Load()
	l.begin("work", &l.handled, int(n))
	clock := l.start()
	c, err := l.hire(ctx, nil)
	if err != nil {
		return err
	}
	err = c.await(ctx, before+n)
	err = errors.Join(err, c.stop())
	// What was in hand when the last was reached is done too, on the same clock.
	l.took(res, l.handled.Load()-before, clock)
	return err
}

// latency measures, on idle workers, how long after the moment it was meant to be
// enqueued a job's handler starts.
func (l *load) latency(ctx context.Context, res *Result) error {
	rate := l.plan.Rate
	if rate == 0 {
		rate = defaultRate
	}
	lat := newLatencies()
	c, err := l.hire(ctx, l.recorder(lat))
	if err != nil {
		return err
	}
	l.begin("work", &l.handled, scheduled(rate, l.plan.Duration))
	clock := l.start()
	err = l.openLoop(ctx, rate)
	if err == nil {
		err = c.await(ctx, l.enqueued.Load())
	}
	l.took(res, l.handled.Load(), clock)
	err = errors.Join(err, c.stop())
	lat.into(res)
	return err
}

// recorder returns what records how long ago the moment in a payload is.
func (l *load) recorder(lat *latencies) func([]byte) {
	return func(payload []byte) {
		if at, ok := stampOf(payload); ok {
			lat.record(time.Since(l.epoch) - at)
		}
	}
}

// openLoop enqueues single jobs at a rate for the plan's duration. The producers
// share the schedule: when all are held up, the moments they miss are made
// up for, and count from when they were meant to be.
func (l *load) openLoop(ctx context.Context, rate float64) error {
	due := make(chan time.Time, scheduled(rate, l.plan.Duration))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		clock := l.alarm()
		defer clock.close()
		schedule(ctx, clock, rate, l.plan.Duration, due)
		return nil
	})
	for range l.plan.Producers {
		g.Go(func() error {
			for at := range due {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := l.enqueue(ctx, [][]byte{newPayload(l.plan.Payload, at.Sub(l.epoch))}); err != nil {
					return err
				}
			}
			return context.Cause(ctx)
		})
	}
	return g.Wait()
}

// steady lets producers and workers go on together for the plan's duration: as
// fast as they can, with a bounded backlog between them, or at the plan's rate.
func (l *load) steady(ctx context.Context, res *Result) error {
	lat, line := newLatencies(), newTimeline(l.plan.Duration)
	record := l.recorder(lat)
	c, err := l.hire(ctx, func(payload []byte) { record(payload); line.add() })
	if err != nil {
		return err
	}
	l.begin("work", &l.handled, 0)
	clock := l.start()
	if l.plan.Rate > 0 {
		err = l.openLoop(ctx, l.plan.Rate)
	} else {
		err = l.closedLoop(ctx)
	}
	l.took(res, l.handled.Load(), clock)
	line.into(res, time.Since(clock.at))
	lat.into(res)
	if err == nil {
		l.begin("clean up", &l.handled, int(l.enqueued.Load()-l.handled.Load()))
		err = c.await(ctx, l.enqueued.Load())
	}
	return errors.Join(err, c.stop())
}

// closedLoop enqueues batches from all producers for the plan's duration, each the
// next as soon as the last is stored, while the backlog is not too long.
func (l *load) closedLoop(ctx context.Context) error {
	size := l.plan.batch()
	most := int64(max(20*size, 2*l.plan.Workers*l.plan.Concurrency))
	end := time.Now().Add(l.plan.Duration)
	var producing atomic.Int64 // in calls under way
	g, ctx := errgroup.WithContext(ctx)
	for range l.plan.Producers {
		g.Go(func() error {
			for time.Now().Before(end) {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if producing.Add(int64(size))+l.enqueued.Load()-l.handled.Load() > most {
					producing.Add(-int64(size))
					time.Sleep(time.Millisecond) // the pace of looking: a thousandth of the backlog's work
					continue
				}
				err := l.enqueue(ctx, payloads(size, l.plan.Payload, time.Since(l.epoch)))
				producing.Add(-int64(size))
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// pinned is steady while an open transaction sees the database as it was.
func (l *load) pinned(ctx context.Context, res *Result, pin func(context.Context) (func() error, error)) error {
	if pin == nil {
		return ErrCannotPin
	}
	release, err := pin(ctx)
	if err != nil {
		return fmt.Errorf("open the transaction that holds vacuum back: %w", err)
	}
	err = l.steady(ctx, res)
	return errors.Join(err, release())
}

// ErrCannotPin says that the system under load has no transaction to hold open.
var ErrCannotPin = errors.New("there is no PostgreSQL ledger in which to hold a transaction open")

// backlog drains a tenth of the jobs by itself, then fills the queue with all of
// them and drains as many from the front.
func (l *load) backlog(ctx context.Context, res *Result) error {
	n := l.plan.Jobs / 10
	if err := l.prepare(ctx, n); err != nil {
		return err
	}
	var alone Result
	if err := l.empty(ctx, &alone, int64(n)); err != nil {
		return err
	}
	res.Alone = alone.JobsPerSecond
	if err := l.prepare(ctx, l.plan.Jobs); err != nil {
		return err
	}
	err := l.empty(ctx, res, int64(n))
	if err == nil && res.Alone > 0 {
		res.Ratio = res.JobsPerSecond / res.Alone
	}
	return err
}
