package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/errandhq/errand/internal/bench"
)

// The plot's measures, in pixels.
const (
	plotWidth   = 880
	columnWidth = 440
	columnLeft  = 165 // where bars begin in a column
	plotBars    = 200 // the longest bar
	barHeight   = 13
	barGap      = 4
	panelGap    = 12
	titleSpace  = 20
	groupSpace  = 30
	legendSpace = 40
)

// plot draws a panel of bars for each group and scenario, in two columns: jobs a
// second as medians, with whiskers over the interval. It is plain SVG, readable on
// light and dark pages.
func (r *runner) plot() string {
	var panels strings.Builder
	height := [2]int{legendSpace, legendSpace}
	for _, g := range r.groups() {
		side := 0
		if height[1] < height[0] {
			side = 1
		}
		height[side] = r.groupPanels(&panels, side*columnWidth, height[side], g)
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img" aria-label="Jobs a second of Errand and its peers">
<style>
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #57606a }
.group { font-size: 15px; font-weight: 600; fill: #24292f }
.title { font-weight: 600; fill: #24292f }
.value { font-variant-numeric: tabular-nums }
.mine { font-weight: 600; fill: #24292f }
.own { fill: #0969da } .served { fill: #80b3ed } .peer { fill: #8c959f } .raw { fill: #d0d7de }
.whisker { stroke: #24292f; stroke-width: 1.2; opacity: .75 }
@media (prefers-color-scheme: dark) {
  text { fill: #8b949e } .group, .title, .mine { fill: #e6edf3 }
  .own { fill: #4493f8 } .served { fill: #2b5c9c } .peer { fill: #6e7681 } .raw { fill: #3d444d } .whisker { stroke: #e6edf3 }
}
</style>
%[3]s%[4]s</svg>
`, plotWidth, max(height[0], height[1]), legend(), panels.String())
}

// legend says what the colours are.
func legend() string {
	var b strings.Builder
	x := 10
	for _, one := range []struct{ class, text string }{
		{"own", "Errand"}, {"served", "Errand through a server, with a carrier or Redis"}, {"peer", "peers"}, {"raw", "what the database can do without a queue"},
	} {
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="8" width="12" height="12" rx="2"/><text x="%d" y="18">%s</text>`, one.class, x, x+18, one.text)
		x += 18 + 22 + 6*len(one.text)
	}
	fmt.Fprintf(&b, `<line class="whisker" x1="%d" x2="%d" y1="14" y2="14"/><text x="%d" y="18">interval</text>`+"\n", x, x+18, x+24)
	return b.String()
}

// groupPanels draws the panels of a group below y and returns where they end.
func (r *runner) groupPanels(b *strings.Builder, x, y int, group string) int {
	fmt.Fprintf(b, `<text class="group" x="%d" y="%d">%s</text>`+"\n", x+10, y+16, html.EscapeString(group))
	y += groupSpace
	for _, sc := range scenarios {
		if sc.isRate() && slices.Contains(r.scenarios, sc.name) {
			y = r.panel(b, x, y, group, sc)
		}
	}
	return y + panelGap
}

// panel draws one scenario of a group below y and returns where it ends.
func (r *runner) panel(b *strings.Builder, x, y int, group string, sc scenario) int {
	type bar struct {
		sys system
		bench.Spread
	}
	var bars []bar
	most := 0.0
	for _, sys := range r.chosen(group) {
		if v := r.values(sys, sc, rate); len(v) > 0 {
			s := bench.SpreadOf(slices.Collect(maps.Values(v)))
			bars = append(bars, bar{sys, s})
			most = math.Max(most, s.High)
		}
	}
	if len(bars) == 0 || most <= 0 {
		return y
	}
	fmt.Fprintf(b, `<text class="title" x="%d" y="%d">%s, jobs a second</text>`+"\n", x+10, y+12, html.EscapeString(sc.title))
	y += titleSpace
	for _, one := range bars {
		at := func(v float64) float64 { return float64(x+columnLeft) + plotBars*v/most }
		middle := y + barHeight/2
		class, text := barClass(one.sys), "value"
		if class == "own" {
			text = "value mine"
		}
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, x+columnLeft-8, middle+5, html.EscapeString(barLabel(one.sys)))
		fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`, class, x+columnLeft, y, math.Max(1, at(one.Median)-at(0)), barHeight)
		fmt.Fprintf(b, `<line class="whisker" x1="%.1f" x2="%.1f" y1="%d" y2="%[3]d"/>`, at(one.Low), at(one.High), middle)
		fmt.Fprintf(b, `<text class="%s" x="%.1f" y="%d">%s</text>`+"\n", text, at(one.High)+6, middle+5, thousands(one.Median))
		y += barHeight + barGap
	}
	return y + panelGap
}

// barLabel is short: the table has the versions, and the group's name stands above.
func barLabel(s system) string {
	if strings.HasPrefix(s.name, "raw-") {
		return "without a queue"
	}
	label := strings.Replace(s.label, " on SQLite", "", 1)
	return strings.Replace(label, "Errand on PostgreSQL", "Errand", 1)
}

func barClass(s system) string {
	switch {
	case s.name == "errand":
		return "own"
	case strings.HasPrefix(s.name, "errand-"):
		return "served"
	case strings.HasPrefix(s.name, "raw-"):
		return "raw"
	}
	return "peer"
}

// runPlot draws the figures of an earlier run: "plot results.json".
func runPlot(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: bench plot results.json")
	}
	b, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var kept struct{ Figures []figure }
	if err := json.Unmarshal(b, &kept); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	r := &runner{figures: kept.Figures}
	for _, f := range kept.Figures {
		r.peers, r.scenarios = append(r.peers, f.System), append(r.scenarios, f.Scenario)
	}
	_, err = fmt.Print(r.plot())
	return err
}
