package errand

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// scope names this package to whoever reads its spans and metrics.
const scope = "github.com/errandhq/errand"

// The attributes of spans that the messaging conventions have no name for.
const (
	attrKind    = attribute.Key("errand.job.kind")
	attrAttempt = attribute.Key("errand.job.attempt")
	attrOutcome = attribute.Key("errand.job.outcome")
)

// system is the value of messaging.system.
const system = "errand"

// operation is what a span or a duration measures, by name and type.
type operation struct {
	name string
	kind string
}

var (
	opSend    = operation{"send", "send"}
	opReceive = operation{"receive", "receive"}
	opProcess = operation{"process", "process"}
	opSettle  = operation{"settle", "settle"}
)

// clientBounds are the bounds of both durations, in seconds: those that the
// conventions give.
var clientBounds = metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

// telemetry makes the spans and metrics of the OpenTelemetry messaging
// conventions. A nil telemetry is silent, and costs nothing.
type telemetry struct {
	tracer    trace.Tracer
	sent      metric.Int64Counter
	consumed  metric.Int64Counter
	operation metric.Float64Histogram
	processed metric.Float64Histogram
	sets      sets
	origin    atomic.Pointer[origin] // of the last attempt
}

// Instrument makes the client, and every worker that has it as its Client, tell
// OpenTelemetry what they do: a span for each enqueue, whose trace goes with the
// jobs, and one for each attempt, which belongs to that trace; and the four
// messaging metrics. Either provider may be nil; with both nil nothing is told,
// at no cost. Globals of OpenTelemetry are never used. Call it before the client
// is used.
func (c *Client) Instrument(tp trace.TracerProvider, mp metric.MeterProvider) error {
	c.telemetry = nil
	if tp == nil && mp == nil {
		return nil
	}
	if tp == nil {
		tp = tracenoop.NewTracerProvider()
	}
	if mp == nil {
		mp = metricnoop.NewMeterProvider()
	}
	meter := mp.Meter(scope, metric.WithInstrumentationVersion(Version), metric.WithSchemaURL(semconv.SchemaURL))
	sent, err1 := messagingconv.NewClientSentMessages(meter)
	consumed, err2 := messagingconv.NewClientConsumedMessages(meter)
	operation, err3 := messagingconv.NewClientOperationDuration(meter, clientBounds)
	process, err4 := messagingconv.NewProcessDuration(meter, clientBounds)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return fmt.Errorf("errand: instruments: %w", err)
	}
	c.telemetry = &telemetry{
		tracer: tp.Tracer(scope, trace.WithInstrumentationVersion(Version), trace.WithSchemaURL(semconv.SchemaURL)),
		sent:   sent.Inst(), consumed: consumed.Inst(), operation: operation.Inst(), processed: process.Inst(),
	}
	return nil
}

// sending is an enqueue under way.
type sending struct {
	t     *telemetry
	span  trace.Span
	queue string // "" if the jobs go to several
	began time.Time
}

// send begins the span of an enqueue: one for the call, however many jobs it
// has. Jobs without a trace of their own get its context.
func (t *telemetry) send(ctx context.Context, ps []EnqueueParams) (context.Context, sending) {
	s := sending{t: t, queue: queueOf(&ps[0]), began: time.Now()}
	for i := range ps {
		if queueOf(&ps[i]) != s.queue {
			s.queue = ""
			break
		}
	}
	set := t.sets.get(opSend, s.queue, "")
	ctx, s.span = t.tracer.Start(ctx, set.name, trace.WithTimestamp(s.began), asProducer, set.span)
	switch {
	case !s.span.IsRecording():
	case len(ps) > 1:
		s.span.SetAttributes(semconv.MessagingBatchMessageCount(len(ps)))
	default:
		s.span.SetAttributes(attrKind.String(ps[0].Kind))
	}
	return ctx, s
}

