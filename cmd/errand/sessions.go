package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
)

type sessionView struct {
	ID          string     `json:"id"`
	Worker      string     `json:"worker"`
	Version     string     `json:"version"`
	State       string     `json:"state"`
	Queues      []string   `json:"queues"`
	Kinds       []string   `json:"kinds"` // empty: every kind
	Concurrency int        `json:"concurrency"`
	Running     int        `json:"running"`
	OpenedAt    *time.Time `json:"opened_at"`
	RenewedAt   *time.Time `json:"renewed_at"`
}

func newSessions(a *app) *cobra.Command {
	return group("sessions", "Look at worker processes", &cobra.Command{
		Use: "list", Short: "List the worker processes of now and of the last hour", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *errand.Client) error {
				sessions, err := c.Sessions(cmd.Context())
				if err != nil {
					return err
				}
				views := make([]sessionView, 0, len(sessions))
				for _, s := range sessions {
					views = append(views, sessionView{
						ID: s.ID.String(), Worker: s.Worker, Version: s.Version, State: s.State,
						Queues: nonNil(s.Queues), Kinds: nonNil(s.Kinds), Concurrency: s.Concurrency, Running: s.Running,
						OpenedAt: moment(s.OpenedAt), RenewedAt: moment(s.RenewedAt),
					})
				}
				return a.out.value(map[string][]sessionView{"sessions": views}, func() { a.printSessions(views) })
			})
		},
	})
}

func (a *app) printSessions(sessions []sessionView) {
	if len(sessions) == 0 {
		a.warnf("no workers")
		return
	}
	now := time.Now()
	rows := make([][]string, len(sessions))
	for i, s := range sessions {
		kinds := "every kind"
		if len(s.Kinds) > 0 {
			kinds = strings.Join(s.Kinds, ",")
		}
		rows[i] = []string{
			s.ID, oneLine(s.Worker, 32), stateText(s.State), fmt.Sprintf("%d/%d", s.Running, s.Concurrency),
			oneLine(strings.Join(s.Queues, ","), 32), oneLine(kinds, 40), since(s.OpenedAt, now), since(s.RenewedAt, now),
		}
	}
	a.out.table([]string{"ID", "WORKER", "STATE", ">BUSY", "QUEUES", "KINDS", ">AGE", ">RENEWED"}, rows)
}

func since(t *time.Time, now time.Time) string {
	if t == nil {
		return ""
	}
	return age(now.Sub(*t))
}
