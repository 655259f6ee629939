// Command hello is Errand in one process: it opens the embedded engine over a
// SQLite file, enqueues a job, carries it out and prints its result.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/embedded"
)

// Greeting is the payload of the job.
type Greeting struct {
	Name string `json:"name"`
}

var greet = errand.NewTask[Greeting]("hello.greet")

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "errand-hello-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	c, err := embedded.Open(ctx, embedded.Config{Path: filepath.Join(dir, "errand.db")})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()

	w := &errand.Worker{Client: c}
	errand.Handle(w, greet, func(_ context.Context, j *errand.Job[Greeting]) error {
		return j.SetResult("Hello, " + j.Args.Name + "!")
	})
	working, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(working) }()

	id, err := greet.Enqueue(ctx, c, Greeting{Name: "world"})
	if err != nil {
		stop()
		return err
	}
	j, err := c.Wait(ctx, id)
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	fmt.Printf("job %s %s: %s\n", j.ID, j.State, j.Result)
	return nil
}
