// Command worker shows a producer and a worker that share a server. Start the
// server with "errand serve", then run this with "work" in one terminal and with
// "send NAME…" in another.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/errandhq/errand"
)

// Welcome is the payload of the job.
type Welcome struct {
	Name string `json:"name"`
}

var sendWelcome = errand.NewTask[Welcome]("email.welcome",
	errand.Queue("mail"), errand.MaxAttempts(5), errand.Timeout(30*time.Second))

func main() {
	server := flag.String("server", "http://localhost:7420", "address of the server; several separated by commas")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *server, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, server string, args []string) error {
	c, err := errand.Dial(server)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	switch {
	case len(args) == 1 && args[0] == "work":
		return work(ctx, c)
	case len(args) > 1 && args[0] == "send":
		return send(ctx, c, args[1:])
	}
	return errors.New("say work, or send NAME…")
}

// work runs until it is interrupted, and then ends the jobs in its hands.
func work(ctx context.Context, c *errand.Client) error {
	w := &errand.Worker{Client: c, Queues: []string{"mail"}, Concurrency: 50, Middleware: []errand.Middleware{timed}}
	errand.Handle(w, sendWelcome, func(ctx context.Context, j *errand.Job[Welcome]) error {
		if j.Args.Name == "" {
			return errand.Discard(errors.New("nobody to welcome")) // no retry will help
		}
		errand.Logger(ctx).Info("welcome", "name", j.Args.Name)
		return j.SetResult(map[string]string{"sent_to": j.Args.Name})
	})
	return w.Run(ctx)
}

// timed logs how long each job took.
func timed(next errand.Handler) errand.Handler {
	return func(ctx context.Context, j *errand.RawJob) error {
		began := time.Now()
		err := next(ctx, j)
		errand.Logger(ctx).Log(ctx, slog.LevelInfo, "done", "took", time.Since(began), "err", err)
		return err
	}
}

// send enqueues one job for each name and waits for all of them.
func send(ctx context.Context, c *errand.Client, names []string) error {
	jobs := make([]Welcome, len(names))
	for i, n := range names {
		jobs[i] = Welcome{Name: n}
	}
	answers, err := sendWelcome.EnqueueMany(ctx, c, jobs)
	if err != nil {
		return err
	}
	for i, a := range answers {
		if a.Err != nil {
			return fmt.Errorf("%s: %w", names[i], a.Err)
		}
		j, err := c.Wait(ctx, a.ID)
		if err != nil {
			return err
		}
		fmt.Printf("%s %s %s\n", names[i], j.State, j.Result)
	}
	return nil
}
