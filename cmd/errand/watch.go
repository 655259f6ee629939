package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
)

// eventView is one line of jobs watch.
type eventView struct {
	ID       string          `json:"id"`
	Queue    string          `json:"queue"`
	Kind     string          `json:"kind"`
	State    string          `json:"state"` // deleted: there is no such job, or not any more
	Reason   string          `json:"reason"`
	Attempt  int             `json:"attempt"`
	Version  int64           `json:"version"`
	At       *time.Time      `json:"at"`
	Progress json.RawMessage `json:"progress"`
	Lagged   bool            `json:"lagged"`
}

const watchLong = `Tell what becomes of jobs, as it happens, a line for each change.

With IDs it begins with the state of each, and ends when all of them are final
or gone. Without, it tells what happens from now on, in all queues or in one, until Ctrl-C.

With -o json each line is an object {"id","queue","kind","state","reason","attempt",
"version","at","progress","lagged"}. lagged, alone, says that events were left out.`

func newJobsWatch(a *app) *cobra.Command {
	var q errand.WatchQuery
	cmd := &cobra.Command{
		Use: "watch [ID…]", Short: "Tell what becomes of jobs, as it happens", Long: watchLong,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				id, err := parseID(arg)
				if err != nil {
					return err
				}
				q.IDs = append(q.IDs, id)
			}
			if len(args) > 0 && (q.Queue != "" || q.Kind != "") {
				return usageError("jobs are watched by their ids, or by --queue and --kind, not both")
			}
			return a.watch(cmd.Context(), q)
		},
	}
	cmd.Flags().StringVar(&q.Queue, "queue", "", "only jobs of this queue")
	cmd.Flags().StringVar(&q.Kind, "kind", "", "only jobs of this kind")
	return cmd
}

func (a *app) watch(ctx context.Context, q errand.WatchQuery) error {
	c, _, err := a.patientClient(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for e, err := range c.Watch(ctx, q) {
		if err != nil {
			return err
		}
		if err := a.printEvent(&e); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printEvent(e *errand.Event) error {
	v := eventView{
		Queue: e.Queue, Kind: e.Kind, State: string(e.State), Reason: e.Reason,
		Attempt: e.Attempt, Version: e.Version, At: moment(e.At), Lagged: e.Lagged,
	}
	if !e.ID.IsZero() {
		v.ID = e.ID.String()
	}
	if e.Deleted {
		v.State = "deleted"
	}
	v.Progress, _ = jsonValue(e.Progress, true)
	return a.out.value(v, func() {
		if e.Lagged {
			a.warnf("events were left out")
			return
		}
		line := fmt.Sprintf("%s  %s  %-9s  %s  %s", e.At.Local().Format(time.TimeOnly), v.ID, stateText(v.State), printable(e.Queue), printable(e.Kind))
		if e.Attempt > 0 {
			line += fmt.Sprintf("  attempt %d", e.Attempt)
		}
		if len(e.Progress) > 0 {
			line += "  " + dataText(e.Progress, true)
		}
		if v.Reason != "" {
			line += "  (" + v.Reason + ")"
		}
		a.out.linef("%s", line)
	})
}
