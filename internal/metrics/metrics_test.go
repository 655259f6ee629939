package metrics

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/internal/meter"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scrape returns what m exposes, as text.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// has checks that lines are exposed.
func has(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains(text, "\n"+l+"\n") {
			t.Errorf("not exposed: %s", l)
		}
	}
}

func hasNot(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if strings.Contains(text, p) {
			t.Errorf("exposed: %s", p)
		}
	}
}

// life is one job's way through its changes.
type life struct {
	m   *Metrics
	j   job.Job
	now time.Time
}

func (l *life) after(d time.Duration) *life { l.now = l.now.Add(d); return l }

func (l *life) move(ev job.Event, m job.Move) *life {
	from := l.j.State
	m.Event, m.Now = ev, l.now
	if err := job.DefaultRules(func() float64 { return 0 }).Step(&l.j, m); err != nil {
		panic(err)
	}
	l.m.Observe([]engine.Change{{Event: ev, From: from, Job: &l.j}})
	return l
}

func born(m *Metrics, queue, kind string) *life {
	l := &life{m: m, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	l.j = job.Job{Queue: queue, Kind: kind, State: job.Ready, Lane: 5, CreatedAt: l.now, RunAt: l.now, MaxAttempts: 2}
	m.Observe([]engine.Change{{Event: engine.EventEnqueue, Job: &l.j}})
	return l
}

// TestObserve takes jobs through every way of ending an attempt and a job.
func TestObserve(t *testing.T) {
	m := New(Config{Version: "1", Ledger: "sqlite"})
	born(m, "q", "k").after(2*time.Second).move(job.Lease, job.Move{}).after(20*time.Second).move(job.Succeed, job.Move{})
	born(m, "q", "k").move(job.Lease, job.Move{}).after(3*time.Second).move(job.Fail, job.Move{}).
		move(job.Due, job.Move{}).move(job.Lease, job.Move{}).move(job.Fail, job.Move{})
	born(m, "q", "k").move(job.Lease, job.Move{}).move(job.Snooze, job.Move{}).move(job.Cancel, job.Move{})
	born(m, "q", "k").move(job.Lease, job.Move{}).after(time.Hour).move(job.Release, job.Move{}).after(time.Hour).
		move(job.Lease, job.Move{}).move(job.Crash, job.Move{}).move(job.Expire, job.Move{})
	born(m, "q", "k").move(job.Lease, job.Move{}).move(job.Cancel, job.Move{}).move(job.Discard, job.Move{})
	born(m, "q", job.KindCanary).move(job.Lease, job.Move{}).move(job.Succeed, job.Move{})
	text := scrape(t, m)
	has(t, text,
		`errand_jobs_enqueued_total{kind="k",queue="q"} 5`,
		`errand_jobs_leased_total{kind="k",queue="q"} 7`,
		`errand_attempts_ended_total{kind="k",outcome="succeeded",queue="q"} 1`,
		`errand_attempts_ended_total{kind="k",outcome="failed",queue="q"} 2`,
		`errand_attempts_ended_total{kind="k",outcome="snoozed",queue="q"} 1`,
		`errand_attempts_ended_total{kind="k",outcome="released",queue="q"} 1`,
		`errand_attempts_ended_total{kind="k",outcome="crashed",queue="q"} 1`,
		`errand_attempts_ended_total{kind="k",outcome="discarded",queue="q"} 1`,
		`errand_jobs_finished_total{kind="k",outcome="succeeded",queue="q"} 1`,
		`errand_jobs_finished_total{kind="k",outcome="dead",queue="q"} 1`,
		`errand_jobs_finished_total{kind="k",outcome="cancelled",queue="q"} 2`,
		`errand_jobs_finished_total{kind="k",outcome="expired",queue="q"} 1`,
		`errand_job_wait_seconds_count{kind="k",queue="q"} 6`, // the job that was given back is left out
		`errand_job_wait_seconds_sum{kind="k",queue="q"} 2`,
		`errand_job_run_seconds_count{kind="k",queue="q"} 4`,
		`errand_job_run_seconds_sum{kind="k",queue="q"} 23`,
		`errand_job_end_to_end_seconds_sum{kind="k",queue="q"} 22`,
		`errand_canary_round_trip_seconds_count{queue="q"} 1`,
	)
	hasNot(t, text, `kind="errand.canary"`)
	if mean, ok := m.jobs.meanRun("q", "k"); !ok || mean != 23*time.Second/4 {
		t.Errorf("the mean run time is %s, %t", mean, ok)
	}
}

// TestNativeHistograms: who asks in protobuf gets them beside the classic buckets.
func TestNativeHistograms(t *testing.T) {
	m := New(Config{})
	born(m, "q", "k").after(time.Second).move(job.Lease, job.Move{})
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "errand_job_wait_seconds" {
			continue
		}
		h := f.GetMetric()[0].GetHistogram()
		if len(h.GetBucket()) != len(meter.Seconds) || len(h.GetPositiveSpan()) == 0 {
			t.Errorf("%d classic buckets, %d native spans", len(h.GetBucket()), len(h.GetPositiveSpan()))
		}
		return
	}
	t.Error("no such histogram")
}

