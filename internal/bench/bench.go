// Package bench puts a queue under load and measures it: Errand, in process or
// behind a server, and by the same code any other queue that has a System.
//
// A scenario is a piece of work with a clock: see Scenarios. Whatever waits for
// a schedule is measured from when it was meant to start, not from when the
// load generator got round to it, so a system that stalls cannot hide the calls
// that the stall kept from being made (coordinated omission).
package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
)

// System is a queue under load, in one scenario. Its methods are called from
// many goroutines.
type System interface {
	// Enqueue stores a job for each payload, in one call, as durably as the
	// system stores any. There are at most so many as the plan's batch has.
	Enqueue(ctx context.Context, payloads [][]byte) error

	// Work carries jobs out until stop is called: handle is called for each, in
	// many goroutines, and its return is the job's success. stop takes no more
	// jobs, and returns when every success is recorded durably. ctx does not end
	// before. failed, which may be nil, is sent the error of workers that ended by
	// themselves.
	Work(ctx context.Context, handle func(payload []byte)) (stop func() error, failed <-chan error, err error)

	// Close frees the system. No work is under way.
	Close() error
}

// The scenarios.
const (
	Bulk    = "bulk"    // batches of 1000, from every producer
	Single  = "single"  // one job a call, from every producer
	Drain   = "drain"   // workers empty a full queue
	Latency = "latency" // one job a call at a rate, workers idle
	Steady  = "steady"  // producers and workers together
	Pinned  = "pinned"  // steady, beside a transaction that holds vacuum back
	Backlog = "backlog" // a tenth of the jobs drained alone, and from the front of all of them
)

// Scenarios lists all of them, in the order in which they are run.
func Scenarios() []string {
	return []string{Bulk, Single, Drain, Latency, Steady, Pinned, Backlog}
}

// Plan says how much load there is.
type Plan struct {
	Jobs        int           // of the scenarios that count jobs
	Payload     int           // bytes of a payload
	Batch       int           // jobs of a call in bulk; zero: as many as Errand takes
	Producers   int           // goroutines that enqueue
	Workers     int           // workers
	Concurrency int           // jobs at a time, of each worker
	Rate        float64       // jobs a second; zero: 200 in latency, as fast as it goes in steady
	Duration    time.Duration // of the scenarios that run for a time
}

// DefaultPlan is what is measured where nothing else is asked for.
func DefaultPlan() Plan {
	return Plan{Jobs: 100_000, Payload: 100, Producers: 16, Workers: 2, Concurrency: 1000, Duration: 10 * time.Second}
}

const (
	minPayload  = 32
	defaultRate = 200
	maxRate     = 1_000_000
	maxLoad     = 10_000_000 // jobs of one schedule, which are all in memory at the worst
)

// Check says what is wrong with the plan.
func (p Plan) Check() error {
	switch {
	case p.Jobs < 10 || p.Jobs > 100_000_000:
		return fmt.Errorf("jobs is %d; it is 10 to 100000000", p.Jobs)
	case p.Payload < minPayload || p.Payload > job.MaxPayload:
		return fmt.Errorf("payload is %d; it is %d to %d bytes", p.Payload, minPayload, job.MaxPayload)
	case p.Batch < 0 || p.Batch > 100_000:
		return fmt.Errorf("batch is %d; it is at most 100000", p.Batch)
	case p.Producers < 1 || p.Producers > 10_000:
		return fmt.Errorf("producers is %d; it is 1 to 10000", p.Producers)
	case p.Workers < 1 || p.Workers > 1000:
		return fmt.Errorf("workers is %d; it is 1 to 1000", p.Workers)
	case p.Concurrency < 1 || p.Concurrency > 100_000:
		return fmt.Errorf("concurrency is %d; it is 1 to 100000", p.Concurrency)
	case p.Rate != 0 && !(p.Rate >= 1 && p.Rate <= maxRate): // NaN too
		return fmt.Errorf("rate is %g; it is 1 to %d jobs a second", p.Rate, maxRate)
	case p.Duration < time.Second || p.Duration > 24*time.Hour:
		return fmt.Errorf("duration is %s; it is 1s to 24h", p.Duration)
	case p.Rate*p.Duration.Seconds() > maxLoad:
		return fmt.Errorf("rate is %g for %s: that is more than %d jobs", p.Rate, p.Duration, maxLoad)
	}
	return nil
}

// batch is how many payloads one call takes.
func (p Plan) batch() int {
	if p.Batch > 0 {
		return p.Batch
	}
	return max(1, min(job.MaxBatch, job.MaxBatchBytes/p.Payload))
}

// Progress is how far a phase of a scenario is. Total is zero if it is not known.
type Progress struct {
	Scenario, Phase string
	Done, Total     int64
}

// Runner runs scenarios one after another.
type Runner struct {
	Plan Plan
	// Open makes the system for a scenario, with no jobs in it.
	Open func(ctx context.Context, scenario string) (System, error)
	// Throwaway says that Close removes all jobs: what a scenario leaves over
	// is not worked off.
	Throwaway bool
	// Pin opens a transaction that holds vacuum back until release; nil: cannot.
	Pin func(ctx context.Context) (release func() error, err error)
	// GiveUp, if set, ends what is left to be cleaned up after the end of Run's context.
	GiveUp context.Context
	// Measuring, if set, is told when a clock starts, and when it has stopped.
	Measuring func(bool)
	// Progress, if set, is told now and then, from one goroutine at a time.
	Progress func(Progress)

	alarm func() alarm // newAlarm, but in tests whose clock is not the kernel's
}

// Run runs the scenarios named. Results are of those that were run, also if an
// error or the end of ctx broke the last one off, which its result then says.
func (r *Runner) Run(ctx context.Context, scenarios []string) ([]Result, error) {
	results := []Result{}
	for _, name := range scenarios {
		if ctx.Err() != nil {
			return results, context.Cause(ctx)
		}
		res, err := r.scenario(ctx, name)
		if res != nil {
			results = append(results, *res)
		}
		if err != nil {
			return results, fmt.Errorf("scenario %s: %w", name, err)
		}
	}
	return results, nil
}

// scenario runs one, and leaves nothing of it behind.
func (r *Runner) scenario(ctx context.Context, name string) (*Result, error) {
	if !slices.Contains(Scenarios(), name) {
		return nil, fmt.Errorf("there is no such scenario")
	}
	sys, err := r.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	l := &load{plan: r.Plan, sys: sys, name: name, measuring: r.Measuring, epoch: time.Now(), alarm: r.alarm}
	if l.alarm == nil {
		l.alarm = newAlarm
	}
	stop := l.report(r.Progress)
	res := &Result{Name: name}
	switch name {
	case Bulk:
		err = l.bulk(ctx, res)
	case Single:
		err = l.single(ctx, res)
	case Drain:
		err = l.drain(ctx, res)
	case Latency:
		err = l.latency(ctx, res)
	case Steady:
		err = l.steady(ctx, res)
	case Pinned:
		err = l.pinned(ctx, res, r.Pin)
	case Backlog:
		err = l.backlog(ctx, res)
	}
	res.Interrupted = err != nil
	if !r.Throwaway {
		err = errors.Join(err, l.workOff(r.GiveUp))
	}
	stop()
	return res, errors.Join(err, sys.Close())
}
