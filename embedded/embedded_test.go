package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/embedded"
	"github.com/errandhq/errand/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// ledgers are the addresses of a fresh ledger of each kind.
var ledgers = map[string]func(t *testing.T) string{
	"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "errand.db") },
	"postgres": func(t *testing.T) string { return testenv.Postgres(t) },
}

// onEach runs a test on a fresh ledger of each kind.
func onEach(t *testing.T, test func(t *testing.T, ledger string)) {
	for name, fresh := range ledgers {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

func open(t *testing.T, c embedded.Config) *errand.Client {
	t.Helper()
	client, err := embedded.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return client
}

// work runs a worker until the test, or the stop it returns, ends it.
func work(t *testing.T, w *errand.Worker) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

type args struct{ N int }

var double = errand.NewTask[args]("double")

// TestLifeOfAJob goes from producer to worker to result, with no server.
func TestLifeOfAJob(t *testing.T) {
	onEach(t, func(t *testing.T, ledger string) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c := open(t, embedded.Config{Ledger: ledger})
		w := &errand.Worker{Client: c}
		errand.Handle(w, double, func(_ context.Context, j *errand.Job[args]) error { return j.SetResult(2 * j.Args.N) })
		work(t, w)
		id, err := double.Enqueue(ctx, c, args{21})
		if err != nil {
			t.Fatal(err)
		}
		info, err := c.Wait(ctx, id)
		if err != nil || info.State != errand.Succeeded || string(info.Result) != "42" {
			t.Fatalf("%+v, %v", info, err)
		}
		server, err := c.ServerInfo(ctx)
		if err != nil || server.Role != "operator" || !strings.HasPrefix(ledger, server.Ledger) {
			t.Errorf("%+v, %v", server, err)
		}
	})
}

// TestJobsOutliveTheClient: what was accepted is there after Close and Open.
func TestJobsOutliveTheClient(t *testing.T) {
	onEach(t, func(t *testing.T, ledger string) {
		first, err := embedded.Open(t.Context(), embedded.Config{Ledger: ledger})
		if err != nil {
			t.Fatal(err)
		}
		id, err := double.Enqueue(t.Context(), first, args{1})
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		info, err := open(t, embedded.Config{Ledger: ledger}).Job(t.Context(), id)
		if err != nil || info.State != errand.Ready {
			t.Errorf("%+v, %v", info, err)
		}
	})
}

// TestErrorsAreThoseOfTheWire: a program that branches on errors does so alike
// with and without a server.
func TestErrorsAreThoseOfTheWire(t *testing.T) {
	onEach(t, func(t *testing.T, ledger string) {
		c := open(t, embedded.Config{Ledger: ledger, MaxDepth: map[string]int64{"small": 1}})
		if _, err := c.Job(t.Context(), errand.NewID()); !errors.Is(err, errand.ErrNotFound) {
			t.Errorf("a job that is not there: %v", err)
		}
		bad := func(what string, opts ...errand.EnqueueOption) {
			t.Helper()
			_, err := double.Enqueue(t.Context(), c, args{1}, opts...)
			var e *errand.Error
			if !errors.As(err, &e) || e.Code != errand.CodeInvalidArgument {
				t.Errorf("%s: %v", what, err)
			}
		}
		bad("priority 99", errand.Priority(99))
		bad("a queue of 10,000 bytes", errand.Queue(strings.Repeat("q", 10_000)))
		bad("a NUL", errand.Queue("a\x00b"))
		bad("invalid UTF-8", errand.Queue("a\xff"))
		if _, err := double.Enqueue(t.Context(), c, args{1}, errand.Queue("small")); err != nil {
			t.Fatal(err)
		}
		if _, err := double.Enqueue(t.Context(), c, args{1}, errand.Queue("small")); !errors.Is(err, errand.ErrQueueFull) {
			t.Errorf("a full queue: %v", err)
		}
	})
}

// TestSeveralProcessesShareAPostgreSQL: two engines, as two processes would
// have, work on one database; every job runs once.
func TestSeveralProcessesShareAPostgreSQL(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ledger := ledgers["postgres"](t)
	producer := open(t, embedded.Config{Ledger: ledger})
	const jobs = 200
	var mu sync.Mutex
	runs := map[int]int{}
	for range 2 {
		w := &errand.Worker{Client: open(t, embedded.Config{Ledger: ledger})}
		errand.Handle(w, double, func(_ context.Context, j *errand.Job[args]) error {
			mu.Lock()
			defer mu.Unlock()
			runs[j.Args.N]++
			return nil
		})
		work(t, w)
	}
	ids := make([]errand.ID, jobs)
	for i := range ids {
		var err error
		if ids[i], err = double.Enqueue(ctx, producer, args{i}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		if info, err := producer.Wait(ctx, id); err != nil || info.State != errand.Succeeded {
			t.Fatalf("%+v, %v", info, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(runs) != jobs {
		t.Errorf("%d of %d jobs ran", len(runs), jobs)
	}
	for n, times := range runs {
		if times != 1 {
			t.Errorf("job %d ran %d times", n, times)
		}
	}
}

// TestASecondOwnerOfAFile gets the clear error, and the file is free after Close.
func TestASecondOwnerOfAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "errand.db")
	first := open(t, embedded.Config{Path: path})
	_, err := embedded.Open(t.Context(), embedded.Config{Path: path})
	var e *errand.Error
	if !errors.As(err, &e) || e.Reason != errand.Reason("LEDGER_LOCKED") || !strings.Contains(err.Error(), path) {
		t.Fatalf("a second owner: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, embedded.Config{Path: path})
}

// TestClose refuses later calls at once, ends a long wait, and may be repeated.
func TestClose(t *testing.T) {
	onEach(t, func(t *testing.T, ledger string) {
		c := open(t, embedded.Config{Ledger: ledger})
		id, err := double.Enqueue(t.Context(), c, args{1})
		if err != nil {
			t.Fatal(err)
		}
		var ended atomic.Bool
		waited := make(chan struct{})
		go func() {
			defer close(waited)
			_, _ = c.Wait(t.Context(), id) // its error is of no matter: that it ends is
			ended.Store(true)
		}()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-waited:
		case <-time.After(patience):
			t.Fatal("a wait outlives the client")
		}
		start := time.Now()
		if _, err := double.Enqueue(t.Context(), c, args{1}); err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("after Close: %v", err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the refusal took %s", took)
		}
		if err := c.Close(); err != nil {
			t.Errorf("a second Close: %v", err)
		}
	})
}

// TestBadConfigurations name what is wrong, and show no password.
func TestBadConfigurations(t *testing.T) {
	for want, c := range map[string]embedded.Config{
		"no ledger is named":                  {},
		"both set":                            {Ledger: "sqlite:a", Path: "b"},
		"is not one of sqlite:PATH":           {Ledger: "mysql://u:hunter2@h/db"},
		"names no file":                       {Ledger: "sqlite:"},
		"session-ttl: 1ms is not between":     {Path: "x", SessionTTL: time.Millisecond},
		"max-payload: -1B is not":             {Path: "x", MaxPayload: -1},
		"crash-limit: -1 is not":              {Path: "x", CrashLimit: -1},
		"archive-keep: -1s is not":            {Path: "x", ArchiveKeep: -time.Second},
		"max-depth: 0 for mail":               {Path: "x", MaxDepth: map[string]int64{"mail": 0}},
		"open ledger postgres://u@127.0.0.1:": {Ledger: fmt.Sprintf("postgres://u:hunter2@127.0.0.1:%d/db", testenv.FreePort(t))},
		"open cache redis://u@h:7/":           {Path: filepath.Join(t.TempDir(), "a.db"), Cache: "redis://u:hunter2@h:7/?nonsense=1"},
		"open broker kafka://h":               {Path: filepath.Join(t.TempDir(), "b.db"), Brokers: []string{"kafka://h?nonsense=1"}},
		"open ledger sqlite:":                 {Path: filepath.Join(t.TempDir(), "no", "such", "directory", "errand.db")},
	} {
		client, err := embedded.Open(t.Context(), c)
		if err == nil {
			_ = client.Close()
		}
		var e *errand.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// TestPayloadBelongsToTheCaller: bytes handed in may be written to as soon as
// the call has returned (the race detector watches).
func TestPayloadBelongsToTheCaller(t *testing.T) {
	onEach(t, func(t *testing.T, ledger string) {
		c := open(t, embedded.Config{Ledger: ledger})
		payload := []byte(`"aaaaaaaa"`)
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // cut short: the engine may go on with it
		_, _ = c.Enqueue(ctx, errand.EnqueueParams{Kind: "k", Payload: payload})
		for i := range payload {
			payload[i] = 'x'
		}
		copy(payload, `"bbbbbbbb"`)
		r, err := c.Enqueue(t.Context(), errand.EnqueueParams{Kind: "k", Payload: payload})
		if err != nil {
			t.Fatal(err)
		}
		copy(payload, `"cccccccc"`)
		info, err := c.Job(t.Context(), r.ID)
		if err != nil || string(info.Payload) != `"bbbbbbbb"` {
			t.Errorf("%s, %v", info.Payload, err)
		}
	})
}

// TestJobsAreHandedOverAsMessagesTellThem: a worker in this process, which gets jobs
// without messages, sees in them what it would see by the contract's Lease.
func TestJobsAreHandedOverAsMessagesTellThem(t *testing.T) {
	onEach(t, func(t *testing.T, ledger string) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c := open(t, embedded.Config{Ledger: ledger})
		byMessage := errand.NewClient(struct{ errand.Service }{c.Service()}, nil)
		for _, p := range []errand.EnqueueParams{
			{Payload: []byte("1")},
			{
				Payload: []byte("all"), ContentType: "text/plain", Priority: new(3), Tags: []string{"a", "b"}, Timeout: time.Minute,
				MaxAttempts: 7, TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", TraceState: "k=v",
			},
		} {
			p.Kind, p.Queue = "k", "q"
			seen := func(by *errand.Client) errand.RawJob {
				got := make(chan errand.RawJob, 1)
				w := &errand.Worker{Client: by, Queues: []string{"q"}}
				errand.HandleKind(w, "k", func(ctx context.Context, j *errand.RawJob) error {
					raw := errand.RawJob{
						Queue: j.Queue, Kind: j.Kind, Payload: j.Payload, ContentType: j.ContentType, Priority: j.Priority,
						Attempt: j.Attempt, MaxAttempts: j.MaxAttempts, Crashes: j.Crashes, Timeout: j.Timeout,
						Tags: j.Tags, TraceParent: j.TraceParent, TraceState: j.TraceState, Token: j.Token,
					}
					if j.CreatedAt.IsZero() || j.RunAt.IsZero() || j.CreatedAt.Location() != time.UTC || j.RunAt.Location() != time.UTC {
						t.Errorf("made at %v, to be run at %v", j.CreatedAt, j.RunAt)
					}
					if info, err := c.Job(ctx, j.ID); err != nil || !info.CreatedAt.Equal(j.CreatedAt) || !info.RunAt.Equal(j.RunAt) {
						t.Errorf("%+v was read, %v; handed over was %+v", info, err, j)
					}
					got <- raw
					return nil
				})
				stop := work(t, w)
				defer stop()
				if _, err := c.Enqueue(ctx, p); err != nil {
					t.Fatal(err)
				}
				select {
				case j := <-got:
					return j
				case <-ctx.Done():
					t.Fatal("no job came")
					return errand.RawJob{}
				}
			}
			if direct, told := seen(c), seen(byMessage); !reflect.DeepEqual(direct, told) {
				t.Errorf("handed over was\n%+v\nby message\n%+v", direct, told)
			}
		}
	})
}
