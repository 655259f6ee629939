package errandprom_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/embedded"
	"github.com/errandhq/errand/errandprom"
)

func open(t *testing.T) *errand.Client {
	t.Helper()
	c, err := embedded.Open(t.Context(), embedded.Config{Path: filepath.Join(t.TempDir(), "errand.db"), BackoffBase: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestObserve runs a worker whose jobs end in every way, and reads what the
// user's own registry has of it.
func TestObserve(t *testing.T) {
	c := open(t)
	reg := prometheus.NewRegistry()
	w := &errand.Worker{Client: c, Queues: []string{"q"}, Concurrency: 3, Logger: slog.New(slog.DiscardHandler)}
	var busy atomic.Value
	errand.HandleKind(w, "good", func(context.Context, *errand.RawJob) error {
		n, err := testutil.GatherAndCount(reg, "errand_worker_busy_slots")
		busy.Store(fmt.Sprint(n, err, testutil.CollectAndCompare(w.Observer.(prometheus.Collector),
			strings.NewReader("# HELP errand_worker_busy_slots Handlers that run now.\n# TYPE errand_worker_busy_slots gauge\nerrand_worker_busy_slots 1\n"),
			"errand_worker_busy_slots")))
		return nil
	})
	errand.HandleKind(w, "bad", func(_ context.Context, j *errand.RawJob) error {
		if j.Attempt == 1 {
			panic("once")
		}
		return errand.Discard(errors.New("no"))
	})
	if err := errandprom.Observe(w, reg); err != nil {
		t.Fatal(err)
	}
	if errandprom.Observe(w, reg) == nil {
		t.Error("a worker was observed twice")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	waiting, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	for _, kind := range []string{"good", "bad"} {
		r, err := c.Enqueue(waiting, errand.EnqueueParams{Kind: kind, Queue: "q"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Wait(waiting, r.ID); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := busy.Load(); got != "1 <nil> <nil>" {
		t.Errorf("while a handler ran: %v", got)
	}
	err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP errand_worker_busy_slots Handlers that run now.
# TYPE errand_worker_busy_slots gauge
errand_worker_busy_slots 0
# HELP errand_worker_concurrency Jobs that the worker takes at a time.
# TYPE errand_worker_concurrency gauge
errand_worker_concurrency 3
# HELP errand_worker_jobs_ended_total Handlers that returned, by outcome: succeeded, failed, discarded, snoozed or released.
# TYPE errand_worker_jobs_ended_total counter
errand_worker_jobs_ended_total{kind="bad",outcome="discarded",queue="q"} 1
errand_worker_jobs_ended_total{kind="bad",outcome="failed",queue="q"} 1
errand_worker_jobs_ended_total{kind="bad",outcome="released",queue="q"} 0
errand_worker_jobs_ended_total{kind="bad",outcome="snoozed",queue="q"} 0
errand_worker_jobs_ended_total{kind="bad",outcome="succeeded",queue="q"} 0
errand_worker_jobs_ended_total{kind="good",outcome="discarded",queue="q"} 0
errand_worker_jobs_ended_total{kind="good",outcome="failed",queue="q"} 0
errand_worker_jobs_ended_total{kind="good",outcome="released",queue="q"} 0
errand_worker_jobs_ended_total{kind="good",outcome="snoozed",queue="q"} 0
errand_worker_jobs_ended_total{kind="good",outcome="succeeded",queue="q"} 1
# HELP errand_worker_jobs_started_total Handlers called.
# TYPE errand_worker_jobs_started_total counter
errand_worker_jobs_started_total{kind="bad",queue="q"} 2
errand_worker_jobs_started_total{kind="good",queue="q"} 1
# HELP errand_worker_sessions_total Sessions opened: more than one means that leases were lost.
# TYPE errand_worker_sessions_total counter
errand_worker_sessions_total 1
`), "errand_worker_busy_slots", "errand_worker_concurrency", "errand_worker_jobs_ended_total",
		"errand_worker_jobs_started_total", "errand_worker_sessions_total")
	if err != nil {
		t.Error(err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// Two workers of one process are told apart by labels of the user's.
func TestTwoWorkersOfOneProcess(t *testing.T) {
	reg := prometheus.NewRegistry()
	pool := func(name string) error {
		return errandprom.Observe(&errand.Worker{}, prometheus.WrapRegistererWith(prometheus.Labels{"pool": name}, reg))
	}
	for _, name := range []string{"a", "b"} {
		if err := pool(name); err != nil {
			t.Error(err)
		}
	}
	if pool("a") == nil {
		t.Error("the same names were registered twice")
	}
}
