package main

import (
	"fmt"
	"html"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/errandhq/errand/internal/bench"
)

// The plot's measures, in pixels.
const (
	plotWidth  = 860
	plotLeft   = 250 // where bars begin
	plotBars   = 480 // the longest bar
	barHeight  = 18
	barGap     = 5
	panelGap   = 26
	titleSpace = 24
)

// plot draws a panel of bars for each group and scenario: jobs a second as
// medians, with whiskers over the interval. It is plain SVG, readable on light
// and dark pages.
func (r *runner) plot() string {
	var panels strings.Builder
	y := 10
	for _, g := range r.groups() {
		for _, sc := range scenarios {
			if sc.of == bench.Latency || !slices.Contains(r.scenarios, sc.name) {
				continue
			}
			y = r.panel(&panels, y, g, sc)
		}
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img" aria-label="Jobs a second of Errand and its peers">
<style>
text { font: 13px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; fill: #24292f }
.own { fill: #0969da } .peer { fill: #8c959f } .raw { fill: #d0d7de }
.whisker { stroke: #24292f; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #8b949e } .title { fill: #e6edf3 }
  .own { fill: #4493f8 } .peer { fill: #6e7681 } .raw { fill: #30363d } .whisker { stroke: #e6edf3 }
}
</style>
%[3]s</svg>
`, plotWidth, y, panels.String())
}

// panel draws one scenario of a group below y and returns where it ends.
func (r *runner) panel(b *strings.Builder, y int, group string, sc scenario) int {
	type bar struct {
		sys system
		spread
	}
	var bars []bar
	most := 0.0
	for _, sys := range r.chosen(group) {
		if v := r.values(sys, sc, rate); len(v) > 0 {
			s := spreadOf(slices.Collect(maps.Values(v)))
			bars = append(bars, bar{sys, s})
			most = math.Max(most, s.high)
		}
	}
	if len(bars) == 0 || most <= 0 {
		return y
	}
	y += titleSpace
	fmt.Fprintf(b, `<text class="title" x="10" y="%d">%s</text>`+"\n", y-8, html.EscapeString(group+": "+sc.title+", jobs a second"))
	for _, one := range bars {
		at := func(v float64) float64 { return plotLeft + plotBars*v/most }
		middle := y + barHeight/2
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, plotLeft-8, middle+5, html.EscapeString(r.title(one.sys)))
		fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`, barClass(one.sys), plotLeft, y, at(one.median)-plotLeft, barHeight)
		fmt.Fprintf(b, `<line class="whisker" x1="%.1f" x2="%.1f" y1="%d" y2="%[3]d"/>`, at(one.low), at(one.high), middle)
		fmt.Fprintf(b, `<text x="%.1f" y="%d">%s</text>`+"\n", at(one.high)+8, middle+5, thousands(one.median))
		y += barHeight + barGap
	}
	return y + panelGap - titleSpace/2
}

func barClass(s system) string {
	switch {
	case s.on == onErrand || s.on == onErrandServer:
		return "own"
	case strings.HasPrefix(s.name, "raw-"):
		return "raw"
	}
	return "peer"
}
