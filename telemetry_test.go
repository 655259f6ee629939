package errand

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// instrumented is a client of a fake whose spans and metrics are kept.
func instrumented(t *testing.T, f *fake) (*Client, *tracetest.SpanRecorder, *sdkmetric.ManualReader) {
	t.Helper()
	spans, reader := tracetest.NewSpanRecorder(), sdkmetric.NewManualReader()
	c := NewClient(f, nil)
	c.retryFor = 0
	tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	if err := c.Instrument(tp, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))); err != nil {
		t.Fatal(err)
	}
	return c, spans, reader
}

// One call is one span, and all its jobs are in its trace; an explicit trace of
// a job is kept.
func TestABatchHasOneSpan(t *testing.T) {
	f := newFake()
	c, spans, reader := instrumented(t, f)
	const own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	_, err := c.EnqueueBatch(t.Context(), []EnqueueParams{{Kind: "a", Queue: "x"}, {Kind: "a"}, {Kind: "a", TraceParent: own}})
	if err != nil {
		t.Fatal(err)
	}
	ended := spans.Ended()
	if len(ended) != 1 || ended[0].Name() != "send" || ended[0].SpanKind() != trace.SpanKindProducer {
		t.Fatalf("spans %v, want one \"send\"", ended)
	}
	sc := ended[0].SpanContext()
	want := "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-01"
	for i, parent := range []string{want, want, own} {
		if got := f.enqueues[0].GetItems()[i].GetTraceParent(); got != parent {
			t.Errorf("item %d has trace %q, want %q", i, got, parent)
		}
	}
	if got := counts(t, reader, "messaging.client.sent.messages"); !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("sent %v, want 1 to one queue and 2 to the other", got)
	}
}

func TestAFailedEnqueueIsAFailedSpan(t *testing.T) {
	f := newFake()
	f.on = func(string, int, bool) error { return wireErr(CodeResourceExhausted, ReasonQueueFull) }
	c, spans, _ := instrumented(t, f)
	if _, err := c.Enqueue(t.Context(), EnqueueParams{Kind: "a"}); err == nil {
		t.Fatal("the call went well")
	}
	s := spans.Ended()[0]
	why := ""
	for _, a := range s.Attributes() {
		if a.Key == "error.type" {
			why = a.Value.AsString()
		}
	}
	if s.Status().Code != codes.Error || why != string(ReasonQueueFull) {
		t.Errorf("status %v, error.type %q", s.Status(), why)
	}
}

