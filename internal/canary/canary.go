// Package canary tests a server's queues from within: every so often it sends
// a job that does nothing through a queue, and a worker of the server's own
// takes it, in a session of its own. How long that took, and that it came back
// at all, is measured; see metrics.CanaryConfigured.
//
// A canary goes the way of every other job: enqueue, ledger, lease, settle, but by no broker
// where its queue is routed to one. It does not wait behind them, for its
// kind is its own, so it tells whether the queue moves, not whether there are
// enough workers. It is nobody's work: counters, gauges and alerts of jobs leave it out.
package canary

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/internal/metrics"
	"github.com/errandhq/errand/job"
)

// Engine is what canaries are sent by: an *engine.Engine.
type Engine interface {
	Enqueue(ctx context.Context, caller string, items []engine.Item) ([]engine.Enqueued, error)
	Get(ctx context.Context, ids []job.ID) ([]job.Job, error)
}

// Canaries sends and carries canaries. New makes one.
type Canaries struct {
	engine  Engine
	metrics *metrics.Metrics
	log     *slog.Logger
	every   map[string]time.Duration // by queue
	least   time.Duration            // of patience
	worker  *errand.Worker
}

// New returns canaries for the queues named, each at its interval. client leads
// to the same server as e, by direct calls.
func New(e Engine, client *errand.Client, m *metrics.Metrics, every map[string]time.Duration, log *slog.Logger) *Canaries {
	c := &Canaries{engine: e, metrics: m, log: log, every: every, least: leastPatience}
	host, _ := os.Hostname() // a name for people: the process id alone will do
	c.worker = &errand.Worker{
		Client: client, Name: fmt.Sprintf("canary of %s-%d", host, os.Getpid()), Logger: log,
		Concurrency: len(every), Grace: time.Second,
	}
	for queue := range every {
		c.worker.Queues = append(c.worker.Queues, queue)
	}
	slices.Sort(c.worker.Queues)
	errand.HandleKind(c.worker, job.KindCanary, func(context.Context, *errand.RawJob) error { return nil })
	return c
}

// Run sends and carries until ctx ends, and then gives the session back. The
// engine must run until Run has returned.
func (c *Canaries) Run(ctx context.Context) error {
	for queue, every := range c.every {
		c.metrics.CanaryConfigured(queue, every)
	}
	var senders sync.WaitGroup
	for queue, every := range c.every {
		senders.Go(func() { c.send(ctx, queue, every) })
	}
	err := c.worker.Run(ctx)
	senders.Wait()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("canary: %w", err)
	}
	return nil
}

// leastPatience keeps a short interval from missing canaries in a short pause.
const leastPatience = 10 * time.Second

// patience is how long a canary may take, after which it expires: so none pile
// up in a queue that stands still, whoever restarts meanwhile.
func (c *Canaries) patience(queue string) time.Duration { return max(3*c.every[queue], c.least) }

// send sends one canary after another through a queue. While one is out no
// other is sent.
func (c *Canaries) send(ctx context.Context, queue string, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	out := flight{}
	for {
		if out = c.look(ctx, queue, out); out.id.IsZero() {
			out = c.release(ctx, queue, c.patience(queue))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// flight is a canary that is out, or nothing.
type flight struct {
	id       job.ID
	deadline time.Time // by this process's clock
}

// look returns the canary that is still out, and counts one that did not come
// back. While the ledger does not answer nobody knows.
func (c *Canaries) look(ctx context.Context, queue string, out flight) flight {
	if out.id.IsZero() {
		return out
	}
	found, err := c.engine.Get(ctx, []job.ID{out.id})
	late := time.Now().After(out.deadline)
	switch {
	case err == nil && len(found) == 1 && found[0].State == job.Succeeded:
		return flight{}
	case !late && (err != nil || len(found) == 1 && !found[0].State.Final()):
		return out
	}
	c.missed(ctx, queue, "it did not come back", err)
	return flight{}
}

func (c *Canaries) missed(ctx context.Context, queue, why string, err error) {
	if ctx.Err() != nil {
		return
	}
	c.metrics.CanaryMissed(queue)
	c.log.Warn("canary missed", "queue", queue, "why", why, "error", err)
}

// release sends a canary and returns it, if it may be out.
func (c *Canaries) release(ctx context.Context, queue string, patience time.Duration) flight {
	id, err := uuid.NewV7()
	if err != nil {
		c.missed(ctx, queue, "no id", err)
		return flight{}
	}
	out := flight{id: job.ID(id), deadline: time.Now().Add(patience)}
	answers, err := c.engine.Enqueue(ctx, "", []engine.Item{{
		Job:       job.Job{ID: out.id, Queue: queue, Kind: job.KindCanary, Priority: 0, MaxAttempts: 1},
		ExpiresIn: patience, FirstTry: true,
	}})
	if err == nil {
		err = answers[0].Err
	}
	if err != nil && !errors.Is(err, job.ErrUnknown) {
		c.missed(ctx, queue, "it could not be sent", err)
		return flight{}
	}
	c.metrics.CanarySent(queue)
	return out
}
