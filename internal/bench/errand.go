package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"

	errand "github.com/errandhq/errand"
)

// kind is what the jobs of a run are called.
const kind = "bench"

// Errand is Errand as a System: in process or behind a server, as its clients are.
type Errand struct {
	Producer *errand.Client
	Worker   *errand.Client // may be the same
	Queue    string
	Plan     Plan
	Logger   *slog.Logger
	OnClose  func() error // after the clients are closed
}

// Enqueue implements System.
func (e *Errand) Enqueue(ctx context.Context, payloads [][]byte) error {
	jobs := make([]errand.EnqueueParams, len(payloads))
	for i, p := range payloads {
		jobs[i] = errand.EnqueueParams{Kind: kind, Queue: e.Queue, Payload: p}
	}
	results, err := e.Producer.EnqueueBatch(ctx, jobs)
	if err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	for _, r := range results {
		if r.Err != nil {
			return fmt.Errorf("enqueue: %w", r.Err)
		}
	}
	return nil
}

// Work implements System.
func (e *Errand) Work(ctx context.Context, handle func(payload []byte)) (func() error, <-chan error, error) {
	working, stop := context.WithCancel(ctx)
	failed := make(chan error, e.Plan.Workers)
	var crew errgroup.Group
	for i := range e.Plan.Workers {
		w := &errand.Worker{
			Client: e.Worker, Queues: []string{e.Queue}, Concurrency: e.Plan.Concurrency,
			Name: fmt.Sprintf("%s-%d", e.Queue, i), Logger: e.Logger,
		}
		errand.HandleKind(w, kind, func(_ context.Context, j *errand.RawJob) error {
			handle(j.Payload)
			return nil
		})
		crew.Go(func() error {
			err := w.Run(working)
			if err != nil && working.Err() == nil {
				failed <- err
			}
			return err
		})
	}
	return func() error { stop(); return crew.Wait() }, failed, nil
}

// Close implements System.
func (e *Errand) Close() error {
	err := e.Producer.Close()
	if e.Worker != e.Producer {
		err = errors.Join(err, e.Worker.Close())
	}
	if e.OnClose != nil {
		err = errors.Join(err, e.OnClose())
	}
	return err
}
