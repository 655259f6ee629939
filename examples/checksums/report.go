//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	errand "github.com/errandhq/errand"
)

// report is what a run came to.
type report struct {
	files, skipped     int
	bytes              int64
	workers            int
	victim             string
	held               int
	rescued            int64
	crashes, retries   int
	dead               int
	match, unreadable  int
	changed, different int
	took               time.Duration
	problems           []string
}

func (r *report) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// check compares every answer with sha256sum's, and everything else with what it
// should be.
func (d *demo) check(ctx context.Context) (*report, error) {
	r := &report{
		files: len(d.input.files), skipped: d.input.skipped, bytes: d.input.bytes, workers: len(d.workers),
		victim: d.victim, held: d.held, took: time.Since(d.began),
	}
	say("comparing with sha256sum")
	want, err := reference(ctx, d.dir, d.input.files)
	if err != nil {
		return nil, err
	}
	for at := 0; at < len(d.ids); at += batch {
		end := min(at+batch, len(d.ids))
		jobs, err := d.client.Jobs(ctx, d.ids[at:end]...)
		if err != nil {
			return nil, err
		}
		if len(jobs) != end-at {
			r.problem("%d jobs were accepted and are not in the ledger", end-at-len(jobs))
			continue
		}
		for i, j := range jobs {
			r.compare(d.dir, d.input.files[at+i], j, want)
		}
	}
	if err := d.checkBroken(ctx, r); err != nil {
		return nil, err
	}
	info, err := d.client.ServerInfo(ctx)
	if err != nil {
		return nil, err
	}
	r.rescued = info.Rescued
	if d.victim == "" {
		r.problem("no worker could be killed while it held jobs")
	} else if r.rescued < int64(d.held) {
		r.problem("%s held %d jobs when it was killed, and %d were rescued", d.victim, d.held, r.rescued)
	}
	return r, nil
}

// compare holds one job against the program's answer for its file.
func (r *report) compare(dir string, f file, j *errand.JobInfo, want map[string]string) {
	r.crashes += j.Crashes
	r.retries += max(0, j.Attempt-1-j.Crashes)
	sum, readable := want[f.path]
	switch {
	case readable && j.State == errand.Succeeded && string(j.Result) == sum:
		r.match++
	case !readable && j.State == errand.Dead && j.Reason == "discarded":
		r.unreadable++
	case f.changed(dir):
		r.changed++
	default:
		r.different++
		r.problem("%s: job %s is %s with %q, sha256sum says %q", quoted(f.path), j.ID, j.State, j.Result, sum)
	}
}

// checkBroken expects the job that always fails among the dead letters, with
// each of its attempts.
func (d *demo) checkBroken(ctx context.Context, r *report) error {
	page, err := d.client.ListPage(ctx, errand.ListQuery{Queue: queue, Kind: kindBroken, State: errand.Dead})
	if err != nil {
		return err
	}
	r.dead = len(page.Jobs)
	j, err := d.client.Job(ctx, d.broken)
	switch {
	case err != nil:
		return err
	case r.dead != 1 || page.Jobs[0].ID != d.broken:
		r.problem("the job that always fails is %s, and there are %d dead letters of its kind", j.State, r.dead)
	case j.Attempt != attempts || len(j.Errors) < attempts:
		r.problem("the job that always fails is dead after %d attempts with %d errors, not %d", j.Attempt, len(j.Errors), attempts)
	}
	r.crashes += j.Crashes
	r.retries += max(0, j.Attempt-1-j.Crashes)
	return nil
}

// verdict is an error if anything is not as it should be.
func (r *report) verdict() error {
	if len(r.problems) == 0 {
		return nil
	}
	const most = 20
	shown := r.problems[:min(len(r.problems), most)]
	if more := len(r.problems) - len(shown); more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	return errors.New("the run was not as it should be:\n  " + strings.Join(shown, "\n  "))
}

func (r *report) print() {
	verdict := "yes"
	if r.different > 0 {
		verdict = fmt.Sprintf("NO: %d differ", r.different)
	}
	rows := [][]string{
		{"files", fmt.Sprint(r.files)},
		{"bytes", size(r.bytes)},
		{"workers", fmt.Sprint(r.workers)},
		{"killed", fmt.Sprintf("%s, holding %d jobs", r.victim, r.held)},
		{"rescued", fmt.Sprintf("%d jobs", r.rescued)},
		{"retries", fmt.Sprint(r.retries)},
		{"dead letters", fmt.Sprintf("%d, as it should be", r.dead)},
		{"time", r.took.Round(10 * time.Millisecond).String()},
		{"same as sha256sum", fmt.Sprintf("%s: %d of %d", verdict, r.match, r.files)},
	}
	if r.victim == "" {
		rows[3][1] = "none"
	}
	if r.dead != 1 {
		rows[6][1] = fmt.Sprintf("%d: WRONG", r.dead)
	}
	for _, extra := range []struct {
		n    int
		what string
	}{{r.unreadable, "unreadable, for both"}, {r.changed, "changed meanwhile"}, {r.skipped, "skipped, not files"}} {
		if extra.n > 0 {
			rows = append(rows, []string{extra.what, fmt.Sprint(extra.n)})
		}
	}
	t := table.New().Border(lipgloss.RoundedBorder()).Rows(rows...).
		StyleFunc(func(_, col int) lipgloss.Style { return lipgloss.NewStyle().Padding(0, 1).Bold(col == 0) })
	_, _ = lipgloss.Println(t) // where nobody reads the output, the exit status tells
}

// bar shows how far the run is: as a bar on a terminal, else by a line now and then.
type bar struct {
	total int
	bar   *progressbar.ProgressBar
	said  time.Time
}

func newBar(total int) *bar {
	b := &bar{total: total, said: time.Now()}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		b.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetDescription("hashing"),
			progressbar.OptionShowCount(), progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(40))
	}
	return b
}

func (b *bar) set(done int64) {
	switch {
	case b.bar != nil:
		_ = b.bar.Set64(done)
	case time.Since(b.said) > time.Second:
		b.said = time.Now()
		say("%d of %d done", done, b.total)
	}
}

func (b *bar) note(format string, args ...any) {
	if b.bar != nil {
		_ = b.bar.Clear()
	}
	say(format, args...)
}

func (b *bar) finish() {
	if b.bar != nil {
		_ = b.bar.Finish()
	}
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "demo: "+format+"\n", args...) }

// quoted shows a path of any bytes on a terminal, harmlessly.
func quoted(path string) string { return fmt.Sprintf("%q", path) }

func size(n int64) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d B", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	default:
		return fmt.Sprintf("%d MiB", n>>20)
	}
}
