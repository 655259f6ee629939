package api

import (
	"context"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/internal/scaling"
)

// GetScaling says how many workers a queue needs.
func (s *Service) GetScaling(ctx context.Context, r *errandv1.GetScalingRequest) (*errandv1.GetScalingResponse, error) {
	q, err := decodeScaling(r)
	if err != nil {
		return nil, s.fail(ctx, "GetScaling", err)
	}
	sig, err := s.engine.Scaling(ctx, q)
	if err != nil {
		return nil, s.fail(ctx, "GetScaling", err)
	}
	out := &errandv1.GetScalingResponse{
		Queue: sig.Queue, Paused: sig.Paused, Scheduled: sig.Scheduled, Ready: sig.ReadyJobs, Running: sig.Running,
		OldestReady: encodeDuration(sig.Oldest), RateWindow: encodeDuration(sig.Rates.Window),
		ArrivalRate: sig.Rates.Arrivals, ServiceRate: sig.Rates.Services, BacklogSeconds: backlog(&sig),
		Workers: int64(sig.Workers), Slots: int64(sig.Facts.Slots),
		NeededWorkers: int64(sig.Needed), DesiredWorkers: int64(sig.Desired),
	}
	return out, nil
}

// decodeScaling leaves all but the duration to scaling.Query.Complete.
func decodeScaling(r *errandv1.GetScalingRequest) (q scaling.Query, err error) {
	q = scaling.Query{
		Queue: r.GetQueue(), Kinds: r.GetKinds(), Min: int(r.GetMin()), Max: int(r.GetMax()), Slots: int(r.GetConcurrency()),
	}
	q.Target, err = duration("target_wait", r.GetTargetWait())
	return q, err
}

func backlog(s *scaling.Signal) *float64 {
	if !s.Known {
		return nil
	}
	v := s.Backlog.Seconds()
	return &v
}

// Scaling is the signal as plain JSON: for autoscalers that read a number at a
// path, and for people.
type Scaling struct {
	Queue              string   `json:"queue"`
	Paused             bool     `json:"paused"`
	Scheduled          int64    `json:"scheduled"`
	Ready              int64    `json:"ready"`
	Running            int64    `json:"running"`
	OldestReadySeconds float64  `json:"oldest_ready_seconds"`
	ArrivalRate        float64  `json:"arrival_rate"`
	ServiceRate        float64  `json:"service_rate"`
	RateWindowSeconds  float64  `json:"rate_window_seconds"`
	BacklogSeconds     *float64 `json:"backlog_seconds"` // null: not known
	Workers            int      `json:"workers"`
	Slots              int      `json:"slots"`
	NeededWorkers      int      `json:"needed_workers"`
	DesiredWorkers     int      `json:"desired_workers"`
}

// ScalingOf is GetScaling for parameters written as text: see scaling.Parse.
// Its error is the wire's.
func (s *Service) ScalingOf(ctx context.Context, params map[string]string) (Scaling, error) {
	q, err := scaling.Parse(params)
	if err != nil {
		return Scaling{}, s.fail(ctx, "GetScaling", err)
	}
	sig, err := s.engine.Scaling(ctx, q)
	if err != nil {
		return Scaling{}, s.fail(ctx, "GetScaling", err)
	}
	return Scaling{
		Queue: sig.Queue, Paused: sig.Paused, Scheduled: sig.Scheduled, Ready: sig.ReadyJobs, Running: sig.Running,
		OldestReadySeconds: sig.Oldest.Seconds(), ArrivalRate: sig.Rates.Arrivals, ServiceRate: sig.Rates.Services,
		RateWindowSeconds: sig.Rates.Window.Seconds(), BacklogSeconds: backlog(&sig),
		Workers: sig.Workers, Slots: sig.Facts.Slots, NeededWorkers: sig.Needed, DesiredWorkers: sig.Desired,
	}, nil
}
