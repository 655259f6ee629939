package api

import (
	"strings"
	"testing"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// Jobs get the call's trace as this version writes it: what a later one adds does not
// refuse the enqueue, and what is none is left out.
func TestTheCallsTrace(t *testing.T) {
	const known = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	later := "cc" + known[2:] + "-" + strings.Repeat("a", job.MaxTrace)
	for trace, want := range map[string]string{known: known, later: known, "none": "", "": ""} {
		items := []engine.Item{{}, {Job: job.Job{Trace: "its own"}}}
		Call{Trace: trace}.traceItems(items)
		if items[0].Job.Trace != want || items[1].Job.Trace != "its own" {
			t.Errorf("of the call's trace %.60q jobs got %q and %q; want %q", trace, items[0].Job.Trace, items[1].Job.Trace, want)
		}
	}
}
