package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/job"
)

const workLong = `Carry jobs out, each by a process of the command. Everything after --exec is the
command and its arguments.

The payload is its standard input. Its environment has ERRAND_JOB_ID,
ERRAND_JOB_KIND, ERRAND_QUEUE, ERRAND_ATTEMPT (1 is the first) and ERRAND_TOKEN
(the fencing token: larger than that of every attempt before); TRACEPARENT and
TRACESTATE too if the job has a trace.

Standard output, up to 256 KiB, becomes the result. Standard error goes to the
worker's, and its end is the message of a failure.
  exit status 0       the job is done
  exit status 65      it can never succeed: to the dead letters
  any other, or a signal: the attempt failed, and is retried

When a job is cancelled or its timeout passes, the whole process group gets
SIGTERM, and SIGKILL 5 seconds later.

The first Ctrl-C (or SIGTERM) drains: no new jobs are taken, running ones have
until --grace. The second gives up at once; what was running is given back.

With --until-empty the worker ends when no job of its queues and kinds is ready,
running or scheduled, whoever runs it; if a queue with such jobs is paused it
ends with exit status 4. A token needs the viewer's role too, if --kind is used.`

// workFlags set a worker.
type workFlags struct {
	queues, kinds []string
	concurrency   int
	untilEmpty    bool
	grace         time.Duration
	command, name string
}

func newWork(a *app) *cobra.Command {
	var w workFlags
	cmd := &cobra.Command{
		Use: "work --exec CMD [ARG…]", Short: "Carry jobs out by running a command for each", Long: workLong,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(args); err != nil {
				return err
			}
			path, err := findCommand(w.command)
			if err != nil {
				return err
			}
			return a.work(cmd.Context(), &w, path, args)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&w.queues, "queue", nil, "queue to work on, may be repeated: the first with work is served first (default: default)")
	f.StringArrayVar(&w.kinds, "kind", nil, "kind to take, may be repeated (default: every kind)")
	f.IntVar(&w.concurrency, "concurrency", 10, "jobs at a time")
	f.BoolVar(&w.untilEmpty, "until-empty", false, "end when nothing is left to do")
	f.DurationVar(&w.grace, "grace", 30*time.Second, "how long running jobs are waited for at the end")
	f.StringVar(&w.name, "name", "", "name of this worker, for people (default: host and process id)")
	f.StringVar(&w.command, "exec", "", "the command; what follows are its arguments")
	return cmd
}

func (w *workFlags) check(args []string) error {
	switch {
	case w.command == "" && len(args) > 0:
		return usageError("unexpected argument %q: the command comes after --exec", args[0])
	case w.command == "":
		return usageError("--exec CMD is missing: the command that carries out a job")
	case w.concurrency < 1 || w.concurrency > job.MaxBatch:
		return usageError("--concurrency is %d; it is 1 to %d", w.concurrency, job.MaxBatch)
	case w.grace <= 0:
		return usageError("--grace is %s; it is more than nothing", w.grace)
	}
	if len(w.queues) == 0 {
		w.queues = []string{job.DefaultQueue}
	}
	for _, q := range w.queues {
		if err := job.CheckName("queue", q); err != nil {
			return usageError("--queue: %w", err)
		}
	}
	for _, k := range w.kinds {
		if err := job.CheckName("kind", k); err != nil {
			return usageError("--kind: %w", err)
		}
	}
	return nil
}

func (a *app) work(ctx context.Context, w *workFlags, path string, args []string) error {
	c, _, err := a.patientClient(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()

	stderr := &lockedWriter{w: a.stderr}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	traces, err := instrument(ctx, c, log)
	if err != nil {
		return err
	}
	defer traces.Close()
	giveUp, abandon := context.WithCancel(context.Background())
	defer abandon()
	run := &runner{path: path, args: args, stderr: stderr, grace: killAfter, giveUp: giveUp,
		warn: func(format string, args ...any) { log.Warn(fmt.Sprintf(format, args...)) }}
	worker := &errand.Worker{Client: c, Queues: w.queues, Concurrency: w.concurrency, Grace: w.grace, Name: w.name, Logger: log}
	register(worker, w.kinds, handler(run))

	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var watching sync.WaitGroup
	if w.untilEmpty {
		watching.Go(func() { stop(untilEmpty(working, c, w)) })
	}
	done := make(chan error, 1)
	go func() { done <- worker.Run(working) }()
	err = waitOrGiveUp(ctx, done, abandon)
	stop(nil)
	watching.Wait()
	return a.workEnded(ctx, working, worker, err)
}

// workEnded decides what the end of a worker means.
func (a *app) workEnded(ctx, working context.Context, worker *errand.Worker, err error) error {
	cause := context.Cause(working)
	var left *errand.LeftError
	switch {
	case errors.As(err, &left), errors.Is(err, errGaveUp):
		a.warnf("%s", message(err))
	case err != nil:
		return err
	}
	s := worker.Stats()
	a.warnf("%d jobs started: %d succeeded, %d failed, %d discarded, %d given back", s.Started, s.Succeeded, s.Failed, s.Discarded, s.Released)
	var sig interrupted
	switch {
	case ctx.Err() != nil && errors.As(cause, &sig) && sig.sig == syscall.SIGTERM && err == nil:
		return nil // an orderly end, as a supervisor asks for it
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(cause, errEmpty):
		return err
	case err == nil && !errors.Is(cause, context.Canceled):
		return cause
	}
	return err
}

// register takes the kinds named, or every kind.
func register(w *errand.Worker, kinds []string, h errand.Handler) {
	if len(kinds) == 0 {
		errand.HandleAny(w, h)
		return
	}
	seen := map[string]bool{}
	for _, k := range kinds {
		if !seen[k] {
			errand.HandleKind(w, k, h)
		}
		seen[k] = true
	}
}

// handler runs the command for a job.
func handler(run *runner) errand.Handler {
	return func(ctx context.Context, j *errand.RawJob) error {
		env := []string{
			"ERRAND_JOB_ID=" + j.ID.String(), "ERRAND_JOB_KIND=" + j.Kind, "ERRAND_QUEUE=" + j.Queue,
			fmt.Sprintf("ERRAND_ATTEMPT=%d", j.Attempt), fmt.Sprintf("ERRAND_TOKEN=%d", j.Token),
		}
		if parent, state := errand.TraceFrom(ctx); parent != "" {
			env = append(env, "TRACEPARENT="+parent)
			if state != "" {
				env = append(env, "TRACESTATE="+state)
			}
		}
		out := run.run(ctx, j.Payload, env)
		switch {
		case out.err != nil && run.giveUp.Err() != nil:
			return errand.Snooze(0) // killed by us, not failed: no attempt is charged
		case out.discard:
			return errand.Discard(out.err)
		case out.err != nil:
			return out.err
		}
		return j.SetResultBytes(out.result)
	}
}

var errGaveUp = errors.New("gave up at the second signal: running commands were killed, their jobs are given back")

// waitOrGiveUp waits for the worker; after the first signal has ended ctx, a
// second one kills the running commands and does not wait any longer.
func waitOrGiveUp(ctx context.Context, done <-chan error, abandon func()) error {
	// The first signal arrives here too, beside ending ctx.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	var sig interrupted
	for first := errors.As(context.Cause(ctx), &sig); ; first = false {
		select {
		case err := <-done:
			return err
		case <-signals:
		}
		if !first {
			break
		}
	}
	abandon()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
	}
	return errGaveUp
}
