package e2e

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/errandpgx"
	"github.com/errandhq/errand/internal/otlp"
	"github.com/errandhq/errand/internal/otlp/otlptest"
	"github.com/errandhq/errand/test/cluster"
)

// tracedCluster is a server, a worker of the command line and a producer in
// this process, which all export to one collector, over the wire.
type tracedCluster struct {
	*cluster.Cluster
	collector *otlptest.Collector
	client    *errand.Client
	tracer    trace.Tracer
}

// onATracedCluster runs f on each ledger. The worker fails the first attempt of
// jobs whose payload is "twice", and leaves the trace that it was given as the result.
func onATracedCluster(t *testing.T, f func(t *testing.T, c tracedCluster)) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		collector := otlptest.Start(t)
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL())
		t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
		t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
		t.Setenv("ERRAND_BACKOFF_BASE", "100ms")
		c.AddServer()
		c.Run("worker", cluster.Errand(t), "work", "--server", c.URLs(), "--queue", "mail", "--exec", "sh", "-c",
			`read kind; printf %s "$TRACEPARENT${TRACESTATE:+ $TRACESTATE}"; [ "$kind" != '"twice"' ] || [ "$ERRAND_ATTEMPT" -gt 1 ]`)
		p, err := otlp.FromEnv(t.Context(), "test", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		client := c.NewClient()
		if err := client.Instrument(p.Tracer, p.Meter); err != nil {
			t.Fatal(err)
		}
		f(t, tracedCluster{c, collector, client, p.Tracer.Tracer("test")})
	})
}

var letter = errand.NewTask[string]("letter", errand.Queue("mail"))

// One trace tells the whole life of a job over three processes: the caller's
// span, the enqueue below it, and below that each wait and each attempt, which
// are linked to it as well.
func TestATraceFollowsAJob(t *testing.T) {
	onATracedCluster(t, func(t *testing.T, c tracedCluster) {
		ctx, order := c.tracer.Start(t.Context(), "order")
		id, err := letter.Enqueue(ctx, c.client, "twice")
		if err != nil {
			t.Fatal(err)
		}
		order.End()
		j := c.AwaitState(id, errand.Succeeded)

		caller := c.collector.Await("order", 1)[0]
		send := c.collector.Await("send mail", 1)[0]
		waits, attempts := c.collector.Await("wait mail", 2), c.collector.Await("process mail", 2)
		is(t, "parent of the enqueue", send.Parent, caller.ID)
		is(t, "kind of the enqueue", send.Kind, "SPAN_KIND_PRODUCER")
		is(t, "job of the enqueue", send.Attrs["messaging.message.id"], id.String())
		for i, s := range append(waits, attempts...) {
			is(t, "trace of "+s.Name, s.Trace, caller.Trace)
			is(t, "parent of "+s.Name, s.Parent, send.ID)
			is(t, "links of "+s.Name, strings.Join(s.Links, " "), send.ID)
			is(t, "attempt of "+s.Name, s.Attrs["errand.job.attempt"], []string{"1", "2"}[i%2])
			is(t, "queue of "+s.Name, s.Attrs["messaging.destination.name"], "mail")
		}
		for i, a := range attempts {
			is(t, "kind of an attempt", a.Kind, "SPAN_KIND_CONSUMER")
			is(t, "an attempt failed", a.Failed, i == 0)
			// Waits are told by the ledger's clock, attempts by the worker's: no two clocks are compared.
			if w := waits[i]; w.End.Before(w.Start) || a.End.Before(a.Start) {
				t.Errorf("wait %d from %s to %s, its attempt from %s to %s", i, w.Start, w.End, a.Start, a.End)
			}
		}
		is(t, "what the command was given", string(j.Result), "00-"+caller.Trace+"-"+attempts[1].ID+"-01")
		for _, m := range []struct {
			name  string
			n     int64
			attrs map[string]string
		}{
			{"messaging.client.sent.messages", 1, map[string]string{"messaging.operation.name": "send", "messaging.destination.name": "mail"}},
			{"messaging.client.consumed.messages", 2, map[string]string{"messaging.operation.name": "receive", "messaging.destination.name": "mail"}},
			{"messaging.client.operation.duration", 1, map[string]string{"messaging.operation.name": "send"}},
			{"messaging.client.operation.duration", 2, map[string]string{"messaging.operation.name": "settle"}},
			{"messaging.process.duration", 1, map[string]string{"messaging.operation.name": "process", "error.type": "failed"}},
		} {
			p := c.collector.AwaitPoint(m.name, m.n, m.attrs)
			is(t, "system of "+m.name, p.Attrs["messaging.system"], "errand")
		}
	})
}

