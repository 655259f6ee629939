// Package tracing makes the spans that only a server can tell of: how long a
// job waited. The spans of enqueues and attempts are the SDK's.
package tracing

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// Waits makes a span of each wait, from the time that a job could be taken to
// its lease, in the trace that its enqueue left in it. It is an engine.Observer.
//
// Jobs without a trace have no span, nor have those that their worker gave
// back, of which nobody knows since when they wait again.
type Waits struct {
	tracer trace.Tracer
}

var _ engine.Observer = (*Waits)(nil)

// NewWaits returns an observer that hands its spans to tp.
func NewWaits(tp trace.TracerProvider) *Waits {
	return &Waits{tracer: tp.Tracer("github.com/errandhq/errand/internal/tracing", trace.WithSchemaURL(semconv.SchemaURL))}
}

// Observe implements engine.Observer.
func (w *Waits) Observe(changes []engine.Change) {
	var last origin // neighbours were mostly handed in together
	for i := range changes {
		c := &changes[i]
		if c.Event != job.Lease || c.Job.Trace == "" || c.Job.Lane <= job.LaneFront || c.Job.Kind == job.KindCanary {
			continue
		}
		if last.trace != c.Job.Trace || last.queue != c.Job.Queue {
			last = originOf(c.Job)
		}
		if last.made.IsValid() {
			w.waited(&last, c.Job)
		}
	}
}

// origin is where jobs came from: what the spans of their waits have in common.
type origin struct {
	trace, queue string
	name         string
	ctx          context.Context
	made         trace.SpanContext
}

func originOf(j *job.Job) origin {
	ctx := WithParent(context.Background(), j.Trace)
	return origin{j.Trace, j.Queue, "wait " + j.Queue, ctx, trace.SpanContextFromContext(ctx)}
}

func (w *Waits) waited(o *origin, j *job.Job) {
	_, span := w.tracer.Start(o.ctx, o.name, trace.WithTimestamp(j.RunAt))
	if !span.IsRecording() {
		return
	}
	until := j.LeasedAt
	if until.Before(j.RunAt) {
		until = j.RunAt // the ledger's clock was set back
	}
	span.AddLink(trace.Link{SpanContext: o.made})
	span.SetAttributes(
		semconv.MessagingSystemKey.String("errand"),
		semconv.MessagingDestinationName(j.Queue),
		semconv.MessagingMessageID(j.ID.String()),
		attribute.String("errand.job.kind", j.Kind),
		attribute.Int("errand.job.attempt", j.Attempt),
	)
	span.End(trace.WithTimestamp(until))
}

// The headers of the W3C trace context.
const (
	parentHeader = "traceparent"
	stateHeader  = "tracestate"
)

// WithParent returns a context whose span is the one that a job's trace
// names; a value that is none is ignored, and so is a state that is none.
func WithParent(ctx context.Context, traced string) context.Context {
	parent, state := job.SplitTrace(traced)
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{parentHeader: parent, stateHeader: state})
}

// Canonical is the trace of a job whose call has these headers, in the form of
// the version that this server knows, or "" if traceparent is none: later versions may
// add what no job has room for.
func Canonical(traceparent, tracestate string) string {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{parentHeader: traceparent})
	named := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, named)
	return Join(named.Get(parentHeader), tracestate)
}

// Join is job.JoinTrace of a tracestate that may be anything: one that is
// malformed or too long is left out whole.
func Join(traceparent, tracestate string) string {
	if tracestate == "" {
		return traceparent
	}
	if len(tracestate) > job.MaxTraceState {
		return traceparent
	}
	state, err := trace.ParseTraceState(tracestate)
	if err != nil {
		return traceparent
	}
	return job.JoinTrace(traceparent, state.String())
}
