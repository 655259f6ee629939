// Package errandtest gives tests an Errand of their own: a real engine on a
// SQLite file in the test's temporary directory, with a clock that the test
// moves on.
//
//	q := errandtest.New(t)
//	signUp(ctx, q.Client, user)                                     // the code under test
//	errandtest.RequireEnqueued(q, SendWelcome, func(w Welcome) bool { return w.UserID == 42 })
//	q.WorkOne(worker)                                               // its handler, once
//	q.Advance(time.Hour)                                            // what was delayed is due
//	q.WorkAll(worker)
package errandtest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/api"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/sqlite"
)

const (
	// sessionTTL is so long that no Advance lets a worker's session die.
	sessionTTL = 20 * 365 * 24 * time.Hour
	poll       = 10 * time.Millisecond
	// patience bounds every wait for something that should be there at once.
	patience = 10 * time.Second
)

// Queue is an Errand for one test. Everything of it ends with the test.
type Queue struct {
	// Client is what the code under test enqueues with. Workers get it from
	// WorkOne and WorkAll.
	Client *errand.Client

	t      testing.TB
	ahead  *atomic.Int64 // nanoseconds
	engine *engine.Engine
}

// New starts an Errand that ends with the test.
func New(t testing.TB) *Queue {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "errand.db"), sqlite.Options{})
	if err != nil {
		stop()
		t.Fatalf("errandtest: %v", err)
	}
	began, ahead := time.Now(), new(atomic.Int64)
	e := engine.New(shifted{l, ahead}, engine.Config{
		SessionTTL: sessionTTL, PollInterval: poll, Keep: ledger.DefaultKeep, Logger: slog.New(slog.DiscardHandler),
		Monotonic: func() time.Duration { return time.Since(began) + time.Duration(ahead.Load()) },
	})
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		e.Drain()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("errandtest: engine: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Errorf("errandtest: ledger: %v", err)
		}
	})
	svc := api.New(e, api.Config{Version: errand.Version, Ledger: "sqlite", Logger: slog.New(slog.DiscardHandler)})
	q := &Queue{Client: errand.NewClient(svc, nil), t: t, ahead: ahead, engine: e}
	q.await("the engine to start", func() bool { return !e.Now().IsZero() && e.Ready(ctx) == nil })
	return q
}

// shifted is a ledger whose clock is ahead.
type shifted struct {
	ledger.Ledger
	ahead *atomic.Int64
}

// Now implements ledger.Ledger.
func (s shifted) Now(ctx context.Context) (time.Time, error) {
	t, err := s.Ledger.Now(ctx)
	return t.Add(time.Duration(s.ahead.Load())), err
}

// Pulse implements ledger.Ledger. What is added during the call is for the next one: this
// one's clock is then late, which Advance waits out, and never early.
func (s shifted) Pulse(ctx context.Context, now time.Time, ask ledger.Ask) (ledger.Pulse, error) {
	ahead := time.Duration(s.ahead.Load())
	p, err := s.Ledger.Pulse(ctx, now, ask)
	p.Now = p.Now.Add(ahead)
	return p, err
}

// Now is the time that decides what is due: the wall clock, and what Advance added.
func (q *Queue) Now() time.Time { return q.engine.Now() }

// Advance moves the clock on by d and returns when every job that is due by
// then is ready. Nothing else happens: handlers run in WorkOne and WorkAll only,
// and timeouts of handlers keep to the wall clock. It panics if d is negative.
func (q *Queue) Advance(d time.Duration) {
	q.t.Helper()
	if d < 0 {
		panic("errandtest: the clock does not go back")
	}
	to := q.engine.Now().Add(d)
	q.ahead.Add(int64(d))
	q.await("the clock to advance", func() bool { return !q.engine.Now().Before(to) })
	q.await("due jobs to be ready", func() bool { return !q.due() })
}

// due reports whether a scheduled job should be ready by now.
func (q *Queue) due() bool {
	now := q.Now()
	for j, err := range q.Client.List(context.Background(), errand.ListQuery{State: errand.Scheduled}) {
		q.check(err)
		if !j.RunAt.After(now) {
			return true
		}
	}
	return false
}

