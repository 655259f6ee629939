package embedded_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/embedded"
)

// In one process, too, enqueue, waits and attempts are one trace; and what
// became of the job is added up.
func TestAnEmbeddedEngineTellsOfItself(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	c, err := embedded.Open(t.Context(), embedded.Config{Path: filepath.Join(t.TempDir(), "errand.db"), TracerProvider: tp})
	if err != nil {
		t.Fatal(err)
	}
	task := errand.NewTask[string]("k", errand.Queue("q"))
	w := &errand.Worker{Client: c, Queues: []string{"q"}}
	errand.Handle(w, task, func(_ context.Context, j *errand.Job[string]) error {
		if j.Attempt == 1 {
			return errand.RetryIn(time.Millisecond, errors.New("no luck at 7"))
		}
		return nil
	})
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	id, err := task.Enqueue(ctx, c, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Wait(ctx, id); err != nil {
		t.Fatal(err)
	}
	in, err := c.Insights(ctx, errand.InsightsQuery{Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := errors.Join(<-ended, c.Close()); err != nil {
		t.Fatal(err)
	}
	if len(in.Kinds) != 1 || in.Kinds[0].Counts.Started != 2 || in.Kinds[0].Counts.Succeeded != 1 || in.Kinds[0].Run == nil ||
		len(in.Failures) != 1 || in.Failures[0].Pattern != "no luck at #" || len(in.Queues) != 1 || in.Queues[0].SlotsNeeded != 1 {
		t.Errorf("insights %+v", in)
	}
	names := map[string]int{}
	for _, s := range spans.Ended() {
		names[s.Name()]++
	}
	if names["send q"] != 1 || names["wait q"] != 2 || names["process q"] != 2 {
		t.Errorf("spans %v", names)
	}
}
