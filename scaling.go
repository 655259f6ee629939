package errand

import (
	"context"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// ScalingQuery asks how many workers a queue needs. Zero fields get their
// defaults.
type ScalingQuery struct {
	Queue       string
	Kinds       []string      // that the workers in question take; all by default
	TargetWait  time.Duration // 1 min: within it what is ready is to be begun; 1 s to 24 h
	Min         int           // workers
	Max         int           // 100, or Min if that is more
	Concurrency int           // 10: jobs that a worker takes at a time
}

// Scaling is the answer: what an autoscaler acts on, and what it follows from.
type Scaling struct {
	Queue       string
	Paused      bool
	Scheduled   int64 // of all kinds; they ask for no worker before their time
	Ready       int64
	Running     int64
	OldestReady time.Duration // zero if nothing is ready
	RateWindow  time.Duration // over which the rates are
	ArrivalRate float64       // jobs that became ready, a second
	ServiceRate float64       // attempts that ended, a second
	// Backlog is the work that is ready, in seconds of one slot: ready jobs times
	// the run time of their kind; nil while that is not known.
	Backlog *time.Duration
	Workers int // live, that take the queue and one of the kinds
	Slots   int // theirs
	// NeededWorkers are ⌈(Running + Backlog/TargetWait) / Concurrency⌉, and
	// DesiredWorkers the same within Min and Max.
	NeededWorkers  int
	DesiredWorkers int
}

// Scaling says how many workers a queue needs. A queue that nothing names is an
// error with ReasonQueueNotFound.
func (c *Client) Scaling(ctx context.Context, q ScalingQuery) (*Scaling, error) {
	req := &errandv1.GetScalingRequest{
		Queue: q.Queue, Kinds: q.Kinds, TargetWait: wireDuration(q.TargetWait),
		Min: clampInt32(q.Min), Max: clampInt32(q.Max), Concurrency: clampInt32(q.Concurrency),
	}
	r, err := call(ctx, c, c.svc.GetScaling, req)
	if err != nil {
		return nil, err
	}
	out := &Scaling{
		Queue: r.GetQueue(), Paused: r.GetPaused(), Scheduled: r.GetScheduled(), Ready: r.GetReady(), Running: r.GetRunning(),
		OldestReady: durationOf(r.GetOldestReady()), RateWindow: durationOf(r.GetRateWindow()),
		ArrivalRate: r.GetArrivalRate(), ServiceRate: r.GetServiceRate(), Workers: int(r.GetWorkers()), Slots: int(r.GetSlots()),
		NeededWorkers: int(r.GetNeededWorkers()), DesiredWorkers: int(r.GetDesiredWorkers()),
	}
	if r.BacklogSeconds != nil {
		d := time.Duration(r.GetBacklogSeconds() * float64(time.Second))
		out.Backlog = &d
	}
	return out, nil
}
