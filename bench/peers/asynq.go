package peers

import (
	"context"
	"io"
	"log"
	"time"

	"github.com/hibiken/asynq"
	"golang.org/x/sync/errgroup"

	"github.com/errandhq/errand/internal/bench"
)

// asynqSystem is Asynq. It has no call for many jobs, so a batch is that many
// calls, from sixteen goroutines. TaskCheckInterval is how long an idle server
// waits before it looks again, a second by default.
type asynqSystem struct {
	redis  asynq.RedisClientOpt
	client *asynq.Client
}

const asynqConcurrency = 200

func openAsynq(_ context.Context, address string, _ bench.Plan) (bench.System, error) {
	opt := asynq.RedisClientOpt{Addr: address}
	return &asynqSystem{redis: opt, client: asynq.NewClient(opt)}, nil
}

// Enqueue implements bench.System.
func (s *asynqSystem) Enqueue(ctx context.Context, payloads [][]byte) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, p := range payloads {
		g.Go(func() error {
			_, err := s.client.EnqueueContext(ctx, asynq.NewTask("bench", p))
			return err
		})
	}
	return g.Wait()
}

// Work implements bench.System.
func (s *asynqSystem) Work(_ context.Context, handle func([]byte)) (func() error, <-chan error, error) {
	srv := asynq.NewServer(s.redis, asynq.Config{
		Concurrency: asynqConcurrency, TaskCheckInterval: 5 * time.Millisecond,
		Logger: quiet{log.New(io.Discard, "", 0)}, LogLevel: asynq.FatalLevel,
	})
	err := srv.Start(asynq.HandlerFunc(func(_ context.Context, t *asynq.Task) error {
		handle(t.Payload())
		return nil
	}))
	return func() error { srv.Shutdown(); return nil }, nil, err
}

// Close implements bench.System.
func (s *asynqSystem) Close() error { return s.client.Close() }

// quiet is a logger that says nothing.
type quiet struct{ *log.Logger }

func (quiet) Debug(...any) {}
func (quiet) Info(...any)  {}
func (quiet) Warn(...any)  {}
func (quiet) Error(...any) {}
