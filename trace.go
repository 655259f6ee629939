package errand

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// parentHeader is the one header of W3C trace context that a job carries.
const parentHeader = "traceparent"

type traceKey struct{}

// traceMark is a traceparent that was put into a context, and the span that
// was active there at that time.
type traceMark struct {
	parent string
	span   trace.SpanContext
}

// ContextWithTraceParent hands a W3C traceparent to the jobs enqueued with this
// context. A handler's context carries that of its own job, so that the jobs it
// enqueues belong to the same trace.
func ContextWithTraceParent(ctx context.Context, traceparent string) context.Context {
	return context.WithValue(ctx, traceKey{}, traceMark{traceparent, trace.SpanContextFromContext(ctx)})
}

// TraceParentFrom returns the traceparent of the context, or "": that of the
// active OpenTelemetry span, or of ContextWithTraceParent, whichever came into
// the context later.
func TraceParentFrom(ctx context.Context) string {
	mark, _ := ctx.Value(traceKey{}).(traceMark)
	span := trace.SpanContextFromContext(ctx)
	if !span.IsValid() || mark.parent != "" && mark.span.Equal(span) {
		return mark.parent
	}
	headers := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, headers)
	return headers[parentHeader]
}

// remoteSpan makes the span that a traceparent names the parent of those
// started with the context. A value that is none is ignored.
func remoteSpan(ctx context.Context, traceparent string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{parentHeader: traceparent})
}
