// Command worker is the worker process of the end-to-end and fault tests. Its
// one handler does what the job's payload says and writes each beginning and
// end of a run into a log, by which the tests judge.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/errandprom"
	"github.com/errandhq/errand/internal/history"
	"github.com/errandhq/errand/test/cluster/order"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func run() error {
	server := flag.String("server", "", "addresses of the servers, with commas between")
	queues := flag.String("queues", "default", "queues, with commas between")
	kinds := flag.String("kinds", order.Kind, "kinds, with commas between")
	concurrency := flag.Int("concurrency", 10, "jobs at a time")
	grace := flag.Duration("grace", 5*time.Second, "how long running jobs may take after SIGTERM")
	path := flag.String("log", "", "file to append the runs to")
	metrics := flag.String("metrics", "", "address to serve metrics on")
	flag.Parse()

	f, err := os.OpenFile(*path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	client, err := errand.Dial(*server)
	if err != nil {
		return err
	}
	defer client.Close()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	w := &errand.Worker{
		Client: client, Queues: strings.Split(*queues, ","), Concurrency: *concurrency, Grace: *grace,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	for _, kind := range strings.Split(*kinds, ",") {
		errand.Handle(w, errand.NewTask[order.Order](kind), handler(f))
	}
	if *metrics != "" {
		serve, err := observe(w, *metrics)
		if err != nil {
			return err
		}
		defer serve.Close()
	}
	return w.Run(ctx)
}

// observe serves the worker's metrics.
func observe(w *errand.Worker, addr string) (*http.Server, error) {
	reg := prometheus.NewRegistry()
	if err := errandprom.Observe(w, reg); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}), ReadHeaderTimeout: time.Second}
	go func() { _ = s.Serve(l) }() // ends with the process
	return s, nil
}

// handler carries an order out and logs the run.
func handler(log *os.File) func(context.Context, *errand.Job[order.Order]) error {
	return func(ctx context.Context, j *errand.Job[order.Order]) error {
		entry := order.Run{Worker: os.Getpid(), Job: j.ID.String(), Token: j.Token, Attempt: j.Attempt}
		write(log, "start", entry)
		err := obey(ctx, j)
		if err != nil {
			entry.Error = err.Error()
		}
		write(log, "end", entry)
		if err != nil {
			return err
		}
		return j.SetResult(history.Mark{Token: j.Token})
	}
}

func obey(ctx context.Context, j *errand.Job[order.Order]) error {
	o := j.Args
	if o.Die {
		// As a segmentation fault or the kernel's memory killer would.
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		<-ctx.Done()
	}
	wait := ctx.Done()
	if o.Deaf {
		wait = nil
	}
	select {
	case <-time.After(time.Duration(o.Millis) * time.Millisecond):
	case <-wait:
		return context.Cause(ctx)
	}
	switch {
	case o.Discard:
		return errand.Discard(errors.New("the order says so"))
	case j.Attempt <= o.Fails:
		return errand.RetryIn(50*time.Millisecond, fmt.Errorf("attempt %d fails, as ordered", j.Attempt))
	}
	return nil
}

// write appends one line with one call, so that a process that is killed
// leaves whole lines. The time is the machine's monotonic clock, which all
// processes share and no wrong wall clock touches.
func write(log *os.File, event string, entry order.Run) {
	entry.Event, entry.At = event, order.Monotonic()
	line, err := json.Marshal(entry)
	if err == nil {
		_, err = log.Write(append(line, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker: log:", err)
		os.Exit(3)
	}
}
