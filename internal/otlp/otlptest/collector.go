// Package otlptest is a collector for tests: spans and metrics come over the
// wire, by OTLP over HTTP and over gRPC, and are kept to look at.
package otlptest

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	metricsv1 "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracesv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	datav1 "go.opentelemetry.io/proto/otlp/metrics/v1"
	spanv1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// patience bounds every wait for something to arrive.
const patience = 60 * time.Second

// Span is a span that was received. Ids are in hexadecimal.
type Span struct {
	Name, Service, Trace, ID, Parent, Kind string
	Links                                  []string // span ids
	Attrs                                  map[string]string
	Failed                                 bool
	Start, End                             time.Time
}

// Point is a counter's value, or how many values a histogram has seen.
type Point struct {
	Metric, Unit string
	Attrs        map[string]string
	N            int64
}

// Collector receives until its test ends.
type Collector struct {
	t    testing.TB
	http *httptest.Server
	grpc string

	mu     sync.Mutex
	spans  []Span
	points map[string]Point // the newest of each series
	grown  chan struct{}
}

// Start starts a collector on loopback.
func Start(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{t: t, points: map[string]Point{}, grown: make(chan struct{})}
	mux := http.NewServeMux()
	mux.Handle("POST /v1/traces", receive(c.addSpans))
	mux.Handle("POST /v1/metrics", receive(c.addMetrics))
	c.http = httptest.NewServer(mux)
	t.Cleanup(c.http.Close)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	tracesv1.RegisterTraceServiceServer(s, traces{c: c})
	metricsv1.RegisterMetricsServiceServer(s, metrics{c: c})
	go func() { _ = s.Serve(l) }() // ends with Stop
	t.Cleanup(s.Stop)
	c.grpc = "http://" + l.Addr().String()
	return c
}

// URL is the endpoint for OTLP over HTTP, and GRPC that over gRPC.
func (c *Collector) URL() string  { return c.http.URL }
func (c *Collector) GRPC() string { return c.grpc }

// Await waits for spans until those of the name are as many as want, and
// returns them by their start.
func (c *Collector) Await(name string, want int) []Span {
	c.t.Helper()
	var found []Span
	c.await(fmt.Sprintf("%d spans %q", want, name), func() bool {
		found = found[:0]
		for _, s := range c.spans {
			if s.Name == name {
				found = append(found, s)
			}
		}
		return len(found) >= want
	})
	slices.SortFunc(found, func(a, b Span) int { return a.Start.Compare(b.Start) })
	return found
}

// AwaitPoint waits for a value of a metric whose attributes include attrs, and which
// is at least n, and returns it.
func (c *Collector) AwaitPoint(metric string, n int64, attrs map[string]string) Point {
	c.t.Helper()
	var found Point
	c.await(fmt.Sprintf("metric %s%v >= %d", metric, attrs, n), func() bool {
		for _, p := range c.points {
			if p.Metric == metric && p.N >= n && includes(p.Attrs, attrs) {
				found = p
				return true
			}
		}
		return false
	})
	return found
}

// Spans returns all that was received so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

func (c *Collector) await(what string, yes func() bool) {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		ok, grown := yes(), c.grown
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-grown:
		case <-deadline:
			c.t.Fatalf("%s did not come within %s; spans: %+v\nmetrics: %+v", what, patience, c.Spans(), c.points)
		}
	}
}

func includes(all, some map[string]string) bool {
	for k, v := range some {
		if all[k] != v {
			return false
		}
	}
	return true
}

// receive answers one kind of OTLP request over HTTP.
func receive[M any, P interface {
	*M
	proto.Message
}](add func(P)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			body = z
		}
		b, err := io.ReadAll(body)
		m := P(new(M))
		if err == nil {
			err = proto.Unmarshal(b, m)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		add(m)
		w.Header().Set("Content-Type", "application/x-protobuf")
	})
}

// traces and metrics are the services over gRPC.
type traces struct {
	tracesv1.UnimplementedTraceServiceServer
	c *Collector
}

func (s traces) Export(_ context.Context, r *tracesv1.ExportTraceServiceRequest) (*tracesv1.ExportTraceServiceResponse, error) {
	s.c.addSpans(r)
	return &tracesv1.ExportTraceServiceResponse{}, nil
}

type metrics struct {
	metricsv1.UnimplementedMetricsServiceServer
	c *Collector
}

func (s metrics) Export(_ context.Context, r *metricsv1.ExportMetricsServiceRequest) (*metricsv1.ExportMetricsServiceResponse, error) {
	s.c.addMetrics(r)
	return &metricsv1.ExportMetricsServiceResponse{}, nil
}

func (c *Collector) addSpans(r *tracesv1.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range r.GetResourceSpans() {
		service := texts(rs.GetResource().GetAttributes())["service.name"]
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				c.spans = append(c.spans, spanOf(service, s))
			}
		}
	}
	c.grow()
}

func spanOf(service string, s *spanv1.Span) Span {
	out := Span{
		Name: s.GetName(), Service: service, Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()),
		Parent: hex.EncodeToString(s.GetParentSpanId()), Kind: s.GetKind().String(), Attrs: texts(s.GetAttributes()),
		Failed: s.GetStatus().GetCode() == spanv1.Status_STATUS_CODE_ERROR,
		Start:  time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())),
	}
	for _, l := range s.GetLinks() {
		out.Links = append(out.Links, hex.EncodeToString(l.GetSpanId()))
	}
	return out
}

func (c *Collector) addMetrics(r *metricsv1.ExportMetricsServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rm := range r.GetResourceMetrics() {
		for _, sm := range rm.GetScopeMetrics() {
			for _, m := range sm.GetMetrics() {
				c.addMetric(m)
			}
		}
	}
	c.grow()
}

func (c *Collector) addMetric(m *datav1.Metric) {
	add := func(attrs []*commonv1.KeyValue, n int64) {
		p := Point{Metric: m.GetName(), Unit: m.GetUnit(), Attrs: texts(attrs), N: n}
		c.points[fmt.Sprint(p.Metric, p.Attrs)] = p
	}
	for _, d := range m.GetSum().GetDataPoints() {
		add(d.GetAttributes(), d.GetAsInt())
	}
	for _, d := range m.GetHistogram().GetDataPoints() {
		add(d.GetAttributes(), int64(d.GetCount()))
	}
}

func (c *Collector) grow() {
	close(c.grown)
	c.grown = make(chan struct{})
}

// texts are attributes with their values as text.
func texts(attrs []*commonv1.KeyValue) map[string]string {
	out := map[string]string{}
	for _, a := range attrs {
		switch v := a.GetValue().GetValue().(type) {
		case *commonv1.AnyValue_StringValue:
			out[a.GetKey()] = v.StringValue
		case *commonv1.AnyValue_IntValue:
			out[a.GetKey()] = fmt.Sprint(v.IntValue)
		default:
			out[a.GetKey()] = a.GetValue().String()
		}
	}
	return out
}