// WorkOne has w carry out one ready job of its queues and kinds, and returns
// the job as it is afterwards. It fails the test if there is none. w needs handlers; its
// Client is set.
func (q *Queue) WorkOne(w *errand.Worker) *errand.JobInfo {
	q.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var id errand.ID
	first := func(next errand.Handler) errand.Handler {
		return func(hctx context.Context, j *errand.RawJob) error {
			id = j.ID
			cancel() // the worker drains: it waits for this handler
			return next(hctx, j)
		}
	}
	hands, middleware := w.Concurrency, w.Middleware
	w.Client, w.Concurrency, w.Middleware = q.Client, 1, append([]errand.Middleware{first}, middleware...)
	err := w.Run(ctx)
	w.Concurrency, w.Middleware = hands, middleware
	q.check(err)
	if id.IsZero() {
		q.t.Fatalf("errandtest: WorkOne found no ready job of the worker's queues and kinds; there are:\n%s", q.describe())
	}
	j, err := q.Client.Job(context.Background(), id)
	q.check(err)
	return j
}

// WorkAll runs w until no job is ready or running in its queues. Jobs
// scheduled for later, such as retries, stay: see Advance. Kinds for which w
// has no handler stay too.
func (q *Queue) WorkAll(w *errand.Worker) {
	q.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	w.Client = q.Client
	before := w.Stats().Sessions
	go func() { ended <- w.Run(ctx) }()
	for {
		select {
		case err := <-ended:
			q.check(err)
			q.t.Fatal("errandtest: the worker ended")
		case <-time.After(poll / 2):
		}
		if q.idle(w, before) {
			break
		}
	}
	cancel()
	q.check(<-ended)
}

// idle reports whether w, which had opened so many sessions before, has nothing
// to do: nothing runs, nothing is due, and what is ready waits for another worker.
func (q *Queue) idle(w *errand.Worker, before int64) bool {
	if w.Stats().Sessions == before {
		return false // not yet known to the engine: every kind looks abandoned
	}
	infos, err := q.Client.Queues(context.Background())
	q.check(err)
	mine := w.Queues
	if len(mine) == 0 {
		mine = []string{"default"}
	}
	for _, info := range infos {
		if !slices.Contains(mine, info.Queue) {
			continue
		}
		if info.Running > 0 {
			return false
		}
		for _, k := range info.Kinds {
			if k.Ready > 0 && !k.WaitingForWorker && !info.Paused {
				return false
			}
		}
	}
	return !q.due()
}

// describe lists what is not finished.
func (q *Queue) describe() string {
	var b strings.Builder
	for j, err := range q.Client.List(context.Background(), errand.ListQuery{}) {
		if err != nil {
			return err.Error()
		}
		if !j.State.Final() {
			fmt.Fprintf(&b, "  %s %s in queue %s, %s, run at %s\n", j.ID, j.Kind, j.Queue, j.State, j.RunAt.Format(time.RFC3339))
		}
	}
	if b.Len() == 0 {
		return "  none"
	}
	return b.String()
}

// RequireEnqueued fails the test unless a job of the task, in whatever state,
// has a payload for which match is true (nil: any), and returns the newest.
func RequireEnqueued[T any](q *Queue, task *errand.Task[T], match func(T) bool) *errand.JobInfo {
	q.t.Helper()
	var seen []string
	for j, err := range q.Client.List(context.Background(), errand.ListQuery{Kind: task.Kind()}) {
		q.check(err)
		full, err := q.Client.Job(context.Background(), j.ID)
		q.check(err)
		var v T
		if err := json.Unmarshal(full.Payload, &v); err == nil && (match == nil || match(v)) {
			return full
		}
		seen = append(seen, string(full.Payload))
	}
	q.t.Fatalf("errandtest: no such job of kind %s; the payloads are: %s", task.Kind(), strings.Join(seen, ", "))
	return nil
}

// RequireNotEnqueued fails the test if a job of the task has a payload for which
// match is true (nil: any).
func RequireNotEnqueued[T any](q *Queue, task *errand.Task[T], match func(T) bool) {
	q.t.Helper()
	for j, err := range q.Client.List(context.Background(), errand.ListQuery{Kind: task.Kind()}) {
		q.check(err)
		full, err := q.Client.Job(context.Background(), j.ID)
		q.check(err)
		var v T
		if err := json.Unmarshal(full.Payload, &v); err == nil && (match == nil || match(v)) {
			q.t.Fatalf("errandtest: job %s of kind %s was enqueued with %s", j.ID, task.Kind(), full.Payload)
		}
	}
}

func (q *Queue) check(err error) {
	q.t.Helper()
	if err != nil {
		q.t.Fatalf("errandtest: %v", err)
	}
}

// await polls until ok, and fails the test if it takes too long.
func (q *Queue) await(what string, ok func() bool) {
	q.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			q.t.Fatalf("errandtest: waited %s for %s", patience, what)
		}
		time.Sleep(poll / 5)
	}
}
