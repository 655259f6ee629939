package errand

import (
	"context"
	"unicode/utf8"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// The headers of W3C trace context that a job carries.
const (
	parentHeader = "traceparent"
	stateHeader  = "tracestate"
)

// What W3C says of their lengths: that of a traceparent of the version 00, and
// that which a tracestate may have for everybody to pass it on.
const (
	traceParentLen = 55
	maxTraceState  = 512
)

type traceKey struct{}

// traceMark is a trace that was put into a context, and the span that was
// active there at that time.
type traceMark struct {
	parent, state string
	span          trace.SpanContext
}

// ContextWithTraceParent is ContextWithTrace without a tracestate.
func ContextWithTraceParent(ctx context.Context, traceparent string) context.Context {
	return ContextWithTrace(ctx, traceparent, "")
}

// ContextWithTrace hands a W3C traceparent, and the tracestate that came with
// it, to the jobs enqueued with this context. A handler's context carries those of its own
// job, so that the jobs it enqueues belong to the same trace.
func ContextWithTrace(ctx context.Context, traceparent, tracestate string) context.Context {
	return context.WithValue(ctx, traceKey{}, traceMark{traceparent, tracestate, trace.SpanContextFromContext(ctx)})
}

// TraceParentFrom returns the traceparent of TraceFrom.
func TraceParentFrom(ctx context.Context) string {
	parent, _ := TraceFrom(ctx)
	return parent
}

// TraceFrom returns the traceparent and the tracestate of the context, or "": those
// of the active OpenTelemetry span, or of ContextWithTrace, whichever came into
// the context later.
func TraceFrom(ctx context.Context) (traceparent, tracestate string) {
	mark, _ := ctx.Value(traceKey{}).(traceMark)
	span := trace.SpanContextFromContext(ctx)
	if !span.IsValid() || mark.parent != "" && mark.span.Equal(span) {
		return mark.parent, mark.state
	}
	var c carrier
	propagation.TraceContext{}.Inject(ctx, &c)
	return c.parent, c.state
}

// remoteSpan makes the span that a trace names the parent of those started
// with the context. A traceparent that is none is ignored, and so is such a tracestate.
func remoteSpan(ctx context.Context, traceparent, tracestate string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, &carrier{traceparent, tracestate})
}

// carrier is a trace as OpenTelemetry reads and writes it.
type carrier struct{ parent, state string }

// Get implements propagation.TextMapCarrier.
func (c *carrier) Get(key string) string {
	switch key {
	case parentHeader:
		return c.parent
	case stateHeader:
		return c.state
	}
	return ""
}

// Set implements propagation.TextMapCarrier.
func (c *carrier) Set(key, value string) {
	switch key {
	case parentHeader:
		c.parent = value
	case stateHeader:
		c.state = value
	}
}

// Keys implements propagation.TextMapCarrier.
func (c *carrier) Keys() []string { return []string{parentHeader, stateHeader} }

// wireTraceState leaves out what the wire cannot carry, or need not. The server
// looks at the rest.
func wireTraceState(s string) string {
	if len(s) > maxTraceState || !utf8.ValidString(s) {
		return ""
	}
	return s
}

// sqlTrace is a trace as errand.enqueue_v1 takes it: a traceparent and, after a
// space, the tracestate, which is left out where it is malformed or both are
// longer than the function takes.
func sqlTrace(traceparent, tracestate string) string {
	if tracestate == "" || len(traceparent) != traceParentLen || traceParentLen+1+len(tracestate) > maxTraceState {
		return traceparent
	}
	if _, err := trace.ParseTraceState(tracestate); err != nil {
		return traceparent
	}
	return traceparent + " " + tracestate
}
