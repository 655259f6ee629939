package errand

import (
	"context"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// InsightsQuery asks for Insights. Zero fields get their defaults.
type InsightsQuery struct {
	Queue      string        // all
	Since      time.Duration // 24 h; whole hours are told of
	TargetWait time.Duration // 1 min: how long attempts may wait, for QueueInsight.SlotsNeeded
	Limit      int           // of each list: 20, at most 1000
}

// Insights is what became of jobs since From. The server adds it up by the hour
// as it goes; a crash of a server loses its last ten seconds.
type Insights struct {
	From, Until time.Time
	TargetWait  time.Duration
	Kinds       []KindInsight    // the slowest first, by the 95th percentile of their runs
	Queues      []QueueInsight   // those that need most slots first
	Hours       []HourInsight    // the busiest first
	Failures    []FailureInsight // the most frequent first
}

// InsightCounts says how often what happened.
type InsightCounts struct {
	Arrived                                                           int64         // jobs that became ready: new ones, those whose time had come, retries
	Started, Succeeded, Failed, Discarded, Snoozed, Released, Crashed int64         // attempts
	Cancelled, Expired, Dead                                          int64         // jobs
	Busy                                                              time.Duration // worker time of all attempts
	Wasted                                                            time.Duration // of it: attempts that failed, crashed or were given back
}

// InsightTimes is a distribution; percentiles are within 2 % of the truth.
type InsightTimes struct {
	Mean, P50, P95, P99 time.Duration
}

// KindInsight tells of the jobs of one kind in one queue.
type KindInsight struct {
	Queue  string
	Kind   string // "other" for those beyond the server's bound
	Counts InsightCounts
	Wait   *InsightTimes // from when a job could be taken to its lease; nil if there were none
	Run    *InsightTimes // of attempts that succeeded, failed or were discarded; nil if there were none
}

// QueueInsight says how many slots a queue needs.
type QueueInsight struct {
	Queue       string
	Peak        time.Time // the hour that asked for most attempts
	PeakRate    float64   // of attempts, a second, in it
	MeanRun     time.Duration
	PeakLoad    float64 // slots busy on average at that rate
	SlotsNeeded int     // so that 99 % of attempts begin within TargetWait at that rate
	Wait        *InsightTimes
}

// HourInsight tells of one hour.
type HourInsight struct {
	Start  time.Time
	Counts InsightCounts
}

// FailureInsight is a group of attempts that failed alike.
type FailureInsight struct {
	Queue, Kind string
	Pattern     string // what the messages have in common: # for numbers and ids, "…" for what was quoted
	Fingerprint string // a short name of the pattern
	Count       int64
	FirstSeen   time.Time // since Insights.From
	LastSeen    time.Time
}

// Insights asks the server what became of jobs lately.
func (c *Client) Insights(ctx context.Context, q InsightsQuery) (*Insights, error) {
	r, err := call(ctx, c, c.svc.GetInsights, &errandv1.GetInsightsRequest{
		Queue: q.Queue, Since: wireDuration(q.Since), TargetWait: wireDuration(q.TargetWait), Limit: clampInt32(q.Limit),
	})
	if err != nil {
		return nil, err
	}
	out := &Insights{From: timeOf(r.GetFrom()), Until: timeOf(r.GetUntil()), TargetWait: durationOf(r.GetTargetWait())}
	for _, k := range r.GetKinds() {
		out.Kinds = append(out.Kinds, KindInsight{
			Queue: k.GetQueue(), Kind: k.GetKind(), Counts: insightCounts(k.GetCounts()),
			Wait: insightTimes(k.GetWait()), Run: insightTimes(k.GetRun()),
		})
	}
	for _, q := range r.GetQueues() {
		out.Queues = append(out.Queues, QueueInsight{
			Queue: q.GetQueue(), Peak: timeOf(q.GetPeak()), PeakRate: q.GetPeakRate(), MeanRun: durationOf(q.GetMeanRun()),
			PeakLoad: q.GetPeakLoad(), SlotsNeeded: int(q.GetSlotsNeeded()), Wait: insightTimes(q.GetWait()),
		})
	}
	for _, h := range r.GetHours() {
		out.Hours = append(out.Hours, HourInsight{Start: timeOf(h.GetStart()), Counts: insightCounts(h.GetCounts())})
	}
	for _, f := range r.GetFailures() {
		out.Failures = append(out.Failures, FailureInsight{
			Queue: f.GetQueue(), Kind: f.GetKind(), Pattern: f.GetPattern(), Fingerprint: f.GetFingerprint(),
			Count: f.GetCount(), FirstSeen: timeOf(f.GetFirstSeen()), LastSeen: timeOf(f.GetLastSeen()),
		})
	}
	return out, nil
}

func insightCounts(c *errandv1.CountsInsight) InsightCounts {
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	return InsightCounts{
		Arrived: c.GetArrived(), Started: c.GetStarted(), Succeeded: c.GetSucceeded(), Failed: c.GetFailed(),
		Discarded: c.GetDiscarded(), Snoozed: c.GetSnoozed(), Released: c.GetReleased(), Crashed: c.GetCrashed(),
		Cancelled: c.GetCancelled(), Expired: c.GetExpired(), Dead: c.GetDead(),
		Busy: seconds(c.GetBusySeconds()), Wasted: seconds(c.GetWastedSeconds()),
	}
}

func insightTimes(t *errandv1.TimesInsight) *InsightTimes {
	if t == nil {
		return nil
	}
	return &InsightTimes{Mean: durationOf(t.GetMean()), P50: durationOf(t.GetP50()), P95: durationOf(t.GetP95()), P99: durationOf(t.GetP99())}
}