// Every end of a handler ends its span, and what it enqueues is below it.
func TestEveryOutcomeEndsItsSpan(t *testing.T) {
	f := newFake()
	c, spans, reader := instrumented(t, f)
	f.add("works", 1)
	f.add("fails", 1)
	f.add("panics", 1)
	f.add("waits", 1)
	w := &Worker{Client: c, Logger: slog.New(slog.DiscardHandler)}
	HandleKind(w, "works", func(ctx context.Context, _ *RawJob) error {
		_, err := c.Enqueue(ctx, EnqueueParams{Kind: "next", Queue: "elsewhere"})
		return err
	})
	HandleKind(w, "fails", func(context.Context, *RawJob) error { return Discard(errors.New("no")) })
	HandleKind(w, "panics", func(context.Context, *RawJob) error { panic("oh") })
	HandleKind(w, "waits", func(context.Context, *RawJob) error { return Snooze(time.Hour) })
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	attempts := map[string]sdktrace.ReadOnlySpan{}
	var below sdktrace.ReadOnlySpan
	for len(attempts) < 4 && ctx.Err() == nil {
		time.Sleep(time.Millisecond) // the recorder has no signal
		for _, s := range spans.Ended() {
			switch s.Name() {
			case "process default":
				attempts[text(s, attrKind)] = s
			case "send elsewhere":
				below = s
			}
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for kind, outcome := range map[string]Outcome{
		"works": OutcomeSucceeded, "fails": OutcomeDiscarded, "panics": OutcomeFailed, "waits": OutcomeSnoozed,
	} {
		s := attempts[kind]
		failed := outcome == OutcomeFailed || outcome == OutcomeDiscarded
		if s == nil || text(s, attrOutcome) != string(outcome) || (s.Status().Code == codes.Error) != failed {
			t.Errorf("%s: span %v, want outcome %s", kind, s, outcome)
		}
	}
	if below == nil || below.Parent().SpanID() != attempts["works"].SpanContext().SpanID() {
		t.Errorf("the enqueue of a handler is not below its attempt: %v", below)
	}
	total := int64(0)
	for _, n := range counts(t, reader, "messaging.process.duration") {
		total += n
	}
	if total < 4 {
		t.Errorf("messaging.process.duration has %d values, want 4", total)
	}
}

// The newest of an explicit traceparent and an active span wins.
func TestTheNewestTraceWins(t *testing.T) {
	const explicit = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	tracer := sdktrace.NewTracerProvider().Tracer("")
	ctx, span := tracer.Start(ContextWithTraceParent(t.Context(), explicit), "later")
	sc := span.SpanContext()
	if got, want := TraceParentFrom(ctx), "00-"+sc.TraceID().String()+"-"+sc.SpanID().String()+"-01"; got != want {
		t.Errorf("a span after the explicit one: %q, want %q", got, want)
	}
	if got := TraceParentFrom(ContextWithTraceParent(ctx, explicit)); got != explicit {
		t.Errorf("an explicit one after the span: %q, want %q", got, explicit)
	}
	if got := TraceParentFrom(t.Context()); got != "" {
		t.Errorf("of an empty context: %q", got)
	}
}

// Without providers nothing is allocated on the way of a job.
func TestSilenceAllocatesNothing(t *testing.T) {
	c := NewClient(newFake(), nil)
	if err := c.Instrument(nil, nil); err != nil || c.telemetry != nil {
		t.Fatalf("telemetry %v, %v; want none", c.telemetry, err)
	}
	ctx, j, began := t.Context(), &RawJob{Queue: "q", Kind: "k"}, time.Now()
	jobs := []*lease{{job: RawJob{Queue: "q"}}}
	got := testing.AllocsPerRun(1000, func() {
		c.telemetry.received(ctx, began, jobs, nil)
		_, a := c.telemetry.process(ctx, j)
		a.end(ctx, OutcomeSucceeded, "", 0)
		c.telemetry.settled(ctx, began, nil)
		_, _ = TraceFrom(ctx)
		_ = wireTraceState("")
	})
	if got != 0 {
		t.Errorf("%v allocations a job, want 0", got)
	}
}

// However many queues a client works for, what it keeps of them is bounded.
func TestSetsAreBounded(t *testing.T) {
	var s sets
	for i := range 2 * maxSets {
		queue := "q" + strconv.Itoa(i)
		for range 2 {
			if got := s.get(opProcess, queue, ""); got.name != "process "+queue || len(got.timed) != 1 {
				t.Fatalf("queue %s: %+v", queue, got)
			}
		}
	}
	if len(s.of) != maxSets {
		t.Errorf("%d are kept, want %d", len(s.of), maxSets)
	}
}

// Attempts that follow one another belong each to its own job's trace.
func TestTracesOfNeighbours(t *testing.T) {
	c, spans, _ := instrumented(t, newFake())
	const one, two = "00-11111111111111111111111111111111-2222222222222222-01", "00-33333333333333333333333333333333-4444444444444444-01"
	for _, j := range []RawJob{
		{TraceParent: one}, {TraceParent: one}, {}, {TraceParent: two}, {TraceParent: two, TraceState: "a=b"}, {TraceParent: "none"}, {TraceParent: one},
	} {
		ctx, a := c.telemetry.process(t.Context(), &j)
		a.end(ctx, OutcomeSucceeded, "", time.Millisecond)
	}
	var got []string
	for _, s := range spans.Ended() {
		got = append(got, s.Parent().TraceID().String()[:1]+strconv.Itoa(len(s.Links()))+s.Parent().TraceState().String())
	}
	if want := []string{"11", "11", "00", "31", "31a=b", "00", "11"}; !slices.Equal(got, want) {
		t.Errorf("trace, links and state of the parents: %q, want %q", got, want)
	}
}

// BenchmarkTelemetry is what an attempt costs a worker: silent, and told, in a
// trace that is sampled and in one that is not.
func BenchmarkTelemetry(b *testing.B) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"
	told := NewClient(newFake(), nil)
	if err := told.Instrument(sdktrace.NewTracerProvider(), sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))); err != nil {
		b.Fatal(err)
	}
	for _, one := range []struct {
		name, flag string
		c          *Client
	}{{"silent", "1", NewClient(newFake(), nil)}, {"sampled", "1", told}, {"unsampled", "0", told}} {
		c, j := one.c, &RawJob{ID: NewID(), Queue: "q", Kind: "k", TraceParent: parent + one.flag}
		b.Run(one.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ctx, a := c.telemetry.process(b.Context(), j)
				a.end(ctx, OutcomeSucceeded, "", time.Millisecond)
			}
		})
	}
}

func text(s sdktrace.ReadOnlySpan, key attribute.Key) string {
	for _, a := range s.Attributes() {
		if a.Key == key {
			return a.Value.AsString()
		}
	}
	return ""
}

// counts are the values of a counter, or the counts of a histogram, in order.
func counts(t *testing.T, reader *sdkmetric.ManualReader, metric string) []int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	var out []int64
	for _, sm := range all.ScopeMetrics {
		for _, m := range sm.Metrics {
			if m.Name != metric {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					out = append(out, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					out = append(out, int64(p.Count))
				}
			}
		}
	}
	slices.Sort(out)
	return out
}
