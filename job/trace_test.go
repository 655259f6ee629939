package job_test

import (
	"strings"
	"testing"

	"github.com/errandhq/errand/job"
)

// What was joined comes apart as it was; what is no traceparent, whatever it
// holds, has no state and stays whole.
func TestTraceIsJoinedAndSplit(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, c := range []struct{ parent, state, joined, backState string }{
		{parent, "a=b", parent + " a=b", "a=b"},
		{parent, "a=b, c=d e", parent + " a=b, c=d e", "a=b, c=d e"},
		{parent, "", parent, ""},
		{"", "a=b", "", ""},
		{"a b", "a=b", "a b", ""},
		{strings.Repeat("x", 512), "a=b", strings.Repeat("x", 512), ""},
	} {
		joined := job.JoinTrace(c.parent, c.state)
		back, state := job.SplitTrace(joined)
		if joined != c.joined || back != c.parent || state != c.backState {
			t.Errorf("%q and %q: %q, and back %q and %q", c.parent, c.state, joined, back, state)
		}
	}
}
