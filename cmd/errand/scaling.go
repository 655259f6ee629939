package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/api"
	"github.com/errandhq/errand/job"
)

const scalingLong = `Say how many workers a queue needs, as an autoscaler is told:

  needed = ⌈(running + backlog / target wait) / concurrency⌉

where the backlog is the ready jobs times the run time of their kind. While
that is not known, the number of workers is held.

With -o json: {"queue","paused","scheduled","ready","running",
"oldest_ready_seconds","arrival_rate","service_rate","rate_window_seconds",
"backlog_seconds","workers","slots","needed_workers","desired_workers"}.`

func newQueuesScaling(a *app) *cobra.Command {
	q := errand.ScalingQuery{TargetWait: time.Minute}
	cmd := &cobra.Command{
		Use: "scaling QUEUE", Short: "Say how many workers a queue needs", Long: scalingLong, Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Queue = args[0]
			if err := checkScaling(q, cmd.Flags().Changed("max")); err != nil {
				return err
			}
			return a.scaling(cmd.Context(), q)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&q.Kinds, "kinds", nil, "kinds that these workers take (default: all)")
	f.Var((*durationFlag)(&q.TargetWait), "target-wait", "within which what is ready is to be begun")
	f.IntVar(&q.Min, "min", 0, "workers, at least")
	f.IntVar(&q.Max, "max", 0, "workers, at most (default: 100, or --min if that is more)")
	f.IntVar(&q.Concurrency, "concurrency", 10, "jobs that a worker takes at a time")
	return cmd
}

// checkScaling keeps from the wire what it would take for a default.
func checkScaling(q errand.ScalingQuery, bounded bool) error {
	if err := job.CheckName("queue", q.Queue); err != nil {
		return err
	}
	if q.TargetWait == 0 || q.Concurrency == 0 || bounded && q.Max == 0 {
		return usageError("--target-wait, --concurrency and --max are more than nothing")
	}
	return nil
}

func (a *app) scaling(ctx context.Context, q errand.ScalingQuery) error {
	return a.withClient(func(c *errand.Client) error {
		s, err := c.Scaling(ctx, q)
		if err != nil {
			return err
		}
		return a.out.value(scalingViewOf(s), func() { a.printScaling(s) })
	})
}

// scalingViewOf is the answer of GET /v1/scaling.
func scalingViewOf(s *errand.Scaling) api.Scaling {
	v := api.Scaling{
		Queue: s.Queue, Paused: s.Paused, Scheduled: s.Scheduled, Ready: s.Ready, Running: s.Running,
		OldestReadySeconds: s.OldestReady.Seconds(), ArrivalRate: s.ArrivalRate, ServiceRate: s.ServiceRate,
		RateWindowSeconds: s.RateWindow.Seconds(), Workers: s.Workers, Slots: s.Slots,
		NeededWorkers: s.NeededWorkers, DesiredWorkers: s.DesiredWorkers,
	}
	if s.Backlog != nil {
		seconds := s.Backlog.Seconds()
		v.BacklogSeconds = &seconds
	}
	return v
}

func (a *app) printScaling(s *errand.Scaling) {
	var note []string
	backlog := "not known yet"
	if s.Backlog != nil {
		backlog = age(*s.Backlog)
	}
	if s.Paused {
		note = append(note, busyStyle.Render("paused"))
	}
	if s.DesiredWorkers != s.NeededWorkers {
		note = append(note, fmt.Sprintf("%d are needed", s.NeededWorkers))
	}
	a.out.table([]string{"QUEUE", ">DESIRED", ">WORKERS", ">SLOTS", ">RUNNING", ">READY", ">BACKLOG", ">OLDEST", ">IN /S", ">OUT /S", "NOTE"}, [][]string{{
		oneLine(s.Queue, 40), fmt.Sprint(s.DesiredWorkers), fmt.Sprint(s.Workers), fmt.Sprint(s.Slots), fmt.Sprint(s.Running), fmt.Sprint(s.Ready),
		backlog, age(s.OldestReady), fmt.Sprintf("%.1f", s.ArrivalRate), fmt.Sprintf("%.1f", s.ServiceRate), strings.Join(note, ", "),
	}})
}
