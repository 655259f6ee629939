package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/errandhq/errand/internal/bench"
)

// write prints the table, and keeps it with the plot and all figures in the
// directory of -out.
func (r *runner) write() error {
	table := r.table()
	fmt.Print(table)
	if r.out == "" {
		return nil
	}
	all, err := json.MarshalIndent(struct {
		Environment json.RawMessage `json:"environment"`
		Servers     []string        `json:"servers"`
		LoadBefore  string          `json:"load_before"`
		Figures     []figure        `json:"figures"`
	}{r.environment, r.versions, r.load, r.figures}, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"results.md": table, "results.svg": r.plot(), "results.json": string(all) + "\n",
	} {
		if err := os.WriteFile(filepath.Join(r.out, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// table is the page of results.
func (r *runner) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Side by side\n\n%s\n", r.circumstances())
	for _, g := range r.groups() {
		fmt.Fprintf(&b, "\n## %s\n\n", g)
		r.groupTable(&b, g)
	}
	r.carried(&b)
	b.WriteString("\n## Settings\n\n")
	for _, s := range systems {
		if s.settings != "" && slices.Contains(r.peers, s.name) {
			fmt.Fprintf(&b, "- %s: %s.\n", r.title(s), s.settings)
		}
	}
	return b.String()
}

// circumstances say what the figures hold for.
func (r *runner) circumstances() string {
	return fmt.Sprintf(`Written by `+"`make bench`"+` on %s: %s, %d cores shared by clients and servers, load average %s
before it began, %s; %s. %d rounds, interleaved; %d jobs (a fifth of them one a call) of %d bytes
that do nothing; each measurement a process of its own on an empty database.

Figures are jobs a second, medians; beside a peer's stands how many times that Errand
reached, as the median of the rounds' ratios with its interval (95 %% from nine rounds on, else from the least to
the greatest). Latency is from when a job was to be enqueued to the start of its handler, at %g jobs a second;
there a ratio over 1 says that Errand's median is shorter.
`, r.started.UTC().Format("2006-01-02"), bench.CPUModel(), runtime.NumCPU(), r.load, runtime.Version(), strings.Join(r.versions, ", "),
		r.rounds, r.jobs, r.payload, r.rate)
}

func (r *runner) groupTable(b *strings.Builder, group string) {
	var shown []scenario
	for _, sc := range scenarios {
		if slices.Contains(r.scenarios, sc.name) {
			shown = append(shown, sc)
		}
	}
	b.WriteString("| |")
	for _, sc := range shown {
		fmt.Fprintf(b, " %s |", sc.title)
	}
	fmt.Fprintf(b, "\n| --- |%s\n", strings.Repeat(" --- |", len(shown)))
	for _, sys := range r.chosen(group) {
		fmt.Fprintf(b, "| %s |", r.title(sys))
		for _, sc := range shown {
			fmt.Fprintf(b, " %s |", r.cell(sys, sc))
		}
		b.WriteString("\n")
	}
}

// carried writes how far Errand by a carrier comes, against the lower of what it
// reaches without one and what the carrier does for a plain program that publishes
// and consumes at once: one of the two is its bound.
func (r *runner) carried(b *strings.Builder) {
	steady := findScenario("steady")
	for _, sys := range r.chosen(onCarrier) {
		if sys.carrier() == sys.name {
			continue
		}
		plain := r.values(system{name: sys.carrier(), group: onCarrier}, steady, rate)
		for _, sc := range []scenario{findScenario("drain"), steady} {
			bound := map[int]float64{}
			for round, v := range r.values(system{name: "errand", group: onCarrier}, sc, rate) {
				if w, ok := plain[round]; ok {
					bound[round] = min(v, w)
				}
			}
			if s := bench.SpreadOf(ratios(r.values(sys, sc, rate), bound)); !math.IsNaN(s.Median) {
				fmt.Fprintf(b, "\n%s, %s: %.2f (%.2f-%.2f) of the lower of Errand without it and plain publish and consume.\n",
					r.title(sys), sc.title, s.Median, s.Low, s.High)
			}
		}
	}
}

// cell is what one system reached in one scenario, and Errand against it.
func (r *runner) cell(sys system, sc scenario) string {
	rates := r.values(sys, sc, rate)
	if len(rates) == 0 {
		return "-"
	}
	if own := r.ownRatios(sys, sc); own != nil {
		s := bench.SpreadOf(own)
		return fmt.Sprintf("%.2f (%.2f-%.2f)", s.Median, s.Low, s.High)
	}
	value := thousands(bench.SpreadOf(slices.Collect(maps.Values(rates))).Median)
	measure := rate
	if sc.of == bench.Latency {
		p50, p99 := r.values(sys, sc, quickness(50)), r.values(sys, sc, quickness(99))
		value = fmt.Sprintf("%.2f / %.1f", 1/bench.SpreadOf(slices.Collect(maps.Values(p50))).Median, 1/bench.SpreadOf(slices.Collect(maps.Values(p99))).Median)
		measure = quickness(50)
	}
	if sys.name == "errand" {
		return value
	}
	pairs := ratios(r.values(system{name: "errand", group: sys.group}, sc, measure), r.values(sys, sc, measure))
	s := bench.SpreadOf(pairs)
	if math.IsNaN(s.Median) {
		return value
	}
	return fmt.Sprintf("%s · %.2f× (%.2f-%.2f)", value, s.Median, s.Low, s.High)
}

// ownRatios are those of the scenarios that compare a system with itself; nil: it is another.
func (r *runner) ownRatios(sys system, sc scenario) []float64 {
	switch sc.of {
	case bench.Backlog:
		return slices.Collect(maps.Values(r.values(sys, sc, func(res bench.Result) float64 { return res.Ratio })))
	case bench.Pinned:
		return ratios(r.values(sys, sc, lastWindow), r.values(sys, findScenario("steady"), lastWindow))
	}
	return nil
}

// lastWindow is the rate in the last part of a scenario that runs for a time.
func lastWindow(res bench.Result) float64 {
	if len(res.Windows) == 0 {
		return math.NaN()
	}
	return res.Windows[len(res.Windows)-1]
}

// values are what a system reached, by round.
func (r *runner) values(sys system, sc scenario, of func(bench.Result) float64) map[int]float64 {
	out := map[int]float64{}
	for _, f := range r.figures {
		if f.Group == sys.group && f.System == sys.name && f.Scenario == sc.name {
			out[f.Round] = of(f.Result)
		}
	}
	return out
}

func rate(res bench.Result) float64 { return res.JobsPerSecond }

// quickness is one over a percentile of the latency: more is better, as with rates.
func quickness(percent int) func(bench.Result) float64 {
	return func(res bench.Result) float64 {
		v := res.P50
		if percent == 99 {
			v = res.P99
		}
		if v == nil {
			return math.NaN()
		}
		return 1 / *v
	}
}

func thousands(v float64) string {
	if v < 10_000 {
		return fmt.Sprintf("%.2fk", v/1000)
	}
	return fmt.Sprintf("%.1fk", v/1000)
}

// title is a system's name with the version of its module.
func (r *runner) title(s system) string {
	if v := moduleVersion(s.module); v != "" {
		return s.label + " " + v
	}
	return s.label
}

// moduleVersion is that of a Go module of this program, or of a package of node/.
func moduleVersion(module string) string {
	if module == "" {
		return ""
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == module {
				return strings.TrimPrefix(dep.Version, "v")
			}
		}
	}
	var pkg struct{ Dependencies map[string]string }
	b, err := os.ReadFile(filepath.Join("node", "package.json"))
	if err != nil || json.Unmarshal(b, &pkg) != nil {
		return ""
	}
	return pkg.Dependencies[module]
}
