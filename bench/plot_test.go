package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/errandhq/errand/internal/bench"
)

// The plot is well-formed, and has a bar for each system that was measured, and no other.
func TestPlot(t *testing.T) {
	r := &runner{options: options{peers: []string{"river", "raw-postgres", "goqite"}, scenarios: []string{"drain", "latency"}}}
	for i, name := range []string{"errand", "river", "raw-postgres"} {
		for round := range 3 {
			r.figures = append(r.figures, figure{onPostgres, name, "drain", round, bench.Result{JobsPerSecond: float64(1000 * (i + 1 + round))}})
		}
	}
	svg := r.plot()
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
	}
	const inLegend = 4
	if n := strings.Count(svg, "<rect "); n != 3+inLegend {
		t.Errorf("%d bars in\n%s", n, svg)
	}
	for _, want := range []string{"PostgreSQL", "River", "without a queue", ">2.00k<", ">4.00k<"} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %q in\n%s", want, svg)
		}
	}
}