// A traceparent that is none is no harm: the job runs, in a trace of its own.
func TestABadTraceparentIsIgnored(t *testing.T) {
	onATracedCluster(t, func(t *testing.T, c tracedCluster) {
		bad := []string{"nonsense", "00-00000000000000000000000000000000-b7ad6b7169203331-01",
			"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"}
		var ids []string
		for _, parent := range bad {
			id, err := letter.Enqueue(t.Context(), c.client, "once", errand.TraceParent(parent))
			if err != nil {
				t.Fatal(err)
			}
			c.AwaitState(id, errand.Succeeded)
			ids = append(ids, id.String())
		}
		for _, s := range c.collector.Await("process mail", len(bad)) {
			is(t, "parent", s.Parent, "")
			is(t, "links", len(s.Links), 0)
			is(t, "is one of the jobs", slices.Contains(ids, s.Attrs["messaging.message.id"]), true)
		}
		for _, s := range c.collector.Spans() {
			if s.Name == "wait mail" {
				t.Errorf("a wait has a span without a trace to be in: %+v", s)
			}
		}
	})
}

// Who sends JSON by hand, with the header that every tracing HTTP client sends,
// has its jobs in its trace; a header that is none is ignored.
func TestTheHeaderOfACallIsTheTraceOfItsJobs(t *testing.T) {
	onATracedCluster(t, func(t *testing.T, c tracedCluster) {
		post := func(header, id string) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.URLs()+"/errand.v1.QueueService/Enqueue",
				strings.NewReader(`{"items":[{"id":"`+id+`","kind":"letter","queue":"mail","json":"once"}]}`))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("traceparent", header)
			r.Header["Tracestate"] = []string{"congo=1", "rojo=2"} // as proxies may split it
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			is(t, "status", resp.StatusCode, http.StatusOK)
		}
		plain, traced := errand.NewID(), errand.NewID()
		post(strings.Repeat("x", 600), plain.String())
		untraced := c.AwaitState(plain, errand.Succeeded)
		is(t, "trace after a bad header", untraced.TraceParent+untraced.TraceState, "")
		const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		post(parent, traced.String())
		j := c.AwaitState(traced, errand.Succeeded)
		is(t, "trace", j.TraceParent, parent)
		is(t, "state of the trace", j.TraceState, "congo=1,rojo=2")
		is(t, "state that the command was given", strings.TrimPrefix(string(j.Result), "00-0af7651916cd43dd8448eb211c80319c-")[19:], " congo=1,rojo=2")
		is(t, "parent of the wait", c.collector.Await("wait mail", 1)[0].Parent, "b7ad6b7169203331")
	})
}

// withState is the context of a caller who was called with a tracestate.
func withState(ctx context.Context, t *testing.T) context.Context {
	t.Helper()
	state, err := trace.ParseTraceState("congo=1")
	if err != nil {
		t.Fatal(err)
	}
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state,
	}))
}

// A job of the caller's own transaction is in the trace of the span around it.
func TestATraceFollowsAJobOfATransaction(t *testing.T) {
	onATracedCluster(t, func(t *testing.T, c tracedCluster) {
		if c.Postgres == nil {
			return // a transaction of the caller's own needs PostgreSQL
		}
		conn, err := pgx.Connect(t.Context(), c.Ledger)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		ctx, span := c.tracer.Start(withState(t.Context(), t), "checkout")
		tx, err := conn.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		id, err := errandpgx.EnqueueTx(ctx, tx, letter, "twice")
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		span.End()
		is(t, "state of the trace", c.AwaitState(id, errand.Succeeded).TraceState, "congo=1")
		checkout := c.collector.Await("checkout", 1)[0]
		for _, s := range append(c.collector.Await("wait mail", 2), c.collector.Await("process mail", 2)...) {
			is(t, "trace of "+s.Name, s.Trace, checkout.Trace)
			is(t, "parent of "+s.Name, s.Parent, checkout.ID)
		}
	})
}
