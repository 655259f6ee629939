package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/job"
)

func newJobs(a *app) *cobra.Command {
	return group("jobs", "Look at jobs, and act on single ones",
		newJobsList(a), newJobsGet(a), newJobsWait(a), newJobsWatch(a),
		newJobsAct(a, "cancel", "Cancel a job; a running one is asked to stop", (*errand.Client).Cancel),
		newJobsAct(a, "retry", "Send a dead letter back to work, with all its attempts before it", retryJob),
		newJobsAct(a, "delete", "Remove a job in any state but running", deleteJob),
	)
}

// listFlags are the filters of jobs list and dead list.
type listFlags struct {
	q     errand.ListQuery
	limit int
}

func (l *listFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&l.q.Queue, "queue", "", "only this queue")
	f.StringVar(&l.q.Kind, "kind", "", "only this kind")
	f.StringVar(&l.q.Tag, "tag", "", "only with this tag")
	f.IntVar(&l.limit, "limit", 100, "at most so many")
	f.StringVar(&l.q.PageToken, "page-token", "", "continue a list: next_page_token of the answer before")
}

func newJobsList(a *app) *cobra.Command {
	var l listFlags
	var state string
	cmd := &cobra.Command{
		Use: "list", Short: "List jobs, newest first", Args: noArgs,
		Long: "List jobs, newest first, without payload and result.\n\nWith -o json: {\"jobs\":[…],\"next_page_token\"}.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if state != "" {
				if _, err := job.ParseState(state); err != nil {
					return usageError("--state: %w", err)
				}
			}
			l.q.State = errand.State(state)
			return a.list(cmd.Context(), l)
		},
	}
	l.register(cmd)
	cmd.Flags().StringVar(&state, "state", "", "only in this state: scheduled, ready, running, succeeded, dead, cancelled")
	return cmd
}

// list prints the jobs of a query, from as many pages as the limit needs.
func (a *app) list(ctx context.Context, l listFlags) error {
	if l.limit < 1 {
		return usageError("--limit is %d; it is at least 1", l.limit)
	}
	return a.withClient(func(c *errand.Client) error {
		var jobs []*errand.JobInfo
		for {
			l.q.PageSize = min(l.limit-len(jobs), job.MaxPage)
			page, err := c.ListPage(ctx, l.q)
			if err != nil {
				return err
			}
			jobs = append(jobs, page.Jobs...)
			l.q.PageToken = page.NextPageToken
			if page.NextPageToken == "" || len(jobs) >= l.limit {
				break
			}
		}
		answer := struct {
			Jobs []jobLine `json:"jobs"`
			Next string    `json:"next_page_token"`
		}{linesOf(jobs), l.q.PageToken}
		return a.out.value(answer, func() { a.printJobs(jobs, l.q.PageToken) })
	})
}

func (a *app) printJobs(jobs []*errand.JobInfo, next string) {
	if len(jobs) == 0 {
		a.warnf("no jobs")
		return
	}
	now := time.Now()
	rows := make([][]string, len(jobs))
	for i, j := range jobs {
		note := oneLine(j.Reason, 20)
		if n := len(j.Errors); n > 0 {
			note = oneLine(j.Errors[n-1].Message, 60)
		}
		rows[i] = []string{
			j.ID.String(), oneLine(j.Queue, 24), oneLine(j.Kind, 32), stateText(string(j.State)),
			fmt.Sprint(j.Priority), fmt.Sprintf("%d/%d", j.Attempt, j.MaxAttempts),
			age(now.Sub(j.CreatedAt)), when(j, now), note,
		}
	}
	a.out.table([]string{"ID", "QUEUE", "KIND", "STATE", ">PRIO", ">TRY", ">AGE", ">SINCE", "NOTE"}, rows)
	if next != "" {
		a.warnf("there are more: raise --limit, or continue with --page-token %s", next)
	}
}

// when is how long the job has been in its state, or until it runs.
func when(j *errand.JobInfo, now time.Time) string {
	switch {
	case !j.DoneAt.IsZero():
		return age(now.Sub(j.DoneAt))
	case j.State == errand.Running:
		return age(now.Sub(j.LeasedAt))
	case j.RunAt.IsZero():
		return ""
	default:
		return age(now.Sub(j.RunAt))
	}
}

func parseID(s string) (errand.ID, error) {
	id, err := errand.ParseID(s)
	if err != nil {
		return id, &exitError{code: exitUsage, err: err}
	}
	return id, nil
}

