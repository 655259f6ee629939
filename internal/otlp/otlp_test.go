package otlp_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/errandhq/errand/internal/otlp"
	"github.com/errandhq/errand/internal/otlp/otlptest"
)

// clear unsets what the machine's own environment may say.
func clear(t *testing.T) {
	for _, name := range []string{
		"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL",
		"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_SERVICE_NAME",
	} {
		t.Setenv(name, "")
	}
}

func TestNothingIsExportedUnasked(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"no variable": {},
		"none":        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
		"disabled":    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
	} {
		t.Run(name, func(t *testing.T) {
			clear(t)
			for k, v := range env {
				t.Setenv(k, v)
			}
			p, err := otlp.FromEnv(t.Context(), "v", slog.New(slog.DiscardHandler))
			if err != nil || p.Tracer != nil || p.Meter != nil {
				t.Errorf("%+v, %v; want no providers", p, err)
			}
		})
	}
}

func TestValuesThatNobodyKnowsAreRefused(t *testing.T) {
	for name, value := range map[string]string{
		"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_METRICS_EXPORTER": "prometheus",
		"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "carrier-pigeon",
	} {
		t.Run(name, func(t *testing.T) {
			clear(t)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
			t.Setenv(name, value)
			_, err := otlp.FromEnv(t.Context(), "v", slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), value) {
				t.Errorf("%v; want an error that names %s and %s", err, name, value)
			}
		})
	}
}

func TestSpansAndMetricsReachACollector(t *testing.T) {
	for _, protocol := range []string{"http/protobuf", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			clear(t)
			c := otlptest.Start(t)
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
			t.Setenv("OTEL_SERVICE_NAME", "the-service")
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", map[string]string{"grpc": c.GRPC(), "http/protobuf": c.URL()}[protocol])
			p, err := otlp.FromEnv(t.Context(), "v", slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			_, span := p.Tracer.Tracer("test").Start(t.Context(), "a span")
			span.End()
			counter, err := p.Meter.Meter("test").Int64Counter("a.counter")
			if err != nil {
				t.Fatal(err)
			}
			counter.Add(t.Context(), 7)
			p.Close() // sends what is left
			if got := c.Await("a span", 1)[0]; got.Service != "the-service" {
				t.Errorf("the span is of service %q, want the-service", got.Service)
			}
			c.AwaitPoint("a.counter", 7, nil)
		})
	}
}

// A collector that is away costs its spans, a line in the log, and no more.
func TestACollectorThatIsAwayIsLogged(t *testing.T) {
	clear(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "200")
	var out bytes.Buffer
	p, err := otlp.FromEnv(t.Context(), "v", slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		_, span := p.Tracer.Tracer("test").Start(t.Context(), "a span")
		span.End()
	}
	p.Close()
	if n := strings.Count(out.String(), "\n"); n != 1 || !strings.Contains(out.String(), "not exported") {
		t.Errorf("the log has %d lines: %s", n, out.String())
	}
}
