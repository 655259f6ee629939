package errand_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/embedded"
)

// The tests of this file hold the client and the worker against the real engine.

type number struct{ N int }

var count = errand.NewTask[number]("test.count")

func openEngine(t *testing.T, cfg embedded.Config) *errand.Client {
	t.Helper()
	cfg.Path = filepath.Join(t.TempDir(), "errand.db")
	c, err := embedded.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// runWorker runs w until the returned stop, which fails the test if Run does.
func runWorker(t *testing.T, w *errand.Worker) (stop func()) {
	t.Helper()
	if w.Logger == nil {
		w.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestEngineManyJobs(t *testing.T) {
	c, ctx := openEngine(t, embedded.Config{}), bounded(t)
	vs := make([]number, 300)
	for i := range vs {
		vs[i].N = i
	}
	answers, err := count.EnqueueMany(ctx, c, vs)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[int]int{}
	w := &errand.Worker{Client: c, Concurrency: 64}
	errand.Handle(w, count, func(_ context.Context, j *errand.Job[number]) error {
		mu.Lock()
		defer mu.Unlock()
		seen[j.Args.N]++
		return nil
	})
	stop := runWorker(t, w)
	defer stop()
	for _, a := range answers {
		if j, err := c.Wait(ctx, a.ID); err != nil || j.State != errand.Succeeded {
			t.Fatalf("%+v %v", j, err)
		}
	}
	stop()
	if len(seen) != 300 || w.Stats().Started != 300 || w.Stats().Stale != 0 {
		t.Errorf("%d different jobs ran, stats %+v", len(seen), w.Stats())
	}
	n := 0
	for j, err := range c.List(ctx, errand.ListQuery{State: errand.Succeeded, PageSize: 70}) {
		if err != nil || j.Kind != "test.count" {
			t.Fatalf("%+v %v", j, err)
		}
		n++
	}
	if n != 300 {
		t.Errorf("List went through %d jobs, want 300", n)
	}
}

// TestEngineCancelIsPrompt cancels a job that was leased while the worker's
// Extend was waiting already, so that no Extend has named it.
func TestEngineCancelIsPrompt(t *testing.T) {
	c, ctx := openEngine(t, embedded.Config{}), bounded(t)
	started := make(chan struct{}, 1)
	w := &errand.Worker{Client: c}
	errand.Handle(w, count, func(ctx context.Context, _ *errand.Job[number]) error {
		started <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	})
	defer runWorker(t, w)()
	for range 2 {
		id, err := count.Enqueue(ctx, c, number{})
		if err != nil {
			t.Fatal(err)
		}
		<-started
		began := time.Now()
		if _, err := c.Cancel(ctx, id); err != nil {
			t.Fatal(err)
		}
		j, err := c.Wait(ctx, id)
		if err != nil || j.State != errand.Cancelled || j.Reason != "cancelled" {
			t.Fatalf("%+v %v", j, err)
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("cancelled after %s", d)
		}
	}
}

func TestEngineDeadLetters(t *testing.T) {
	c, ctx := openEngine(t, embedded.Config{}), bounded(t)
	well := make(chan struct{})
	w := &errand.Worker{Client: c}
	errand.Handle(w, count, func(_ context.Context, j *errand.Job[number]) error {
		select {
		case <-well:
			return nil
		default:
			return errand.Discard(fmt.Errorf("broken %d", j.Args.N%2))
		}
	})
	defer runWorker(t, w)()
	answers, err := count.EnqueueMany(ctx, c, make([]number, 3))
	if err != nil {
		t.Fatal(err)
	}
	odd, err := count.Enqueue(ctx, c, number{1})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []errand.ID{answers[0].ID, answers[1].ID, answers[2].ID, odd} {
		if j, err := c.Wait(ctx, id); err != nil || j.State != errand.Dead || j.Reason != "discarded" || !strings.HasPrefix(j.Errors[0].Message, "broken") {
			t.Fatalf("%+v %v", j, err)
		}
	}
	close(well)
	f := errand.DeadFilter{Kind: "test.count", Error: "broken 0"}
	if n, _, err := c.CountDead(ctx, f); err != nil || n != 3 {
		t.Fatalf("count %d %v, want 3", n, err)
	}
	if r, err := c.RedriveDead(ctx, f, 0); err != nil || r.Redriven != 3 || r.Refused != 0 {
		t.Fatalf("redrive %+v %v, want 3", r, err)
	}
	if j, err := c.Wait(ctx, answers[0].ID); err != nil || j.State != errand.Succeeded || j.Redrives != 1 {
		t.Errorf("%+v %v", j, err)
	}
	if n, err := c.PurgeDead(ctx, errand.DeadFilter{}); err != nil || n != 1 {
		t.Errorf("purge %d %v, want 1", n, err)
	}
	if _, err := c.Job(ctx, odd); !errors.Is(err, errand.ErrNotFound) {
		t.Errorf("error %v, want ErrNotFound", err)
	}
}

func TestEngineRefusals(t *testing.T) {
	c, ctx := openEngine(t, embedded.Config{MaxDepth: map[string]int64{"small": 1}}), bounded(t)
	first, err := count.Enqueue(ctx, c, number{1}, errand.Unique("k"))
	if err != nil {
		t.Fatal(err)
	}
	if id, err := count.Enqueue(ctx, c, number{2}, errand.Unique("k")); err != nil || id != first {
		t.Errorf("skip: %v %v, want %v", id, err, first)
	}
	_, err = count.Enqueue(ctx, c, number{2}, errand.Unique("k", errand.RejectConflict))
	var e *errand.Error
	if !errors.Is(err, errand.ErrUniqueHeld) || !errors.Is(err, errand.ErrAlreadyExists) || !errors.As(err, &e) || e.Holder != first {
		t.Errorf("reject: %v, want ErrUniqueHeld by %v", err, first)
	}
	id := errand.NewID()
	for range 2 { // the same id and content: one job
		if got, err := count.Enqueue(ctx, c, number{3}, errand.WithID(id)); err != nil || got != id {
			t.Errorf("%v %v", got, err)
		}
	}
	if _, err := count.Enqueue(ctx, c, number{4}, errand.WithID(id)); !errors.Is(err, errand.ErrAlreadyExists) {
		t.Errorf("other content: %v, want ErrAlreadyExists", err)
	}
	for name, o := range map[string]errand.EnqueueOption{"priority": errand.Priority(99), "delay": errand.In(-time.Hour), "queue": errand.Queue("a\x00b")} {
		if _, err := count.Enqueue(ctx, c, number{5}, o); !errors.As(err, &e) || e.Code != errand.CodeInvalidArgument {
			t.Errorf("%s: %v, want an invalid argument", name, err)
		}
	}
	var full error
	for range 3 {
		if _, err := count.Enqueue(ctx, c, number{6}, errand.Queue("small")); err != nil {
			full = err
		}
	}
	if !errors.Is(full, errand.ErrQueueFull) {
		t.Errorf("error %v, want ErrQueueFull", full)
	}
	if _, err := c.Wait(ctx, errand.NewID()); !errors.Is(err, errand.ErrNotFound) {
		t.Errorf("wait: %v, want ErrNotFound", err)
	}
	if err := c.Redrive(ctx, first); !errors.As(err, &e) || e.Reason != errand.ReasonBadTransition {
		t.Errorf("redrive of a ready job: %v, want BAD_TRANSITION", err)
	}
}

func TestEngineQueuesAndSessions(t *testing.T) {
	c, ctx := openEngine(t, embedded.Config{}), bounded(t)
	if err := c.Pause(ctx, "default"); err != nil {
		t.Fatal(err)
	}
	w := &errand.Worker{Client: c, Name: "w1", Concurrency: 3}
	var log strings.Builder
	w.Logger = slog.New(errand.LogHandler(slog.NewTextHandler(&log, nil)))
	errand.Handle(w, count, func(ctx context.Context, j *errand.Job[number]) error {
		w.Logger.InfoContext(ctx, "here")
		return j.Progress(ctx, "half way")
	})
	stop := runWorker(t, w)
	defer stop()
	id, err := count.Enqueue(ctx, c, number{1})
	if err != nil {
		t.Fatal(err)
	}
	qs, err := c.Queues(ctx)
	if err != nil || len(qs) != 1 || !qs[0].Paused || qs[0].Ready != 1 || qs[0].OldestReady == nil {
		t.Fatalf("%+v %v", qs, err)
	}
	if err := c.Resume(ctx, "default"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Wait(ctx, id); err != nil {
		t.Fatal(err)
	}
	ss, err := c.Sessions(ctx)
	if err != nil || len(ss) != 1 || ss[0].Worker != "w1" || ss[0].Concurrency != 3 || ss[0].State != "live" {
		t.Errorf("%+v %v", ss, err)
	}
	if info, err := c.ServerInfo(ctx); err != nil || info.Ledger != "sqlite" {
		t.Errorf("%+v %v", info, err)
	}
	stop()
	if s := log.String(); !strings.Contains(s, "job="+id.String()+" kind=test.count queue=default attempt=1") {
		t.Errorf("log %q lacks the job", s)
	}
}
