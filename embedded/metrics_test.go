package embedded_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/embedded"
	"github.com/errandhq/errand/errandpgx"
)

// ends are the ways in which a handler ends a job for good, each with how the
// job ends, and what more a job with retries goes through.
var ends = map[string]struct {
	end    func(attempt int) error
	as     string
	failed float64
}{
	"returns":        {func(int) error { return nil }, "succeeded", 0},
	"fails at first": {func(n int) error { return failFirst(n, 2) }, "succeeded", 1},
	"fails for good": {func(int) error { return errors.New("no") }, "dead", 3},
	"discards":       {func(int) error { return errand.Discard(errors.New("no")) }, "dead", 0},
}

func failFirst(attempt, until int) error {
	if attempt < until {
		return errand.RetryIn(time.Millisecond, errors.New("no luck"))
	}
	return nil
}

// Every job is counted once by how it ended, with its times, whichever way that
// came to the ledger: by the worker's settle, by a transaction of its own, or by a caller.
func TestEveryOutcomeIsMeasured(t *testing.T) {
	onEach(t, func(t *testing.T, ledger string) {
		reg := prometheus.NewPedanticRegistry()
		c := open(t, embedded.Config{Ledger: ledger, Registerer: reg, BackoffBase: time.Millisecond, BackoffCap: time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		w := &errand.Worker{Client: c}
		for kind, e := range ends {
			errand.HandleKind(w, kind, func(_ context.Context, j *errand.RawJob) error { return e.end(j.Attempt) })
		}
		completes := strings.HasPrefix(ledger, "postgres")
		if completes {
			errand.HandleKind(w, "completes", completer(t, ledger))
		}
		id, err := c.Enqueue(ctx, errand.EnqueueParams{Kind: "is cancelled", Payload: []byte("1")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Cancel(ctx, id.ID); err != nil {
			t.Fatal(err)
		}
		const each = 3
		var ids []errand.ID
		put := func(kind string) {
			for range each {
				r, err := c.Enqueue(ctx, errand.EnqueueParams{Kind: kind, Payload: []byte("1"), MaxAttempts: 3})
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, r.ID)
			}
		}
		for kind := range ends {
			put(kind)
		}
		if completes {
			put("completes")
		}
		stop := work(t, w)
		for _, id := range ids {
			if _, err := c.Wait(ctx, id); err != nil {
				t.Fatal(err)
			}
		}
		stop() // after its last settle
		m := gather(t, reg)
		for kind, e := range ends {
			m.want(each, "errand_jobs_finished_total", kind, e.as)
			m.want(each*e.failed, "errand_attempts_ended_total", kind, "failed")
		}
		m.want(1, "errand_jobs_finished_total", "is cancelled", "cancelled")
		m.want(each, "errand_job_end_to_end_seconds", "returns", "")
		if completes {
			m.want(each, "errand_jobs_finished_total", "completes", "succeeded")
			m.want(each, "errand_attempts_ended_total", "completes", "succeeded")
			m.want(each, "errand_job_run_seconds", "completes", "")
			m.want(each, "errand_job_end_to_end_seconds", "completes", "")
		}
	})
}

// completer is a handler that completes its job in a transaction of its own.
func completer(t *testing.T, dsn string) func(context.Context, *errand.RawJob) error {
	return func(ctx context.Context, j *errand.RawJob) error {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return errandpgx.CompleteTx(ctx, tx, j, "done") })
		if err != nil {
			t.Errorf("complete: %v", err)
		}
		return err
	}
}

// seen are the values of counters, and the counts of histograms, by name, kind and outcome.
type seen struct {
	t  *testing.T
	of map[[3]string]float64
}

func gather(t *testing.T, reg prometheus.Gatherer) seen {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := seen{t, map[[3]string]float64{}}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			k := [3]string{f.GetName()}
			for _, l := range m.GetLabel() {
				switch l.GetName() {
				case "kind":
					k[1] = l.GetValue()
				case "outcome":
					k[2] = l.GetValue()
				}
			}
			out.of[k] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

func (s seen) want(n float64, name, kind, outcome string) {
	s.t.Helper()
	if got := s.of[[3]string{name, kind, outcome}]; got != n {
		s.t.Errorf("%s of %q, %s: %v, want %v", name, kind, outcome, got, n)
	}
}

// Two engines share a registry under labels of their own, a second one without
// is refused and leaves nothing, and Close takes the metrics away.
func TestMetricsAreRegisteredAndForgotten(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	dir := t.TempDir()
	config := func(name string) embedded.Config {
		return embedded.Config{
			Path:       filepath.Join(dir, name),
			Registerer: prometheus.WrapRegistererWith(prometheus.Labels{"engine": name}, reg),
		}
	}
	a, b := open(t, config("a")), open(t, config("b"))
	var e *errand.Error
	again := config("a")
	again.Path = filepath.Join(dir, "c")
	for range 2 { // the file is free after the first refusal
		if _, err := embedded.Open(t.Context(), again); !errors.As(err, &e) || e.Code != errand.CodeInvalidArgument ||
			!strings.Contains(err.Error(), "Registerer") {
			t.Errorf("a registry that has these metrics: %v", err)
		}
	}
	if n, err := testutil.GatherAndCount(reg, "errand_build_info", "errand_collector_up"); err != nil || n != 6 {
		t.Errorf("%d series, %v; want the build, the ledger and its database of each engine", n, err)
	}
	if _, err := double.Enqueue(t.Context(), a, args{1}); err != nil {
		t.Fatal(err)
	}
	gather(t, reg).want(1, "errand_queue_jobs", "", "")
	for _, c := range []*errand.Client{a, b} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if n, err := testutil.GatherAndCount(reg); err != nil || n != 0 {
		t.Errorf("%d series are left, %v", n, err)
	}
}
