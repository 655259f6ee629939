package errand

import (
	"context"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

const (
	someParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	someState  = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"
)

// The trace of a context is that which came into it last, parent and state together.
func TestTraceFrom(t *testing.T) {
	state, err := trace.ParseTraceState(someState)
	if err != nil {
		t.Fatal(err)
	}
	span := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state,
	}))
	const spanParent = "00-01000000000000000000000000000000-0200000000000000-01"
	for _, c := range []struct {
		what          string
		ctx           context.Context
		parent, state string
	}{
		{"nothing", t.Context(), "", ""},
		{"a mark", ContextWithTrace(t.Context(), someParent, "a=b"), someParent, "a=b"},
		{"a parent alone", ContextWithTraceParent(t.Context(), someParent), someParent, ""},
		{"a span", span, spanParent, someState},
		{"a mark below a span", ContextWithTrace(span, someParent, "a=b"), someParent, "a=b"},
		{"a span below a mark", trace.ContextWithSpanContext(ContextWithTrace(t.Context(), someParent, "a=b"),
			trace.SpanContextFromContext(span)), spanParent, someState},
		{"the span of a job", remoteSpan(t.Context(), someParent, someState), someParent, someState},
		{"the span of a job whose state is none", remoteSpan(t.Context(), someParent, "=;"), someParent, ""},
	} {
		if parent, state := TraceFrom(c.ctx); parent != c.parent || state != c.state {
			t.Errorf("%s: %q, %q; want %q, %q", c.what, parent, state, c.parent, c.state)
		}
	}
}

// badStates are no tracestates, or longer than any that is carried.
var badStates = []string{"=", "no equals sign", "A=upper case", "a=1,a=2", "a=\x00", "a=ü", "a=\xff", strings.Repeat("a=1,", 40),
	"a=" + strings.Repeat("x", 300) + ",b=" + strings.Repeat("y", 300)}

// A state that is none never stands in the way of a job, in a call or in a transaction.
func TestABadTraceStateIsLeftOut(t *testing.T) {
	f := newFake()
	c := NewClient(f, nil)
	for _, state := range badStates {
		if _, err := c.Enqueue(ContextWithTrace(t.Context(), someParent, state), EnqueueParams{Kind: "k"}); err != nil {
			t.Errorf("enqueue with %.30q: %v", state, err)
		}
		if got := sqlTrace(someParent, state); got != someParent {
			t.Errorf("in a transaction, of %.30q: %q", state, got)
		}
	}
	long := "a=" + strings.Repeat("x", 200) + ",b=" + strings.Repeat("y", 251)
	for _, c := range [][3]string{
		{someParent, someState, someParent + " " + someState},
		{someParent, long, someParent + " " + long}, // 512 bytes
		{someParent, long + "y", someParent},
		{someParent, "", someParent}, {"", someState, ""}, {"none", someState, "none"},
	} {
		if got := sqlTrace(c[0], c[1]); got != c[2] {
			t.Errorf("in a transaction, of %q and %.30q: %q", c[0], c[1], got)
		}
	}
}

// An enqueue sends the state beside the parent.
func TestAnEnqueueSendsTheTraceState(t *testing.T) {
	f := newFake()
	c := NewClient(f, nil)
	ctx := ContextWithTrace(t.Context(), someParent, someState)
	if _, err := c.Enqueue(ctx, EnqueueParams{Kind: "k"}); err != nil {
		t.Fatal(err)
	}
	it := f.enqueues[0].GetItems()[0]
	if it.GetTraceParent() != someParent || it.GetTraceState() != someState {
		t.Errorf("sent %q, %q", it.GetTraceParent(), it.GetTraceState())
	}
}