// TestNamesFold: a producer that invents queues and kinds costs a bounded
// number of series, and nothing is left uncounted.
func TestNamesFold(t *testing.T) {
	m := New(Config{Names: 3})
	for q := range 10 {
		for k := range 10 {
			born(m, fmt.Sprint("q", q), fmt.Sprint("k", k))
		}
	}
	born(m, "q0", "k0")
	text := scrape(t, m)
	has(t, text, `errand_jobs_enqueued_total{kind="k0",queue="q0"} 2`, `errand_jobs_enqueued_total{kind="other",queue="q0"} 7`)
	var sum float64
	series := 0
	collect(m.jobs.enqueued, func(d *dto.Metric) { series++; sum += d.GetCounter().GetValue() })
	if sum != 101 || series > 3*meter.PairsPerName+4 {
		t.Errorf("%d series count %.0f jobs of 101", series, sum)
	}
}

func collect(c prometheus.Collector, each func(*dto.Metric)) {
	ch := make(chan prometheus.Metric)
	go func() { defer close(ch); c.Collect(ch) }()
	for one := range ch {
		var d dto.Metric
		_ = one.Write(&d) // of a counter: it cannot fail
		each(&d)
	}
}

// source is an engine that says what it is told to.
type source struct {
	queues   []engine.QueueInfo
	sessions []ledger.Session
	reads    atomic.Int64
	hold     chan struct{} // if set, Overview waits for it
	err      error
}

func (s *source) Overview(ctx context.Context) ([]engine.QueueInfo, []ledger.Session, error) {
	s.reads.Add(1)
	if s.hold != nil {
		<-s.hold // deaf to ctx, as a stuck driver is
	}
	return s.queues, s.sessions, s.err
}

func (s *source) Info() engine.Info {
	return engine.Info{
		StaleResults: 2, Rescued: 3, Crashed: 1, Brake: true,
		RelayLeads: true, RefsPublished: 4, Republished: 5, RefsReturned: 6, LeasedByRef: 7,
		CacheHits: 8, CacheMisses: 9, CacheShed: 10, CacheProbed: 12, CacheDrift: 11, CacheAway: true,
	}
}
func (s *source) Carried() engine.Carried {
	return engine.Carried{Carriers: 1, Waiting: 8, Oldest: 9 * time.Second, Lag: 10 * time.Second}
}
func (s *source) Now() time.Time { return time.Now() }

