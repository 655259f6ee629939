package main

import (
	"fmt"
	"io"

	"github.com/schollz/progressbar/v3"

	"github.com/errandhq/errand/internal/bench"
	"github.com/errandhq/errand/internal/config"
)

// benchProgress draws a bar for each phase of a run.
type benchProgress struct {
	w     io.Writer
	shown bool
	phase string
	bar   *progressbar.ProgressBar
}

func (b *benchProgress) show(p bench.Progress) {
	if phase := p.Scenario + ": " + p.Phase; phase != b.phase {
		b.finish()
		total := p.Total
		if total == 0 {
			total = -1
		}
		b.phase = phase
		b.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(b.w), progressbar.OptionSetDescription(phase), progressbar.OptionShowCount(),
			progressbar.OptionShowIts(), progressbar.OptionSetItsString("jobs"), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetPredictTime(p.Total > 0), progressbar.OptionSpinnerType(14))
	}
	_ = b.bar.Set64(p.Done) // a bar that cannot be drawn is no reason to stop
}

func (b *benchProgress) finish() {
	if b.bar != nil {
		_ = b.bar.Clear()
		b.bar = nil
	}
}

// printBench prints the report for people.
func (a *app) printBench(r benchReport) {
	env := r.Environment
	where := "in process"
	if env.Server != "" {
		where = "server " + env.Server
	}
	if env.Broker != "" {
		where += ", by " + env.Broker
	}
	if env.Cache == config.CacheRedis {
		where += ", states in Redis"
	}
	a.out.linef("%s  %s, %s, %s", headStyle.Render("errand "+env.Version), env.Ledger, env.Target, where)
	a.out.linef("%s", faintStyle.Render(fmt.Sprintf("%s, %d cores, %s; payload %d B, %d producers, %d workers × %d",
		env.CPU, env.Cores, env.Go, env.Settings.Payload, env.Settings.Producers, env.Settings.Workers, env.Settings.Concurrency)))
	if len(r.Scenarios) == 0 {
		return
	}
	a.out.linef("")
	rows := make([][]string, len(r.Scenarios))
	for i, s := range r.Scenarios {
		rows[i] = []string{
			s.Name, fmt.Sprint(s.Jobs), fmt.Sprintf("%.2f", s.Seconds), fmt.Sprintf("%.0f", s.JobsPerSecond),
			milliseconds(s.P50), milliseconds(s.P99), milliseconds(s.Max), benchNote(s),
		}
	}
	a.out.table([]string{"SCENARIO", ">JOBS", ">SECONDS", ">JOBS/S", ">P50 MS", ">P99 MS", ">MAX MS", ""}, rows)
}

func milliseconds(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f", *v)
}

// benchNote is what there is to say beside the figures.
func benchNote(s bench.Result) string {
	switch {
	case s.Interrupted:
		return busyStyle.Render("broken off")
	case s.Alone > 0:
		return fmt.Sprintf("%.2f of the rate with a tenth of the backlog", s.Ratio)
	case len(s.Windows) > 1:
		return fmt.Sprintf("first %.3g s %.0f/s, last %.0f/s", s.WindowSeconds, s.Windows[0], s.Windows[len(s.Windows)-1])
	}
	return ""
}
