package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
)

// stateView is what jobs get --state prints.
type stateView struct {
	ID          string          `json:"id"`
	Queue       string          `json:"queue"`
	Kind        string          `json:"kind"`
	State       string          `json:"state"`
	Reason      string          `json:"reason"`
	Priority    int             `json:"priority"`
	Attempt     int             `json:"attempt"`
	MaxAttempts int             `json:"max_attempts"`
	Crashes     int             `json:"crashes"`
	RunAt       *time.Time      `json:"run_at"`
	Progress    json.RawMessage `json:"progress"`
	Token       int64           `json:"token"`
	Version     int64           `json:"version"`
	AgeSeconds  float64         `json:"age_seconds"`
}

func newJobsGet(a *app) *cobra.Command {
	var state, fresh bool
	cmd := &cobra.Command{
		Use: "get ID", Short: "Show a job with its payload, result and errors", Args: exactArgs(1),
		Long: `Show a job with its payload, result and errors, as the ledger has it.

With --state only its state is shown, fast, from the servers' cache where that
has it: at most a second old, or final. --fresh asks the ledger for that too.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseID(args[0])
			if err != nil {
				return err
			}
			return a.withClient(func(c *errand.Client) error {
				if state && !fresh {
					return a.showState(cmd.Context(), c, id)
				}
				j, err := c.Job(cmd.Context(), id)
				if err != nil {
					return err
				}
				if state {
					return a.printState(j.Status())
				}
				return a.out.value(viewOf(j), func() { a.printJob(j) })
			})
		},
	}
	cmd.Flags().BoolVar(&state, "state", false, "only the state, from the cache if it has it")
	cmd.Flags().BoolVar(&fresh, "fresh", false, "ask the ledger, whatever a cache has; without --state it always is")
	return cmd
}

func (a *app) showState(ctx context.Context, c *errand.Client, id errand.ID) error {
	states, err := c.States(ctx, id)
	if err != nil {
		return err
	}
	if len(states) == 0 {
		return &exitError{code: exitNotFound, err: fmt.Errorf("no job %s", id)}
	}
	return a.printState(states[0])
}

func (a *app) printState(s errand.JobState) error {
	progress, _ := jsonValue(s.Progress, true)
	v := stateView{
		ID: s.ID.String(), Queue: s.Queue, Kind: s.Kind, State: string(s.State), Reason: s.Reason, Priority: s.Priority,
		Attempt: s.Attempt, MaxAttempts: s.MaxAttempts, Crashes: s.Crashes, RunAt: moment(s.RunAt), Progress: progress,
		Token: s.Token, Version: s.Version, AgeSeconds: s.Age.Seconds(),
	}
	return a.out.value(v, func() {
		text := stateText(v.State)
		if v.Reason != "" {
			text += " (" + v.Reason + ")"
		}
		pairs := [][2]string{
			{"id", v.ID}, {"queue", printable(v.Queue)}, {"kind", printable(v.Kind)}, {"state", text},
			{"attempt", fmt.Sprintf("%d of %d, %d crashes", v.Attempt, v.MaxAttempts, v.Crashes)},
		}
		if len(s.Progress) > 0 {
			pairs = append(pairs, [2]string{"progress", dataText(s.Progress, true)})
		}
		a.out.pairs(append(pairs, [2]string{"as of", ago(s.Age)}))
	})
}