// TestGauges: what is read from the ledger, of queues that are well, paused and without workers.
func TestGauges(t *testing.T) {
	m := New(Config{})
	for range 3 {
		born(m, "mail", "send").move(job.Lease, job.Move{}).after(4*time.Second).move(job.Succeed, job.Move{})
	}
	m.Attach(&source{
		queues: []engine.QueueInfo{
			{Queue: "mail", Counts: map[job.State]int64{job.Ready: 12, job.Dead: 1}, HasReady: true, OldestReady: time.Minute,
				Kinds: []engine.KindInfo{{Kind: "send", Ready: 10, OldestReady: 30 * time.Second},
					{Kind: "lost", Ready: 2, OldestReady: time.Minute, WaitingForWorker: true}}},
			{Queue: "off", Paused: true, Counts: map[job.State]int64{job.Ready: 1}, HasReady: true, OldestReady: time.Hour,
				Kinds: []engine.KindInfo{{Kind: "send", Ready: 1, OldestReady: time.Hour}}},
		},
		sessions: []ledger.Session{
			{State: ledger.SessionLive, Queues: []string{"mail", "off"}, Concurrency: 5, Running: 2},
			{State: ledger.SessionLive, Queues: []string{"mail"}, Concurrency: 1, Running: 1},
			{State: ledger.SessionDead, Queues: []string{"mail"}, Concurrency: 7},
			{State: ledger.SessionLive, Queues: []string{"mail"}, Kinds: []string{job.KindCanary}, Concurrency: 3},
		},
	})
	text := scrape(t, m)
	has(t, text,
		`errand_queue_jobs{queue="mail",state="ready"} 12`, `errand_queue_jobs{queue="mail",state="dead"} 1`,
		`errand_queue_jobs{queue="mail",state="running"} 0`,
		`errand_queue_paused{queue="mail"} 0`, `errand_queue_paused{queue="off"} 1`,
		`errand_queue_oldest_ready_seconds{queue="mail"} 60`, `errand_queue_oldest_claimable_seconds{queue="mail"} 30`,
		`errand_queue_oldest_ready_seconds{queue="off"} 3600`, `errand_queue_oldest_claimable_seconds{queue="off"} 0`,
		`errand_queue_jobs_without_worker{kind="lost",queue="mail"} 2`,
		`errand_queue_backlog_worker_seconds{queue="mail"} 40`,
		`errand_queue_slots{queue="mail",state="busy"} 3`, `errand_queue_slots{queue="mail",state="free"} 3`,
		`errand_queue_slots{queue="off",state="free"} 3`,
		`errand_worker_slots{state="busy"} 3`, `errand_worker_slots{state="free"} 3`,
		`errand_sessions{state="live"} 2`, `errand_sessions{state="dead"} 1`, `errand_sessions{state="draining"} 0`,
		`errand_stale_results_total 2`, `errand_jobs_rescued_total{sessions="dead"} 1`, `errand_jobs_rescued_total{sessions="drained"} 2`, `errand_brake_engaged 1`,
		`errand_collector_up{collector="ledger"} 1`,
		`errand_relay_carriers 1`, `errand_relay_leads 1`, `errand_relay_refs_published_total 4`, `errand_relay_refs_republished_total 5`,
		`errand_relay_refs_returned_total 6`, `errand_jobs_leased_by_ref_total 7`, `errand_relay_refs_waiting 8`,
		`errand_relay_refs_waiting_oldest_seconds 9`, `errand_relay_lag_seconds 10`,
		`errand_cache_hits_total 8`, `errand_cache_misses_total 9`, `errand_cache_shed_total 10`, `errand_cache_probed_total 12`,
		`errand_cache_drifted_total 11`, `errand_cache_away 1`,
	)
}

// TestALedgerThatIsDownIsCounted: the scrape is answered with all the rest.
func TestALedgerThatIsDownIsCounted(t *testing.T) {
	m := New(Config{})
	m.Attach(&source{err: errors.New("down")})
	scrape(t, m)
	text := scrape(t, m)
	has(t, text, `errand_collector_up{collector="ledger"} 0`, `errand_brake_engaged 1`)
	hasNot(t, text, "errand_queue_jobs{", "errand_sessions{")
	if n := testutil.ToFloat64(m.troubles.WithLabelValues("ledger")); n != 2 {
		t.Errorf("%v failures counted, of 2", n)
	}
}

