package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/job"
)

const insightsLong = `Show what became of jobs lately: the slowest kinds, how long they waited and ran,
how attempts failed, what retries cost, the busiest hours, and how many slots
each queue needs so that 99 % of attempts begin within --target-wait at its peak
(a slot is a job that a worker takes at a time: see its concurrency).

The numbers are added up by the hour as jobs go, so asking costs little. They
begin with the hour that --since lies in.

With -o json: {"from","until","target_wait_seconds","kinds":[…],"queues":[…],
"hours":[…],"failures":[…]}; every time of a distribution is in seconds.`

// insightsView is the answer of insights.
type insightsView struct {
	From              *time.Time           `json:"from"`
	Until             *time.Time           `json:"until"`
	TargetWaitSeconds float64              `json:"target_wait_seconds"`
	Kinds             []kindInsightView    `json:"kinds"`
	Queues            []queueInsightView   `json:"queues"`
	Hours             []hourInsightView    `json:"hours"`
	Failures          []failureInsightView `json:"failures"`
}

type insightCountsView struct {
	Arrived       int64   `json:"arrived"`
	Started       int64   `json:"started"`
	Succeeded     int64   `json:"succeeded"`
	Failed        int64   `json:"failed"`
	Discarded     int64   `json:"discarded"`
	Snoozed       int64   `json:"snoozed"`
	Released      int64   `json:"released"`
	Crashed       int64   `json:"crashed"`
	Cancelled     int64   `json:"cancelled"`
	Expired       int64   `json:"expired"`
	Dead          int64   `json:"dead"`
	BusySeconds   float64 `json:"busy_seconds"`
	WastedSeconds float64 `json:"wasted_seconds"`
}

type timesView struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
}

type kindInsightView struct {
	Queue string `json:"queue"`
	Kind  string `json:"kind"`
	insightCountsView
	WaitSeconds *timesView `json:"wait_seconds"` // null: nothing waited
	RunSeconds  *timesView `json:"run_seconds"`
}

type queueInsightView struct {
	Queue          string     `json:"queue"`
	Peak           *time.Time `json:"peak"`
	PeakRate       float64    `json:"peak_rate"`
	MeanRunSeconds float64    `json:"mean_run_seconds"`
	PeakLoad       float64    `json:"peak_load"`
	SlotsNeeded    int        `json:"slots_needed"`
	WaitSeconds    *timesView `json:"wait_seconds"`
}

type hourInsightView struct {
	Start *time.Time `json:"start"`
	insightCountsView
}

type failureInsightView struct {
	Queue       string     `json:"queue"`
	Kind        string     `json:"kind"`
	Pattern     string     `json:"pattern"`
	Fingerprint string     `json:"fingerprint"`
	Count       int64      `json:"count"`
	FirstSeen   *time.Time `json:"first_seen"`
	LastSeen    *time.Time `json:"last_seen"`
}

func newInsights(a *app) *cobra.Command {
	q := errand.InsightsQuery{Since: 24 * time.Hour, TargetWait: time.Minute}
	cmd := &cobra.Command{
		Use: "insights", Short: "Show what became of jobs lately", Long: insightsLong, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkInsights(q); err != nil {
				return err
			}
			return a.insights(cmd.Context(), q)
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.Queue, "queue", "", "of one queue (default: all)")
	f.Var((*durationFlag)(&q.Since), "since", "how far back")
	f.Var((*durationFlag)(&q.TargetWait), "target-wait", "how long attempts may wait")
	f.IntVar(&q.Limit, "limit", 10, "entries of each list")
	return cmd
}

func checkInsights(q errand.InsightsQuery) error {
	switch {
	case q.Since == 0 || q.TargetWait == 0:
		return usageError("--since and --target-wait are more than nothing")
	case q.Limit < 1 || q.Limit > job.MaxPage:
		return usageError("--limit is %d; it is 1 to %d", q.Limit, job.MaxPage)
	case q.Queue != "":
		if err := job.CheckName("queue", q.Queue); err != nil {
			return usageError("--queue: %w", err)
		}
	}
	return nil
}

func (a *app) insights(ctx context.Context, q errand.InsightsQuery) error {
	return a.withClient(func(c *errand.Client) error {
		in, err := c.Insights(ctx, q)
		if err != nil {
			return err
		}
		return a.out.value(insightsViewOf(in), func() { a.printInsights(in) })
	})
}

