package api

import (
	"context"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/internal/insight"
	"github.com/errandhq/errand/job"
)

// The defaults and bounds of GetInsights.
const (
	insightsSince  = 24 * time.Hour
	insightsTarget = time.Minute
	insightsLimit  = 20
)

// GetInsights tells what became of jobs lately.
func (s *Service) GetInsights(ctx context.Context, r *errandv1.GetInsightsRequest) (*errandv1.GetInsightsResponse, error) {
	q, err := decodeInsights(r)
	if err != nil {
		return nil, s.fail(ctx, "GetInsights", err)
	}
	report, err := s.engine.Insights(ctx, q)
	if err != nil {
		return nil, s.fail(ctx, "GetInsights", err)
	}
	return encodeInsights(&report, q.Target), nil
}

func decodeInsights(r *errandv1.GetInsightsRequest) (q insight.Query, err error) {
	q = insight.Query{Queue: r.GetQueue(), Since: insightsSince, Target: insightsTarget, Most: insightsLimit}
	if q.Queue != "" {
		if err := job.CheckName("queue", q.Queue); err != nil {
			return q, err
		}
	}
	if r.GetSince() != nil {
		if q.Since, err = duration("since", r.GetSince()); err != nil {
			return q, err
		}
	}
	if r.GetTargetWait() != nil {
		if q.Target, err = duration("target_wait", r.GetTargetWait()); err != nil {
			return q, err
		}
	}
	switch n := int(r.GetLimit()); {
	case n < 0 || n > job.MaxPage:
		return q, badField("limit", "%d is not between 1 and %d", n, job.MaxPage)
	case n > 0:
		q.Most = n
	}
	return q, nil
}

func encodeInsights(r *insight.Report, target time.Duration) *errandv1.GetInsightsResponse {
	out := &errandv1.GetInsightsResponse{From: encodeTime(r.From), Until: encodeTime(r.Until), TargetWait: encodeDuration(target)}
	for i := range r.Kinds {
		k := &r.Kinds[i]
		out.Kinds = append(out.Kinds, &errandv1.KindInsight{
			Queue: k.Queue, Kind: k.Kind, Counts: encodeCounts(k.Counts, k.Work), Wait: encodeTimes(k.Wait), Run: encodeTimes(k.Run),
		})
	}
	for i := range r.Queues {
		q := &r.Queues[i]
		out.Queues = append(out.Queues, &errandv1.QueueInsight{
			Queue: q.Queue, Peak: encodeTime(q.Peak), PeakRate: q.Rate, MeanRun: encodeDuration(q.Run),
			PeakLoad: q.Load, SlotsNeeded: int32(q.Slots), Wait: encodeTimes(q.Wait),
		})
	}
	for i := range r.Hours {
		h := &r.Hours[i]
		out.Hours = append(out.Hours, &errandv1.HourInsight{Start: encodeTime(h.Start), Counts: encodeCounts(h.Counts, h.Work)})
	}
	for _, f := range r.Failures {
		out.Failures = append(out.Failures, &errandv1.FailureInsight{
			Queue: f.Queue, Kind: f.Kind, Pattern: f.Pattern, Fingerprint: f.Fingerprint,
			Count: f.Count, FirstSeen: encodeTime(f.First), LastSeen: encodeTime(f.Last),
		})
	}
	return out
}

func encodeCounts(c insight.Counts, w insight.Work) *errandv1.CountsInsight {
	return &errandv1.CountsInsight{
		Arrived: c.Arrived, Started: c.Started, Succeeded: c.Succeeded, Failed: c.Failed, Discarded: c.Discarded,
		Snoozed: c.Snoozed, Released: c.Released, Crashed: c.Crashed, Cancelled: c.Cancelled, Expired: c.Expired, Dead: c.Dead,
		BusySeconds: w.Busy.Seconds(), WastedSeconds: w.Wasted.Seconds(),
	}
}

// encodeTimes leaves out a distribution of nothing.
func encodeTimes(t insight.Times) *errandv1.TimesInsight {
	if t == (insight.Times{}) {
		return nil
	}
	return &errandv1.TimesInsight{
		Mean: encodeDuration(t.Mean), P50: encodeDuration(t.P50), P95: encodeDuration(t.P95), P99: encodeDuration(t.P99),
	}
}
