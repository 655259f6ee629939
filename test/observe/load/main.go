// Command load hands jobs that do nothing in and carries them out, and prints
// the processor time that this took it. It is observed as its flags and the
// environment of OpenTelemetry say.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/errandprom"
	"github.com/errandhq/errand/internal/otlp"
)

const (
	producers = 4
	batch     = 20
)

func main() {
	server := flag.String("server", "", "address of the server")
	jobs := flag.Int("jobs", 0, "how many")
	metrics := flag.String("metrics", "", "address to serve metrics on; none if empty")
	flag.Parse()
	if err := run(*server, *jobs, *metrics); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(server string, jobs int, metrics string) error {
	log := slog.New(slog.DiscardHandler)
	began := cpu()
	p, err := otlp.FromEnv(context.Background(), errand.Version, log)
	if err != nil {
		return err
	}
	client, err := errand.Dial(server)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Instrument(p.Tracer, p.Meter); err != nil {
		return err
	}
	w := &errand.Worker{Client: client, Concurrency: 500, Logger: log}
	if metrics != "" {
		if err := observe(w, metrics); err != nil {
			return err
		}
	}
	if err := drain(w, jobs); err != nil {
		return err
	}
	p.Close() // what is exported last is part of it
	fmt.Println((cpu() - began).Nanoseconds())
	return nil
}

// observe serves the worker's metrics until the process ends.
func observe(w *errand.Worker, addr string) error {
	reg := prometheus.NewRegistry()
	if err := errandprom.Observe(w, reg); err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}), ReadHeaderTimeout: time.Second}
	go func() { _ = s.Serve(l) }()
	return nil
}

// drain hands the jobs in while they are carried out.
func drain(w *errand.Worker, jobs int) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var done atomic.Int64
	errand.HandleKind(w, "k", func(context.Context, *errand.RawJob) error {
		if done.Add(1) == int64(jobs) {
			stop()
		}
		return nil
	})
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	errs := make([]error, producers)
	var all sync.WaitGroup
	for n := range producers {
		all.Go(func() {
			for i := n * batch; i < jobs && errs[n] == nil; i += producers * batch {
				errs[n] = produce(w.Client, min(batch, jobs-i))
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return <-ended
}

func produce(c *errand.Client, n int) error {
	items := make([]errand.EnqueueParams, n)
	for i := range items {
		items[i] = errand.EnqueueParams{Kind: "k", Payload: []byte(`{"user":42}`)}
	}
	_, err := c.EnqueueBatch(context.Background(), items)
	return err
}

// cpu is how long this process has kept processors busy.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