// end ends it, with the answers or the error of the call.
func (s sending) end(ctx context.Context, ps []EnqueueParams, rs []EnqueueResult, err error) {
	took := time.Since(s.began)
	if err == nil && len(rs) == 1 {
		s.span.SetAttributes(semconv.MessagingMessageID(rs[0].ID.String()))
		err = rs[0].Err
	}
	why := errorType(err)
	if err != nil {
		s.span.SetAttributes(semconv.ErrorTypeKey.String(why))
		s.span.SetStatus(codes.Error, err.Error())
	}
	s.span.End(trace.WithTimestamp(s.began.Add(took)))
	s.t.operation.Record(ctx, took.Seconds(), s.t.sets.get(opSend, s.queue, why).timed...)
	counts := map[string]int64{}
	for i := range ps {
		counts[queueOf(&ps[i])]++
	}
	for queue, n := range counts {
		s.t.sent.Add(ctx, n, s.t.sets.get(opSend, queue, why).added...)
	}
}

// received measures a Lease call, and counts the jobs that it brought.
func (t *telemetry) received(ctx context.Context, began time.Time, jobs []*lease, err error) {
	if t == nil {
		return
	}
	queue := ""
	n := int64(0)
	for _, l := range jobs {
		if l.job.Kind != kindCanary {
			queue = l.job.Queue // the jobs of one answer are of one queue
			n++
		}
	}
	why := errorType(fromWire(err))
	set := t.sets.get(opReceive, queue, why)
	t.operation.Record(ctx, time.Since(began).Seconds(), set.timed...)
	if n > 0 {
		t.consumed.Add(ctx, n, set.added...)
	}
}

// settled measures a Settle call.
func (t *telemetry) settled(ctx context.Context, began time.Time, err error) {
	if t == nil {
		return
	}
	t.operation.Record(ctx, time.Since(began).Seconds(), t.sets.get(opSettle, "", errorType(fromWire(err))).timed...)
}

// attempt is a handler at work.
type attempt struct {
	t     *telemetry
	span  trace.Span
	queue string
}

// process begins the span of an attempt. Its parent is the span that the job
// was enqueued under, and it is linked to it too, for those who follow links:
// a job that is tried again and again stays in one trace.
func (t *telemetry) process(ctx context.Context, j *RawJob) (context.Context, attempt) {
	if t == nil {
		return ctx, attempt{}
	}
	set := t.sets.get(opProcess, j.Queue, "")
	made := t.originOf(j)
	if made.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, made)
	}
	ctx, span := t.tracer.Start(ctx, set.name, asConsumer, set.span)
	if span.IsRecording() {
		span.SetAttributes(semconv.MessagingMessageID(j.ID.String()), attrKind.String(j.Kind), attrAttempt.Int(j.Attempt))
		if made.IsValid() {
			span.AddLink(trace.Link{SpanContext: made})
		}
	}
	return ctx, attempt{t, span, j.Queue}
}

// origin is the span that a job was enqueued under.
type origin struct {
	parent, state string
	span          trace.SpanContext // not valid: the trace names none
}

// originOf reads a job's trace, once for neighbours, which were mostly enqueued together.
func (t *telemetry) originOf(j *RawJob) trace.SpanContext {
	if j.TraceParent == "" {
		return trace.SpanContext{}
	}
	o := t.origin.Load()
	if o == nil || o.parent != j.TraceParent || o.state != j.TraceState {
		ctx := remoteSpan(context.Background(), j.TraceParent, j.TraceState)
		o = &origin{j.TraceParent, j.TraceState, trace.SpanContextFromContext(ctx)}
		t.origin.Store(o)
	}
	return o.span
}

// end ends it. A job that is given back or put off has not failed.
func (a attempt) end(ctx context.Context, o Outcome, message string, ran time.Duration) {
	if a.t == nil {
		return
	}
	why := ""
	if o == OutcomeFailed || o == OutcomeDiscarded {
		why = string(o)
	}
	if a.span.IsRecording() {
		a.span.SetAttributes(attrOutcome.String(string(o)))
		if why != "" {
			a.span.SetAttributes(semconv.ErrorTypeKey.String(why))
			a.span.SetStatus(codes.Error, message)
		}
	}
	a.span.End()
	a.t.processed.Record(ctx, ran.Seconds(), a.t.sets.get(opProcess, a.queue, why).measured...)
}

// errorType names the sort of an error: few values, as the conventions want it.
func errorType(err error) string {
	if err == nil {
		return ""
	}
	e := ErrorOf(err)
	if e.Reason != "" {
		return string(e.Reason)
	}
	return e.Code.String()
}

// queueOf is the queue that the server will put a job into.
func queueOf(p *EnqueueParams) string {
	if p.Queue == "" {
		return "default"
	}
	return p.Queue
}