func insightsViewOf(in *errand.Insights) insightsView {
	v := insightsView{
		From: moment(in.From), Until: moment(in.Until), TargetWaitSeconds: in.TargetWait.Seconds(),
		Kinds: []kindInsightView{}, Queues: []queueInsightView{}, Hours: []hourInsightView{}, Failures: []failureInsightView{},
	}
	for _, k := range in.Kinds {
		v.Kinds = append(v.Kinds, kindInsightView{k.Queue, k.Kind, countsViewOf(k.Counts), timesViewOf(k.Wait), timesViewOf(k.Run)})
	}
	for _, q := range in.Queues {
		v.Queues = append(v.Queues, queueInsightView{
			q.Queue, moment(q.Peak), q.PeakRate, q.MeanRun.Seconds(), q.PeakLoad, q.SlotsNeeded, timesViewOf(q.Wait),
		})
	}
	for _, h := range in.Hours {
		v.Hours = append(v.Hours, hourInsightView{moment(h.Start), countsViewOf(h.Counts)})
	}
	for _, f := range in.Failures {
		v.Failures = append(v.Failures, failureInsightView{
			f.Queue, f.Kind, f.Pattern, f.Fingerprint, f.Count, moment(f.FirstSeen), moment(f.LastSeen),
		})
	}
	return v
}

func countsViewOf(c errand.InsightCounts) insightCountsView {
	return insightCountsView{
		c.Arrived, c.Started, c.Succeeded, c.Failed, c.Discarded, c.Snoozed, c.Released, c.Crashed,
		c.Cancelled, c.Expired, c.Dead, c.Busy.Seconds(), c.Wasted.Seconds(),
	}
}

func timesViewOf(t *errand.InsightTimes) *timesView {
	if t == nil {
		return nil
	}
	return &timesView{t.Mean.Seconds(), t.P50.Seconds(), t.P95.Seconds(), t.P99.Seconds()}
}

func (a *app) printInsights(in *errand.Insights) {
	if len(in.Kinds) == 0 && len(in.Failures) == 0 {
		a.warnf("nothing happened since %s", in.From.Local().Format(time.DateTime))
		return
	}
	a.out.linef("since %s\n", in.From.Local().Format(time.DateTime))
	a.printKinds(in.Kinds)
	a.printSlots(in)
	a.printHours(in.Hours)
	a.printFailures(in.Failures)
}

func (a *app) printKinds(kinds []errand.KindInsight) {
	rows := make([][]string, len(kinds))
	for i, k := range kinds {
		c := k.Counts
		rows[i] = append([]string{oneLine(k.Queue, 32), oneLine(k.Kind, 40), fmt.Sprint(c.Started), fmt.Sprint(c.Failed + c.Discarded + c.Crashed), fmt.Sprint(c.Dead)},
			append(threeTimes(k.Wait), append(threeTimes(k.Run), span(c.Wasted))...)...)
	}
	a.out.table([]string{"QUEUE", "SLOWEST KINDS", ">STARTED", ">FAILED", ">DEAD",
		">WAIT P50", ">P95", ">P99", ">RUN P50", ">P95", ">P99", ">WASTED"}, rows)
}

func (a *app) printSlots(in *errand.Insights) {
	rows := make([][]string, len(in.Queues))
	for i, q := range in.Queues {
		rows[i] = []string{
			oneLine(q.Queue, 32), q.Peak.Local().Format("Mon 15:04"), fmt.Sprintf("%.3g/s", q.PeakRate), span(q.MeanRun),
			fmt.Sprintf("%.1f", q.PeakLoad), fmt.Sprint(q.SlotsNeeded),
		}
	}
	a.out.linef("\nSlots needed to begin 99 %% of attempts within %s:\n", in.TargetWait)
	a.out.table([]string{"QUEUE", "PEAK", ">ATTEMPTS", ">MEAN RUN", ">BUSY", ">SLOTS"}, rows)
}

func (a *app) printHours(hours []errand.HourInsight) {
	rows := make([][]string, len(hours))
	for i, h := range hours {
		rows[i] = []string{
			h.Start.Local().Format("Mon 2006-01-02 15:04"), fmt.Sprint(h.Counts.Arrived), fmt.Sprint(h.Counts.Started),
			span(h.Counts.Busy), span(h.Counts.Wasted),
		}
	}
	a.out.linef("")
	a.out.table([]string{"BUSIEST HOURS", ">ARRIVED", ">STARTED", ">WORKER TIME", ">WASTED"}, rows)
}

func (a *app) printFailures(failures []errand.FailureInsight) {
	if len(failures) == 0 {
		return
	}
	now := time.Now()
	rows := make([][]string, len(failures))
	for i, f := range failures {
		rows[i] = []string{
			fmt.Sprint(f.Count), oneLine(f.Queue, 24), oneLine(f.Kind, 32),
			since(moment(f.FirstSeen), now), since(moment(f.LastSeen), now), oneLine(f.Pattern, 80),
		}
	}
	a.out.linef("")
	a.out.table([]string{">FAILURES", "QUEUE", "KIND", ">FIRST", ">LAST", "ALIKE"}, rows)
}

// threeTimes are the percentiles of a distribution, blank if there is none.
func threeTimes(t *errand.InsightTimes) []string {
	if t == nil {
		return []string{"", "", ""}
	}
	return []string{span(t.P50), span(t.P95), span(t.P99)}
}

// span is a length of time with as many digits as matter.
func span(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < time.Millisecond:
		return fmt.Sprintf("%.2gms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return age(d)
}
