package api

import (
	"strings"
	"testing"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

const known = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// Jobs get the call's trace as this version writes it: what a later one adds does not
// refuse the enqueue, and what is none is left out.
func TestTheCallsTrace(t *testing.T) {
	later := "cc" + known[2:] + "-" + strings.Repeat("a", job.MaxTrace)
	for _, c := range []struct{ trace, state, want string }{
		{known, "", known}, {later, "", known}, {"none", "", ""}, {"", "", ""},
		{known, "a=b", known + " a=b"}, {later, "a=b", known + " a=b"}, {"none", "a=b", ""}, {"", "a=b", ""}, {known, "none", known},
	} {
		items := []engine.Item{{}, {Job: job.Job{Trace: "its own"}}}
		Call{Trace: c.trace, TraceState: c.state}.traceItems(items)
		if items[0].Job.Trace != c.want || items[1].Job.Trace != "its own" {
			t.Errorf("of the call's trace %.60q, %q jobs got %q and %q; want %q", c.trace, c.state, items[0].Job.Trace, items[1].Job.Trace, c.want)
		}
	}
}

// A tracestate goes with its traceparent, there and back. One that is malformed, too
// long or alone is left out, and the job is stored.
func TestTraceState(t *testing.T) {
	longest := "a=" + strings.Repeat("x", 255) + ",b=" + strings.Repeat("y", 252)
	many := make([]string, 32)
	for i := range many {
		many[i] = string(rune('a'+i%26)) + strings.Repeat("k", i/26) + "=v"
	}
	for _, c := range []struct{ parent, state, want string }{
		{known, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"},
		{known, "tenant@vendor=x", "tenant@vendor=x"},
		{known, longest, longest},
		{known, longest + "y", ""},
		{known, strings.Join(many, ","), strings.Join(many, ",")},
		{known, strings.Join(many, ",") + ",z0=v", ""},
		{known, "", ""}, {known, "=", ""}, {known, "a", ""}, {known, "A=b", ""}, {known, "a=b,a=c", ""}, {known, "a=b\nc", ""}, {known, "a=\x00", ""},
		{"", "a=b", ""}, {"none", "a=b", ""},
	} {
		var it engine.Item
		if err := decodeItem(&it, "item", &errandv1.EnqueueItem{Kind: "k", TraceParent: c.parent, TraceState: c.state}, time.Time{}); err != nil {
			t.Errorf("%.40q: %v", c.state, err)
			continue
		}
		it.Job.Queue, it.Job.MaxAttempts = "q", 1
		if err := it.Job.Validate(job.MaxPayload); err != nil {
			t.Errorf("%.40q: %v", c.state, err)
		}
		if back := encodeJob(&it.Job); back.GetTraceParent() != c.parent || back.GetTraceState() != c.want {
			t.Errorf("%.40q: came back as %q, %q", c.state, back.GetTraceParent(), back.GetTraceState())
		}
	}
}
