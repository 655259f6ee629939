// Command traces sends one trace to an OpenTelemetry collector: an order, the
// enqueue of its letter, and the waits and attempts of that job, of which the first
// fails. OTEL_EXPORTER_OTLP_ENDPOINT says where the collector is.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/embedded"
)

var letter = errand.NewTask[string]("letter", errand.Queue("mail"))

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return err
	}
	tp := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter))
	defer func() { _ = tp.Shutdown(ctx) }() // sends what is left
	dir, err := os.MkdirTemp("", "errand-traces-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	c, err := embedded.Open(ctx, embedded.Config{Path: filepath.Join(dir, "errand.db"), TracerProvider: tp})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()

	w := &errand.Worker{Client: c, Queues: []string{"mail"}}
	errand.Handle(w, letter, func(_ context.Context, j *errand.Job[string]) error {
		if j.Attempt == 1 {
			return errand.RetryIn(100*time.Millisecond, errors.New("the post office is closed"))
		}
		return nil
	})
	working, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(working) }()

	ordering, order := tp.Tracer("examples/traces").Start(ctx, "order")
	id, err := letter.Enqueue(ordering, c, "Dear Ada")
	order.End()
	if err == nil {
		_, err = c.Wait(ctx, id)
	}
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	fmt.Printf("look for trace %s\n", order.SpanContext().TraceID())
	return nil
}
