package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/errandhq/errand/internal/verify"
	"github.com/errandhq/errand/job"
)

const verifyLong = `Hold a running server against its promises (docs/guarantees.md), from outside:
enqueue canaries on a queue of their own, work them by hand and by workers of this
process, with every fault that can be caused without harm, and say for each
promise whether it was kept, with the evidence where it was not.

The faults: enqueues repeated under the same id and the same idempotency key, lost
answers, doubled settles, stale tokens, workers that fall silent with jobs in their
hands, cancelled jobs, bad jobs and calls. Other jobs are not touched, nor is any
other queue; a route of the queue is honoured, so one run for each route says
something of each.

A worker's death takes the server's session time-to-live to be seen (30 s unless
set otherwise); what the time-out leaves no time for is skipped, and says so.

The token needs the roles producer, worker and viewer, or operator. An operator's
run deletes its jobs; of any other the jobs that ended stay for as long as the
server keeps such jobs (24 h), and no dead letter is left. After Ctrl-C it clears
up too.

With -o json: {"ok","version","ledger","cache","queue","route","seed","jobs","seconds",
"checks":[{"promise","name","status","detail","evidence","seconds"}],"deleted",
"retained","left"}, where status is pass, fail or skip. The exit status is 1 if a
promise was broken, or a job could not be removed.`

// verifyFlags set a run.
type verifyFlags struct {
	queue   string
	jobs    int
	timeout durationFlag
	seed    uint64
}

// maxVerifyJobs is what one watch by ids can follow.
const maxVerifyJobs = 1000

func newVerify(a *app) *cobra.Command {
	v := verifyFlags{timeout: durationFlag(3 * time.Minute)}
	cmd := &cobra.Command{
		Use: "verify", Short: "Hold a running server against its promises", Long: verifyLong, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := v.check(); err != nil {
				return err
			}
			return a.verify(cmd.Context(), &v)
		},
	}
	f := cmd.Flags()
	f.StringVar(&v.queue, "queue", "errand-verify", "queue for the canaries, which nobody else uses")
	f.IntVar(&v.jobs, "jobs", 200, "canaries that are worked under load")
	f.Var(&v.timeout, "timeout", "how long the run may take")
	f.Uint64Var(&v.seed, "seed", 0, "of all that is random, as a report names it (default: another each time)")
	return cmd
}

func (v *verifyFlags) check() error {
	if err := job.CheckName("queue", v.queue); err != nil {
		return usageError("--queue: %w", err)
	}
	if v.jobs < 1 || v.jobs > maxVerifyJobs {
		return usageError("--jobs is %d; it is 1 to %d", v.jobs, maxVerifyJobs)
	}
	if v.timeout <= 0 {
		return usageError("--timeout is %s; it is more than nothing", time.Duration(v.timeout))
	}
	if v.seed == 0 {
		v.seed = rand.Uint64()>>12 + 1 // one that JSON keeps
	}
	return nil
}

func (a *app) verify(ctx context.Context, v *verifyFlags) error {
	c, _, err := a.patientClient(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { a.warnf("stopping: clearing up") })()
	bar := &verifyProgress{w: a.stderr, shown: isTerminal(a.stderr)}
	report, err := verify.Run(ctx, verify.Config{
		Service: c.Service(), Queue: v.queue, Jobs: v.jobs, Timeout: time.Duration(v.timeout), Seed: v.seed, Progress: bar.show,
	})
	bar.finish()
	if err != nil && len(report.Checks) == 0 {
		return err // nothing was examined: there is nothing to report
	}
	err = errors.Join(err, a.out.value(report, func() { a.printVerify(report) }))
	if err == nil && !report.OK {
		return errSilent
	}
	return err
}

// printVerify prints the report for people: failures with their evidence below.
func (a *app) printVerify(r verify.Report) {
	rows := make([][]string, 0, len(r.Checks))
	for _, c := range r.Checks {
		rows = append(rows, []string{stateText(string(c.Status)), fmt.Sprint(c.Promise), c.Name, oneLine(c.Detail, 100)})
	}
	a.out.table([]string{"STATUS", ">PROMISE", "CHECK", "WHAT WAS SEEN"}, rows)
	failed := 0
	for _, c := range r.Checks {
		if c.Status != verify.Fail {
			continue
		}
		failed++
		a.out.linef("\n%s", headStyle.Render(c.Name))
		for i, line := range c.Evidence {
			if i == 10 {
				a.out.linef("  and %d more", len(c.Evidence)-i)
				break
			}
			a.out.linef("  %s", oneLine(line, 400))
		}
	}
	a.out.linef("")
	if len(r.Left) > 0 {
		a.out.linef("%s", badStyle.Render("could not be removed: "+printable(strings.Join(r.Left, ", "))))
	}
	how := fmt.Sprintf("%d canaries on queue %s (%s, %s), seed %d, %.0f s; %d deleted, %d left to the retention",
		r.Jobs, r.Queue, r.Ledger, orUnknown(r.Route), r.Seed, r.Seconds, r.Deleted, r.Retained)
	a.out.linef("%s", faintStyle.Render(how))
	switch {
	case r.OK:
		a.out.linef("%s", goodStyle.Render("every promise that could be examined was kept"))
	case failed > 0:
		a.out.linef("%s", badStyle.Render(fmt.Sprintf("%d of %d checks failed", failed, len(r.Checks))))
	}
}

func orUnknown(route string) string {
	if route == "" {
		return "route unknown"
	}
	return route
}

// verifyProgress draws a bar on a terminal.
type verifyProgress struct {
	w     io.Writer
	shown bool
	bar   *progressbar.ProgressBar
}

func (p *verifyProgress) show(ended, total int, c verify.Check) {
	if !p.shown {
		return
	}
	if p.bar == nil {
		p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(p.w), progressbar.OptionShowCount(),
			progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(false))
	}
	p.bar.Describe(fmt.Sprintf("%s: %s", c.Name, c.Status))
	_ = p.bar.Set(ended) // a bar that cannot be drawn is no reason to stop
}

func (p *verifyProgress) finish() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
