// Package otlp sends spans and metrics to a collector, as the standard
// environment variables of OpenTelemetry say. Only the command has it: who uses
// the SDK brings providers of their own.
package otlp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Providers are where spans and metrics go. What is not exported is nil.
type Providers struct {
	Tracer trace.TracerProvider
	Meter  metric.MeterProvider

	closers []func(context.Context) error
}

// Unset are Providers that export nothing.
var Unset = &Providers{}

// FromEnv makes the providers that the environment asks for:
//
//   - OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER: otlp, or none. If one is not
//     set, otlp where an endpoint is set (OTEL_EXPORTER_OTLP_ENDPOINT or the one of
//     the signal), else none: nothing is sent unless somebody asked for it.
//   - OTEL_EXPORTER_OTLP_PROTOCOL, or that of the signal: http/protobuf, which is
//     the default, or grpc.
//   - OTEL_SDK_DISABLED=true turns everything off.
//
// All others (headers, certificates, timeouts, samplers, intervals,
// OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) are read by OpenTelemetry itself. An
// exporter in trouble is told to log at most once a minute, and never holds
// anybody up.
func FromEnv(ctx context.Context, version string, log *slog.Logger) (*Providers, error) {
	traces, err := protocol("TRACES")
	if err != nil {
		return nil, err
	}
	metrics, err := protocol("METRICS")
	if err != nil {
		return nil, err
	}
	if traces == "" && metrics == "" {
		return Unset, nil
	}
	otel.SetErrorHandler(&troubles{log: log})
	res, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(semconv.ServiceName("errand"), semconv.ServiceVersion(version)), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("describe this process to OpenTelemetry: %w", err)
	}
	p := &Providers{}
	if traces != "" {
		if err := p.trace(ctx, traces, res); err != nil {
			return nil, errors.Join(fmt.Errorf("export of traces: %w", err), p.Shutdown(ctx))
		}
	}
	if metrics != "" {
		if err := p.measure(ctx, metrics, res); err != nil {
			return nil, errors.Join(fmt.Errorf("export of metrics: %w", err), p.Shutdown(ctx))
		}
	}
	return p, nil
}

// The protocols of OTLP that are spoken here.
const (
	overHTTP = "http/protobuf"
	overGRPC = "grpc"
)

// protocol says how a signal is exported, "" for not at all.
func protocol(signal string) (string, error) {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return "", nil
	}
	name := "OTEL_" + signal + "_EXPORTER"
	switch v := os.Getenv(name); v {
	case "none":
		return "", nil
	case "otlp":
	case "":
		if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") == "" {
			return "", nil
		}
	default:
		return "", fmt.Errorf("%s is %q; otlp and none are known", name, v)
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_" + signal + "_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		switch v := os.Getenv(name); v {
		case "":
		case overHTTP, overGRPC:
			return v, nil
		default:
			return "", fmt.Errorf("%s is %q; %s and %s are known", name, v, overHTTP, overGRPC)
		}
	}
	return overHTTP, nil
}

func (p *Providers) trace(ctx context.Context, protocol string, res *resource.Resource) error {
	var exporter sdktrace.SpanExporter
	var err error
	if protocol == overGRPC {
		exporter, err = otlptracegrpc.New(ctx)
	} else {
		exporter, err = otlptracehttp.New(ctx)
	}
	if err != nil {
		return err
	}
	tp := sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithBatcher(exporter))
	p.Tracer, p.closers = tp, append(p.closers, tp.Shutdown)
	return nil
}

func (p *Providers) measure(ctx context.Context, protocol string, res *resource.Resource) error {
	var exporter sdkmetric.Exporter
	var err error
	if protocol == overGRPC {
		exporter, err = otlpmetricgrpc.New(ctx)
	} else {
		exporter, err = otlpmetrichttp.New(ctx)
	}
	if err != nil {
		return err
	}
	mp := sdkmetric.NewMeterProvider(sdkmetric.WithResource(res), sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter)))
	p.Meter, p.closers = mp, append(p.closers, mp.Shutdown)
	return nil
}

// patience is how long Close waits for the collector.
const patience = 5 * time.Second

// Close sends what is left, and waits at most five seconds for it. What could
// not be sent is lost, and was logged: it is no error of whoever ends.
func (p *Providers) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		otel.Handle(err)
	}
}

// Shutdown sends what is left and ends the exporters.
func (p *Providers) Shutdown(ctx context.Context) error {
	var errs []error
	for _, end := range p.closers {
		errs = append(errs, end(ctx))
	}
	return errors.Join(errs...)
}

// troubles is OpenTelemetry's error handler: a line a minute.
type troubles struct {
	log *slog.Logger

	mu   sync.Mutex
	told time.Time
}

// Handle implements otel.ErrorHandler.
func (t *troubles) Handle(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.told) < time.Minute {
		return
	}
	t.told = time.Now()
	t.log.Warn("spans or metrics were not exported", "err", err)
}
