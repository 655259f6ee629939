package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/config"
	"github.com/errandhq/errand/internal/server"
)

func newDev(a *app) *cobra.Command {
	var listen string
	var quiet bool
	cmd := &cobra.Command{
		Use: "dev", Short: "Run a server, a worker and sample jobs, to play with", Args: noArgs,
		Long: `Run a server, a worker and sample jobs in a temporary directory, to play with,
until Ctrl-C, which removes everything again.

The sample jobs: greet succeeds at once, slow reports its progress for ten
seconds, flaky fails every other time, broken always fails and ends in the dead
letters, and nobody works on unknown.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.dev(cmd.Context(), listen, quiet) },
	}
	cmd.Flags().StringVar(&listen, "listen", "", "host:port (default: 127.0.0.1:7420 if it is free, else any)")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "enqueue no sample jobs after the first ones")
	return cmd
}

func (a *app) dev(ctx context.Context, listen string, quiet bool) (err error) {
	dir, err := os.MkdirTemp("", "errand-dev-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	log, _ := newLogger(a.stderr, config.Server{LogLevel: "warn"})
	n, err := devNode(ctx, dir, listen, log)
	if err != nil {
		return err
	}
	serving, stopServing := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopServing(nil)
	ended := make(chan error, 1)
	go func() { ended <- n.run(serving) }()
	c, err := errand.Dial(n.server.URL())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.Instrument(n.traces.Tracer, n.traces.Meter); err != nil {
		return err
	}

	a.devHints(n.server.URL(), dir)
	var group sync.WaitGroup
	working, stopWorking := context.WithCancel(ctx)
	defer stopWorking()
	var workErr, sampleErr error
	group.Go(func() { workErr = devWorker(c, a).Run(working) })
	group.Go(func() { sampleErr = devSamples(working, c, quiet) })
	select {
	case <-ctx.Done():
	case err = <-ended:
		ended <- nil
	}
	stopWorking()
	group.Wait()
	stopServing(nil)
	err = errors.Join(err, <-ended)
	if ctx.Err() == nil {
		return errors.Join(err, workErr, sampleErr)
	}
	if err != nil {
		return err
	}
	a.out.linef("stopped; %s is removed", dir)
	return orderly(ctx)
}

func devNode(ctx context.Context, dir, listen string, log *slog.Logger) (*node, error) {
	conf := config.Default()
	conf.Data = filepath.Join(dir, "data")
	conf.Grace = 5 * time.Second
	if conf.Listen = listen; listen != "" {
		return newNode(ctx, conf, log)
	}
	conf.Listen = server.DefaultListen
	n, err := newNode(ctx, conf, log)
	var taken *net.OpError
	if errors.As(err, &taken) {
		conf.Listen = "127.0.0.1:0"
		return newNode(ctx, conf, log)
	}
	return n, err
}

func (a *app) devHints(url, dir string) {
	flag := ""
	if url != "http://"+server.DefaultListen {
		flag = " --server " + url
	}
	a.out.linef("%s on %s, in %s", headStyle.Render("errand "+thisVersion().Version), url, dir)
	a.out.linef("A worker carries out greet, slow, flaky and broken. In another terminal, try:\n")
	for _, hint := range [][2]string{
		{"errand stats" + flag, "how many jobs are where"},
		{"errand enqueue greet '\"Ada\"'" + flag, "hand a job in"},
		{"errand jobs list" + flag, "and see it"},
		{"errand enqueue slow --in 10s" + flag, "a job for later, which takes its time"},
		{"errand dead list" + flag, "what failed for good"},
		{"errand dead redrive --kind broken --yes" + flag, "try it again"},
		{"errand sessions list" + flag, "who works"},
		{"errand work --kind unknown --exec cat" + flag, "a worker for the jobs that nobody takes"},
	} {
		if flag != "" && hint[0] == "errand work --kind unknown --exec cat"+flag {
			hint[0] = "errand work" + flag + " --kind unknown --exec cat"
		}
		a.out.linef("  %-44s %s", hint[0], faintStyle.Render(hint[1]))
	}
	a.out.linef("\nCtrl-C stops it and removes everything.\n")
}

// devWorker carries out the sample kinds and says what it does.
func devWorker(c *errand.Client, a *app) *errand.Worker {
	w := &errand.Worker{Client: c, Concurrency: 4, Name: "dev", Grace: 2 * time.Second, Logger: slog.New(slog.DiscardHandler)}
	var mu sync.Mutex
	say := func(j *errand.RawJob, what string) {
		mu.Lock()
		defer mu.Unlock()
		a.out.linef("%s  %s  attempt %d: %s", faintStyle.Render(time.Now().Format(time.TimeOnly)), j.Kind, j.Attempt, what)
	}
	errand.HandleKind(w, "greet", func(_ context.Context, j *errand.RawJob) error {
		greeting := "hello " + printable(string(j.Payload))
		say(j, greeting)
		return j.SetResult(greeting)
	})
	errand.HandleKind(w, "slow", func(ctx context.Context, j *errand.RawJob) error {
		say(j, "begins")
		for i := range 10 {
			if err := j.Progress(ctx, fmt.Sprintf("%d %%", 10*i)); err != nil {
				return err
			}
			if err := pause(ctx, time.Second); err != nil {
				return err
			}
		}
		say(j, "done")
		return nil
	})
	errand.HandleKind(w, "flaky", func(_ context.Context, j *errand.RawJob) error {
		if j.Attempt%2 == 1 {
			say(j, "fails, and will be tried again")
			return errors.New("the line was busy")
		}
		say(j, "done")
		return nil
	})
	errand.HandleKind(w, "broken", func(_ context.Context, j *errand.RawJob) error {
		say(j, "fails for good: see 'errand dead list'")
		return errand.Discard(errors.New("this job can never succeed"))
	})
	return w
}

// devSamples hands in a few jobs, and then one every other second.
func devSamples(ctx context.Context, c *errand.Client, quiet bool) error {
	samples := []errand.EnqueueParams{
		{Kind: "greet", Payload: []byte(`"world"`)}, {Kind: "flaky"}, {Kind: "slow"},
		{Kind: "broken", Payload: []byte(`{"why":"to show a dead letter"}`)}, {Kind: "unknown"},
	}
	if _, err := c.EnqueueBatch(ctx, samples); err != nil && ctx.Err() == nil {
		return err
	}
	if quiet {
		return nil
	}
	for i := 1; pause(ctx, 2*time.Second) == nil; i++ {
		p := errand.EnqueueParams{Kind: "greet", Payload: fmt.Appendf(nil, "%d", i)}
		if i%5 == 0 {
			p = errand.EnqueueParams{Kind: "flaky"}
		}
		if _, err := c.Enqueue(ctx, p); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// pause waits for d, or until ctx ends, which is its error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
