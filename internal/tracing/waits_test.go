package tracing

import (
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// Jobs that are told of together have each a span in its own trace, with its own queue.
func TestWaitsOfNeighbours(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	w := NewWaits(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	const (
		one      = "00-11111111111111111111111111111111-2222222222222222-01"
		two      = "00-33333333333333333333333333333333-4444444444444444-01"
		unwanted = "00-55555555555555555555555555555555-6666666666666666-00"
	)
	var changes []engine.Change
	lease := func(queue, trace string) {
		changes = append(changes, engine.Change{Event: job.Lease, Job: &job.Job{
			Queue: queue, Trace: trace, Lane: job.LaneFront + 1, RunAt: time.Unix(1, 0), LeasedAt: time.Unix(2, 0),
		}})
	}
	lease("q", one)
	lease("q", one)
	lease("p", one)
	lease("p", two)
	lease("p", "none of W3C's")
	lease("p", "")
	lease("p", unwanted)
	lease("p", two+" a=b")
	w.Observe(changes)
	var got []string
	for _, s := range spans.Ended() {
		if link := s.Links()[0].SpanContext; link.TraceID() != s.Parent().TraceID() || link.SpanID() != s.Parent().SpanID() {
			t.Errorf("%s: its link is %v, its parent %v", s.Name(), link, s.Parent())
		}
		got = append(got, s.Name()+" "+s.Parent().TraceID().String()[:2]+" "+s.Parent().TraceState().String())
	}
	want := []string{"wait q 11 ", "wait q 11 ", "wait p 11 ", "wait p 33 ", "wait p 33 a=b"}
	if len(got) != len(want) {
		t.Fatalf("spans %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("span %d is %q, want %q", i, got[i], want[i])
		}
	}
}
