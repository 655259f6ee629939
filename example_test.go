package errand_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/embedded"
)

type Welcome struct {
	UserID int `json:"user_id"`
}

var SendWelcome = errand.NewTask[Welcome]("email.welcome", errand.MaxAttempts(5), errand.Timeout(30*time.Second))

// A producer hands jobs to a server.
func ExampleTask_Enqueue() {
	ctx := context.Background()
	c, err := errand.Dial("http://localhost:7420", errand.WithRetryFor(0))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()

	id, err := SendWelcome.Enqueue(ctx, c, Welcome{UserID: 42},
		errand.In(time.Hour), errand.Queue("mail"), errand.Priority(1), errand.Unique("user-42", errand.WhileQueued))
	switch {
	case errors.Is(err, errand.ErrUnknown):
		// It may be stored or not: the same call with WithID repeats it safely.
	case errors.Is(err, errand.ErrQueueFull):
		// Come back later.
	case err == nil:
		log.Print("enqueued ", id)
	}
}

// A worker runs until its process is asked to stop, and then ends the jobs in
// its hands.
func ExampleWorker() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := errand.Dial("http://localhost:7420")
	if err != nil {
		log.Fatal(err)
	}
	w := &errand.Worker{Client: c, Queues: []string{"mail"}, Concurrency: 50}
	errand.Handle(w, SendWelcome, func(ctx context.Context, j *errand.Job[Welcome]) error {
		if j.Args.UserID == 0 {
			return errand.Discard(errors.New("no user")) // no retry will help
		}
		errand.Logger(ctx).Info("welcome", "user", j.Args.UserID) // carries job, kind, queue and attempt
		return nil
	})
	if err := w.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

// The whole of Errand in one process: no server.
func Example_embedded() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "errand-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	c, err := embedded.Open(ctx, embedded.Config{Path: filepath.Join(dir, "errand.db")})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()

	w := &errand.Worker{Client: c, Logger: slog.New(slog.DiscardHandler)}
	errand.Handle(w, SendWelcome, func(_ context.Context, j *errand.Job[Welcome]) error {
		return j.SetResult(fmt.Sprintf("welcome, user %d", j.Args.UserID))
	})
	working, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(working) }()

	id, err := SendWelcome.Enqueue(ctx, c, Welcome{UserID: 42})
	if err != nil {
		log.Fatal(err)
	}
	info, err := c.Wait(ctx, id)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.State, string(info.Result))
	stop()
	fmt.Println(<-ended)
	// Output:
	// succeeded "welcome, user 42"
	// <nil>
}

// Middleware is put around every handler.
func ExampleMiddleware() {
	timed := func(next errand.Handler) errand.Handler {
		return func(ctx context.Context, j *errand.RawJob) error {
			began := time.Now()
			err := next(ctx, j)
			errand.Logger(ctx).Info("done", "took", time.Since(began), "err", err)
			return err
		}
	}
	_ = &errand.Worker{Middleware: []errand.Middleware{timed}}
}
