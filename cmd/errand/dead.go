package main

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
)

func newDead(a *app) *cobra.Command {
	return group("dead", "Look at dead letters, send them back to work, remove them",
		newDeadList(a), newDeadRedrive(a), newDeadPurge(a))
}

func newDeadList(a *app) *cobra.Command {
	var l listFlags
	cmd := &cobra.Command{
		Use: "list", Short: "List dead letters, newest first", Args: noArgs,
		Long: "List dead letters, newest first. 'errand jobs get ID' shows every attempt's error.\n\nWith -o json: {\"jobs\":[…],\"next_page_token\"}.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l.q.State = errand.Dead
			return a.list(cmd.Context(), l)
		},
	}
	l.register(cmd)
	cmd.Flags().StringVar(&l.q.Error, "error", "", "only with this text in the last error")
	return cmd
}

// deadFlags choose the dead letters of redrive and purge.
type deadFlags struct {
	filter      errand.DeadFilter
	all, yes    bool
	preview     bool
	rate        float64
	verb, doing string
}

func (d *deadFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&d.filter.Queue, "queue", "", "only of this queue")
	f.StringVar(&d.filter.Kind, "kind", "", "only of this kind")
	f.StringVar(&d.filter.Error, "error", "", "only with this text in the last error")
	f.Var((*durationFlag)(&d.filter.OlderThan), "older-than", "only those dead for at least so long")
	f.BoolVar(&d.all, "all", false, "all dead letters, if no filter is given")
	f.BoolVar(&d.yes, "yes", false, "do not ask")
	f.BoolVar(&d.preview, "dry-run", false, "only count what would be done")
}

const deadLong = `

Choose with --queue, --kind, --error and --older-than (all must hold), or take
--all. What is chosen is counted first; without --yes you are asked, and where
nobody can be asked nothing is done (exit status 2).`

func newDeadRedrive(a *app) *cobra.Command {
	d := deadFlags{verb: "redrive", doing: "redriven"}
	cmd := &cobra.Command{
		Use: "redrive", Short: "Send dead letters back to work", Args: noArgs,
		Long: "Send dead letters back to work, with all their attempts before them." + deadLong +
			"\n\nWith -o json: {\"redriven\",\"refused\",\"problems\":[{\"id\",\"reason\",\"message\"}]}. Jobs that must stay dead,\nbecause another job holds their unique key by now, are problems: exit status 1.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.rate < 0 {
				return usageError("--rate is negative")
			}
			return a.dead(cmd.Context(), d, func(ctx context.Context, c *errand.Client) error { return a.redrive(ctx, c, d) })
		},
	}
	d.register(cmd)
	cmd.Flags().Float64Var(&d.rate, "rate", 0, "jobs a second, spread out in time (default: all at once)")
	return cmd
}

func newDeadPurge(a *app) *cobra.Command {
	d := deadFlags{verb: "purge", doing: "purged"}
	cmd := &cobra.Command{
		Use: "purge", Short: "Remove dead letters for good", Args: noArgs,
		Long: "Remove dead letters for good." + deadLong + "\n\nWith -o json: {\"purged\"}.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.dead(cmd.Context(), d, func(ctx context.Context, c *errand.Client) error {
				n, err := c.PurgeDead(ctx, d.filter)
				if err != nil {
					return fmt.Errorf("after %d were purged: %w", n, err)
				}
				return a.out.value(map[string]int{"purged": n}, func() { a.out.linef("purged %s", count(int64(n), "dead letter")) })
			})
		},
	}
	d.register(cmd)
	return cmd
}

// dead previews what the flags choose, asks, and acts.
func (a *app) dead(ctx context.Context, d deadFlags, act func(context.Context, *errand.Client) error) error {
	filtered := d.filter != errand.DeadFilter{}
	switch {
	case !filtered && !d.all:
		return usageError("choose dead letters with --queue, --kind, --error or --older-than, or take --all")
	case filtered && d.all:
		return usageError("--all goes with no filter")
	case d.filter.OlderThan < 0:
		return usageError("--older-than is negative")
	}
	return a.withClient(func(c *errand.Client) error {
		if d.yes && !d.preview {
			return act(ctx, c)
		}
		n, capped, err := c.CountDead(ctx, d.filter)
		if err != nil {
			return err
		}
		what := count(n, "dead letter")
		if capped {
			what = "more than " + what
		}
		if d.preview {
			answer := struct {
				Matched int64 `json:"matched"`
				Capped  bool  `json:"capped"`
			}{n, capped}
			return a.out.value(answer, func() { a.out.linef("%s would be %s", what, d.doing) })
		}
		if n == 0 {
			return act(ctx, c)
		}
		if !isTerminal(a.stdin) || !isTerminal(a.stderr) {
			return usageError("%s would be %s: repeat with --yes to do it", what, d.doing)
		}
		if !a.ask(ctx, fmt.Sprintf("%s would be %s. Go on?", what, d.doing)) {
			return refused("nothing was done")
		}
		return act(ctx, c)
	})
}

// ask puts a question to the person at the terminal; anything but yes is no.
func (a *app) ask(ctx context.Context, question string) bool {
	fmt.Fprint(a.stderr, question+" [y/N] ")
	answer := make(chan string, 1)
	go func() { // ends with the process, if nobody answers
		line, _ := bufio.NewReader(a.stdin).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case s := <-answer:
		return s == "y" || s == "yes"
	case <-ctx.Done():
		fmt.Fprintln(a.stderr)
		return false
	}
}

type problemView struct {
	ID      string `json:"id"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (a *app) redrive(ctx context.Context, c *errand.Client, d deadFlags) error {
	r, err := c.RedriveDead(ctx, d.filter, d.rate)
	if err != nil {
		return fmt.Errorf("after %d were redriven: %w", r.Redriven, err)
	}
	problems := make([]problemView, 0, len(r.Problems))
	for _, p := range r.Problems {
		problems = append(problems, problemView{p.ID.String(), reasonOf(p.Err), p.Err.Error()})
	}
	answer := struct {
		Redriven int           `json:"redriven"`
		Refused  int           `json:"refused"`
		Problems []problemView `json:"problems"`
	}{r.Redriven, r.Refused, problems}
	err = a.out.value(answer, func() {
		a.out.linef("redrove %s", count(int64(r.Redriven), "dead letter"))
		if d.rate > 0 && r.Redriven > 0 {
			a.out.linef("the last of them runs in %s", age(time.Duration(float64(r.Redriven)/d.rate*float64(time.Second))))
		}
	})
	for _, p := range problems {
		a.warnf("%s stays dead: %s", p.ID, printable(p.Message))
	}
	if err == nil && r.Refused > 0 {
		return errSilent
	}
	return err
}

// count is a number with its noun.
func count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