func (a *app) printJob(j *errand.JobInfo) {
	now := time.Now()
	state := stateText(string(j.State))
	if j.Reason != "" {
		state += " (" + j.Reason + ")"
	}
	if j.CancelRequested {
		state += ", cancellation asked for"
	}
	pairs := [][2]string{
		{"id", j.ID.String()}, {"queue", printable(j.Queue)}, {"kind", printable(j.Kind)}, {"state", state},
		{"priority", fmt.Sprint(j.Priority)},
		{"attempt", fmt.Sprintf("%d of %d, %d crashes", j.Attempt, j.MaxAttempts, j.Crashes)},
	}
	for _, t := range []struct {
		name string
		at   time.Time
	}{{"created", j.CreatedAt}, {"run at", j.RunAt}, {"leased", j.LeasedAt}, {"done", j.DoneAt}, {"expires", j.ExpiresAt}} {
		if !t.at.IsZero() {
			pairs = append(pairs, [2]string{t.name, t.at.Local().Format(time.RFC3339) + " (" + ago(now.Sub(t.at)) + ")"})
		}
	}
	if j.UniqueKey != "" {
		pairs = append(pairs, [2]string{"unique", printable(j.UniqueKey) + " " + string(j.UniqueMode)})
	}
	for _, t := range j.Tags {
		pairs = append(pairs, [2]string{"tag", printable(t)})
	}
	for _, b := range []struct {
		name string
		data []byte
		json bool
	}{{"payload", j.Payload, jsonType(j.ContentType)}, {"progress", j.Progress, true}, {"result", j.Result, true}} {
		if len(b.data) > 0 {
			pairs = append(pairs, [2]string{b.name, dataText(b.data, b.json)})
		}
	}
	for _, e := range j.Errors {
		pairs = append(pairs, [2]string{fmt.Sprintf("error %d", e.Attempt),
			fmt.Sprintf("%s, %s: %s", ago(now.Sub(e.At)), printable(e.Worker), printable(e.Message))})
	}
	a.out.pairs(pairs)
}

func ago(d time.Duration) string {
	if d < 0 {
		return age(d)
	}
	return age(d) + " ago"
}

// dataText shows a payload or a result to a person.
func dataText(b []byte, mayBeJSON bool) string {
	v, encoding := jsonValue(b, mayBeJSON)
	if encoding == "text" {
		return printable(string(b))
	}
	if encoding == "base64" {
		return string(v) + " (base64)"
	}
	return printable(string(v))
}

func newJobsWait(a *app) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "wait ID", Short: "Wait until a job is final", Args: exactArgs(1),
		Long: "Wait until a job is succeeded, dead or cancelled, and show it.\nThe exit status is 0 only if it succeeded, and 1 if it is dead or cancelled.",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseID(args[0])
			if err != nil {
				return err
			}
			if timeout < 0 {
				return usageError("--timeout is negative")
			}
			return a.wait(cmd.Context(), id, timeout)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after so long, with exit status 1 (default: never)")
	return cmd
}

func (a *app) wait(ctx context.Context, id errand.ID, timeout time.Duration) error {
	c, err := a.dial(retryBriefly)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	waiting := ctx
	if timeout > 0 {
		var stop context.CancelFunc
		waiting, stop = context.WithTimeout(ctx, timeout)
		defer stop()
	}
	j, err := c.Wait(waiting, id)
	if err != nil {
		if ctx.Err() == nil && errors.Is(waiting.Err(), context.DeadlineExceeded) {
			return &exitError{code: exitFailed, err: fmt.Errorf("job %s is not final after %s", id, timeout)}
		}
		return err
	}
	if err := a.out.value(viewOf(j), func() { a.printJob(j) }); err != nil {
		return err
	}
	if j.State != errand.Succeeded {
		return errSilent
	}
	return nil
}

// newJobsAct makes a verb that changes one job and shows what it became.
func newJobsAct(a *app, name, short string, act func(*errand.Client, context.Context, errand.ID) (*errand.JobInfo, error)) *cobra.Command {
	return &cobra.Command{
		Use: name + " ID", Short: short, Args: exactArgs(1),
		Long: short + ".\n\nExit status 3 if there is no such job, 4 if its state does not allow it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseID(args[0])
			if err != nil {
				return err
			}
			return a.withClient(func(c *errand.Client) error {
				j, err := act(c, cmd.Context(), id)
				if err != nil {
					return err
				}
				if j == nil {
					gone := map[string]string{"id": id.String(), "state": "deleted"}
					return a.out.value(gone, func() { a.out.linef("%s deleted", id) })
				}
				return a.out.value(headOf(j), func() {
					if j.CancelRequested {
						a.out.linef("%s is running: cancellation asked for", id)
						return
					}
					a.out.linef("%s %s", id, stateText(string(j.State)))
				})
			})
		},
	}
}

func retryJob(c *errand.Client, ctx context.Context, id errand.ID) (*errand.JobInfo, error) {
	if err := c.Redrive(ctx, id); err != nil {
		return nil, err
	}
	return c.Job(ctx, id)
}

func deleteJob(c *errand.Client, ctx context.Context, id errand.ID) (*errand.JobInfo, error) {
	return nil, c.Delete(ctx, id)
}