// TestScrapesShareAReadAndDoNotHang: a hundred scrapes of a ledger that hangs
// are answered in time, without its gauges, and ask it once.
func TestScrapesShareAReadAndDoNotHang(t *testing.T) {
	m := New(Config{Timeout: 200 * time.Millisecond})
	s := &source{hold: make(chan struct{}), queues: []engine.QueueInfo{{Queue: "q"}}}
	m.Attach(s)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if text := scrape(t, m); strings.Contains(text, "errand_queue_jobs{") {
				t.Error("gauges out of nowhere")
			}
		})
	}
	all.Wait()
	if n := s.reads.Load(); n != 1 {
		t.Errorf("the ledger was read %d times", n)
	}
	close(s.hold)
	for end := time.Now().Add(20 * time.Second); ; {
		if strings.Contains(scrape(t, m), `errand_queue_jobs{queue="q",state="ready"} 0`) {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the gauges do not come back")
		}
	}
}

// TestVitals shows a database that has everything, and one that has nothing.
func TestVitals(t *testing.T) {
	m := New(Config{})
	m.examine(examined{v: ledger.Vitals{
		Bytes: 9, OldestDead: m.now().Add(-time.Hour),
		Vacuum: &ledger.Vacuum{XminAge: 4, OldestOpen: time.Minute, DeadRows: 5, LiveRows: 6, LastCleaned: time.Unix(7, 0)},
	}})
	m.Register(poolCollector{pooled{}})
	text := scrape(t, m)
	has(t, text, `errand_ledger_bytes 9`, `errand_postgres_oldest_xmin_transactions 4`, `errand_postgres_oldest_transaction_seconds 60`,
		`errand_postgres_dead_rows 5`, `errand_postgres_live_rows 6`, `errand_postgres_last_vacuum_timestamp_seconds 7`,
		`errand_ledger_pool_connections{state="busy"} 1`, `errand_ledger_pool_connections{state="idle"} 2`,
		`errand_ledger_pool_max_connections 8`, `errand_ledger_pool_waits_total 2`, `errand_ledger_pool_wait_seconds_total 1.5`, `errand_ledger_pool_gave_up_total 4`)
	if !strings.Contains(text, "\nerrand_dead_letters_oldest_seconds 3600") {
		t.Error("the age of the oldest dead letter is not an hour")
	}
	bare := New(Config{})
	bare.examine(examined{})
	text = scrape(t, bare)
	has(t, text, `errand_dead_letters_oldest_seconds 0`)
	hasNot(t, text, "errand_postgres_", "errand_ledger_pool_")
}

type pooled struct{}

func (pooled) Pool() ledger.Pool {
	return ledger.Pool{Max: 8, Open: 3, Busy: 1, Waits: 2, Waited: 1500 * time.Millisecond, GaveUp: 4}
}

type examined struct{ v ledger.Vitals }

func (e examined) Vitals(context.Context) (ledger.Vitals, error) { return e.v, nil }

// TestNamesFollowTheConventions lints everything that is exposed.
func TestNamesFollowTheConventions(t *testing.T) {
	m := New(Config{})
	m.Attach(&source{queues: []engine.QueueInfo{{Queue: "q", Kinds: []engine.KindInfo{{Kind: "k", Ready: 1, WaitingForWorker: true}}}}})
	m.examine(examined{v: ledger.Vitals{Vacuum: &ledger.Vacuum{}}})
	m.Register(poolCollector{pooled{}})
	m.CanaryConfigured("q", time.Second)
	born(m, "q", "k")
	problems, err := testutil.GatherAndLint(m.within(m.conf.Timeout))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families, err := m.within(m.conf.Timeout).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, one := range f.GetMetric() {
			for _, l := range one.GetLabel() {
				switch l.GetName() {
				case "job", "instance", "id", "tenant", "session", "worker":
					t.Errorf("%s has the label %s", f.GetName(), l.GetName())
				}
			}
		}
	}
}

// TestAScraperInAHurry: what it says of its own patience is heeded.
func TestAScraperInAHurry(t *testing.T) {
	m := New(Config{Timeout: time.Minute})
	hold := make(chan struct{})
	defer close(hold)
	m.Attach(&source{hold: hold})
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "0.2")
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, r)
	has(t, w.Body.String(), `errand_collector_up{collector="ledger"} 0`, `errand_stale_results_total 2`)
}
