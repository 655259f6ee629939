package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/job"
)

// queueView is a queue in stats and queues list.
type queueView struct {
	Queue     string `json:"queue"`
	Paused    bool   `json:"paused"`
	Route     string `json:"route"`
	Scheduled int64  `json:"scheduled"`
	Ready     int64  `json:"ready"`
	Running   int64  `json:"running"`
	Succeeded int64  `json:"succeeded"`
	Dead      int64  `json:"dead"`
	Cancelled int64  `json:"cancelled"`
	// OldestReadySeconds is the age of the oldest claimable job; 0 if none is ready.
	OldestReadySeconds float64 `json:"oldest_ready_seconds"`
	// Kinds are the kinds with ready jobs.
	Kinds []kindView `json:"kinds"`
}

type kindView struct {
	Kind             string `json:"kind"`
	Ready            int64  `json:"ready"`
	WaitingForWorker bool   `json:"waiting_for_worker"`
}

func newQueues(a *app) *cobra.Command {
	return group("queues", "List, pause, resume, route and size queues", newQueuesList(a), newQueuesRoute(a), newQueuesScaling(a),
		newQueuesPause(a, "pause", "Stop giving out jobs of a queue; it still takes new ones", (*errand.Client).Pause),
		newQueuesPause(a, "resume", "Give out jobs of a paused queue again", (*errand.Client).Resume))
}

func newQueuesList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List queues with their counts", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.stats(cmd.Context()) },
	}
}

func newStats(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "stats", Short: "Show how many jobs each queue keeps in each state", Args: noArgs,
		Long: `Show how many jobs each queue keeps in each state, and the age of its oldest
claimable job. Succeeded, dead and cancelled count what is kept now, not what
ever was.

With -o json: {"queues":[{"queue","paused","route","scheduled","ready","running",
"succeeded","dead","cancelled","oldest_ready_seconds","kinds":[…]}]}.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.stats(cmd.Context()) },
	}
}

func (a *app) stats(ctx context.Context) error {
	return a.withClient(func(c *errand.Client) error {
		queues, err := c.Queues(ctx)
		if err != nil {
			return err
		}
		views := make([]queueView, 0, len(queues))
		for _, q := range queues {
			views = append(views, queueViewOf(q))
		}
		answer := map[string][]queueView{"queues": views}
		return a.out.value(answer, func() { a.printQueues(queues) })
	})
}

func queueViewOf(q errand.QueueInfo) queueView {
	v := queueView{
		Queue: q.Queue, Paused: q.Paused, Route: q.Route, Scheduled: q.Scheduled, Ready: q.Ready, Running: q.Running,
		Succeeded: q.Succeeded, Dead: q.Dead, Cancelled: q.Cancelled, Kinds: []kindView{},
	}
	if q.OldestReady != nil {
		v.OldestReadySeconds = q.OldestReady.Seconds()
	}
	for _, k := range q.Kinds {
		v.Kinds = append(v.Kinds, kindView{k.Kind, k.Ready, k.WaitingForWorker})
	}
	return v
}

func (a *app) printQueues(queues []errand.QueueInfo) {
	if len(queues) == 0 {
		a.warnf("no queues yet: one is made by the first job enqueued to it")
		return
	}
	rows := make([][]string, len(queues))
	for i, q := range queues {
		oldest, note := "", []string(nil)
		if q.OldestReady != nil {
			oldest = age(*q.OldestReady)
		}
		if q.Paused {
			note = append(note, busyStyle.Render("paused"))
		}
		if q.Route != directRoute {
			note = append(note, "by "+q.Route)
		}
		for _, k := range q.Kinds {
			if k.WaitingForWorker {
				note = append(note, fmt.Sprintf("%d of %s wait for a worker", k.Ready, oneLine(k.Kind, 40)))
			}
		}
		rows[i] = []string{
			oneLine(q.Queue, 40), fmt.Sprint(q.Scheduled), fmt.Sprint(q.Ready), fmt.Sprint(q.Running),
			fmt.Sprint(q.Succeeded), fmt.Sprint(q.Dead), fmt.Sprint(q.Cancelled), oldest, strings.Join(note, ", "),
		}
	}
	a.out.table([]string{"QUEUE", ">SCHEDULED", ">READY", ">RUNNING", ">SUCCEEDED", ">DEAD", ">CANCELLED", ">OLDEST", "NOTE"}, rows)
}

func newQueuesPause(a *app, name, short string, act func(*errand.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: name + " QUEUE", Short: short, Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := job.CheckName("queue", args[0]); err != nil {
				return err
			}
			return a.withClient(func(c *errand.Client) error {
				if err := act(c, cmd.Context(), args[0]); err != nil {
					return err
				}
				answer := struct {
					Queue  string `json:"queue"`
					Paused bool   `json:"paused"`
				}{args[0], name == "pause"}
				return a.out.value(answer, func() { a.out.linef("%s %sd", args[0], name) })
			})
		},
	}
}

// The routes of a queue, as people write them.
const (
	directRoute  = "direct"
	defaultRoute = "default"
)

func newQueuesRoute(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "route QUEUE direct|rabbitmq|kafka|default", Short: "Say by which carrier a queue's jobs go",
		Long: `Say by which carrier a queue's jobs go from now on: straight from the ledger
(direct), by a broker that the server has (rabbitmq, kafka), or as the server was
started (default). Servers follow within a second or two; no job is lost or
doubled by the change, and jobs that run are not disturbed.

With -o json: {"queue","route"}.`,
		Args: exactArgs(2), ValidArgs: []string{directRoute, "rabbitmq", "kafka", defaultRoute},
		RunE: func(cmd *cobra.Command, args []string) error {
			queue, route := args[0], args[1]
			if err := job.CheckName("queue", queue); err != nil {
				return err
			}
			if route == "" {
				return usageError("the route is empty: say direct, rabbitmq, kafka or default")
			}
			if route == defaultRoute {
				route = ""
			}
			return a.withClient(func(c *errand.Client) error {
				if err := c.Route(cmd.Context(), queue, route); err != nil {
					return err
				}
				answer := struct {
					Queue string `json:"queue"`
					Route string `json:"route"`
				}{queue, args[1]}
				return a.out.value(answer, func() { a.out.linef("%s goes by %s", queue, args[1]) })
			})
		},
	}
}
