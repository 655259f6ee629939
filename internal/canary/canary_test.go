package canary

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/api"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/internal/metrics"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const wait = 30 * time.Second

// nest is a running engine with canaries that are not sent yet.
type nest struct {
	t       *testing.T
	engine  *engine.Engine
	client  *errand.Client
	metrics *metrics.Metrics
	*Canaries
}

func newNest(t *testing.T, every time.Duration, queues ...string) *nest {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	l, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "errand.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := metrics.New(metrics.Config{})
	e := engine.New(l, engine.Config{PollInterval: 20 * time.Millisecond, Observers: []engine.Observer{m}})
	m.Attach(e)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-ended
		_ = l.Close()
	})
	n := &nest{t: t, engine: e, metrics: m, client: errand.NewClient(api.New(e, api.Config{}), nil)}
	intervals := map[string]time.Duration{}
	for _, q := range queues {
		intervals[q] = every
	}
	n.Canaries = New(e, n.client, m, intervals, log)
	return n
}

// fly sends canaries until the test, or stop, ends it.
func (n *nest) fly() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	var once atomic.Bool
	stop = func() {
		if once.Swap(true) {
			return
		}
		cancel()
		if err := <-ended; err != nil {
			n.t.Errorf("Run: %v", err)
		}
	}
	n.t.Cleanup(stop)
	return stop
}

// metric reads one value from what is exposed; 0 if it is not there.
func (n *nest) metric(series string) float64 {
	n.t.Helper()
	w := httptest.NewRecorder()
	n.metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (.*)$`).FindStringSubmatch(w.Body.String())
	if m == nil {
		return 0
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		n.t.Fatal(err)
	}
	return v
}

func (n *nest) until(what string, ok func() bool) {
	n.t.Helper()
	for end := time.Now().Add(wait); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("after %s it is still not so that %s", wait, what)
		}
	}
}

// canaries returns the canaries of a queue that are in the ledger, by state.
func (n *nest) canaries(queue string) map[job.State]int {
	n.t.Helper()
	list, err := n.engine.List(n.t.Context(), ledger.Query{Queue: queue, Kind: job.KindCanary, Limit: 1000})
	if err != nil {
		n.t.Fatal(err)
	}
	out := map[job.State]int{}
	for _, j := range list {
		out[j.State]++
	}
	return out
}

// TestCanariesComeBack through each queue, are measured, and are nobody's work.
func TestCanariesComeBack(t *testing.T) {
	n := newNest(t, 30*time.Millisecond, "a", "b")
	before := time.Now()
	stop := n.fly()
	for _, q := range []string{"a", "b"} {
		n.until("three canaries came back through "+q, func() bool {
			return n.metric(`errand_canary_round_trip_seconds_count{queue="`+q+`"}`) >= 3
		})
		if at := n.metric(`errand_canary_last_success_timestamp_seconds{queue="` + q + `"}`); at < float64(before.Unix()) {
			t.Errorf("the last success is said to be at %f", at)
		}
		if missed := n.metric(`errand_canaries_missed_total{queue="` + q + `"}`); missed != 0 {
			t.Errorf("%f were missed", missed)
		}
	}
	queues, err := n.engine.Queues(t.Context())
	if err != nil || len(queues) != 0 {
		t.Errorf("queues of people's jobs: %v, %v", queues, err)
	}
	if live := n.metric(`errand_sessions{state="live"}`); live != 0 {
		t.Errorf("the canary's session counts as %f workers", live)
	}
	stop()
	sessions, err := n.engine.ListSessions(t.Context())
	if err != nil || len(sessions) != 0 {
		t.Errorf("the session was not given back: %v, %v", sessions, err)
	}
}

// TestNonePileUpInAQueueThatStandsStill: through a queue that stands still one canary at a time is
// sent, it expires, and is missed; when the queue goes on, so do they.
func TestNonePileUpInAQueueThatStandsStill(t *testing.T) {
	n := newNest(t, 20*time.Millisecond, "q")
	n.least = 400 * time.Millisecond
	if err := n.engine.Pause(t.Context(), "q"); err != nil {
		t.Fatal(err)
	}
	n.fly()
	n.until("two canaries were missed", func() bool { return n.metric(`errand_canaries_missed_total{queue="q"}`) >= 2 })
	by := n.canaries("q")
	if by[job.Ready] > 2 || by[job.Cancelled] > 6 || by[job.Succeeded] > 0 {
		t.Errorf("canaries by state: %v; want at most one that waits, and one about to expire", by)
	}
	if err := n.engine.Resume(t.Context(), "q"); err != nil {
		t.Fatal(err)
	}
	n.until("canaries come back", func() bool { return n.canaries("q")[job.Succeeded] >= 2 })
}

// TestNoHandlerHearsOfCanaries, though the worker takes every kind: the SDK
// knows them, and neither counts nor runs them.
func TestNoHandlerHearsOfCanaries(t *testing.T) {
	n := newNest(t, 20*time.Millisecond, "q")
	var heard atomic.Int64
	w := &errand.Worker{Client: n.client, Queues: []string{"q"}, Logger: slog.New(slog.DiscardHandler)}
	errand.HandleAny(w, func(context.Context, *errand.RawJob) error { heard.Add(1); return nil })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	n.until("the worker is there", func() bool {
		list, err := n.engine.ListSessions(t.Context())
		return err == nil && len(list) == 1
	})
	// The server's own worker is not there: the canaries are the other one's.
	sending, quit := context.WithCancel(t.Context())
	sent := make(chan struct{})
	go func() { defer close(sent); n.send(sending, "q", 20*time.Millisecond) }()
	n.until("canaries come back", func() bool { return n.canaries("q")[job.Succeeded] >= 3 })
	quit()
	<-sent
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if s := w.Stats(); heard.Load() != 0 || s.Started != 0 || s.Succeeded != 0 {
		t.Errorf("the handler heard of %d; %+v", heard.Load(), s)
	}
}
