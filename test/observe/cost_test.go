package observe

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/bench"
	"github.com/errandhq/errand/internal/otlp/otlptest"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster"
)

// What may be set from outside: how many pairs, and how many jobs a run has.
const (
	pairsVar = "ERRAND_COST_PAIRS"
	jobsVar  = "ERRAND_COST_JOBS"
)

// watching is how a run is observed.
type watching struct {
	name     string
	metrics  bool   // of the server and of the worker process, both scraped every second
	canary   bool   // one a second
	insights bool   // added up, and asked for once
	scaling  bool   // asked for every second
	logs     bool   // JSON at info, instead of nothing
	traces   string // share of traces exported by the server and by the worker process; "": none
}

func everything(name, traces string) watching {
	return watching{name, true, true, true, true, true, traces}
}

var watchings = []watching{
	everything("everything", "0.05"),
	everything("everything-every-trace", "1"),
	{name: "metrics", metrics: true},
	{name: "canary", metrics: true, canary: true}, // it is not sent where nobody would see it
	{name: "insights", insights: true},
	{name: "scaling", insights: true, scaling: true},
	{name: "logs", logs: true},
	{name: "traces", traces: "0.05"},
	{name: "every-trace", traces: "1"},
	{name: "nothing"}, // how far apart two runs are that are alike
}

// BenchmarkCost measures the processor time of all processes for each job, of
// the server, of a process that hands jobs in and carries them out, and of PostgreSQL,
// observed in the ways that its sub-benchmarks name, and not, in interleaved
// pairs. It reports the median of each and the median of their ratios with its
// 95 % interval (from the least to the greatest for fewer than six pairs):
//
//	go test ./test/observe -run '^$' -bench Cost/everything -benchtime 1x -timeout 30m
//
// The processor time of the collector and of those who scrape and ask is left out.
func BenchmarkCost(b *testing.B) {
	pairs, jobs := number(b, pairsVar, 9), number(b, jobsVar, 100_000)
	cluster.Errand(b) // built before anything is measured
	loadProgram(b)
	for _, w := range watchings {
		b.Run(w.name, func(b *testing.B) {
			pg := testenv.StartPostgres(b, testenv.Options{Settings: costSettings()})
			for range b.N {
				compare(b, pg, w, pairs, jobs)
			}
		})
	}
}

func number(b *testing.B, name string, otherwise int) int {
	b.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		b.Fatalf("%s is %q", name, text)
	}
	return n
}

func compare(b *testing.B, pg *testenv.Server, w watching, pairs, jobs int) {
	b.Helper()
	costs := map[bool][]float64{}
	var ratios []float64
	for i := range pairs {
		now := map[bool]spent{}
		for _, on := range []bool{i%2 == 0, i%2 != 0} {
			how := watching{}
			if on {
				how = w
			}
			now[on] = how.run(b, pg, jobs)
			costs[on] = append(costs[on], now[on].perJob(jobs))
		}
		ratios = append(ratios, now[true].perJob(jobs)/now[false].perJob(jobs))
		b.Logf("pair %d: %.3f; on %s; off %s", i+1, ratios[i], now[true].text(jobs), now[false].text(jobs))
	}
	ratio := bench.SpreadOf(ratios)
	b.ReportMetric(bench.SpreadOf(costs[true]).Median, "µs/job-on")
	b.ReportMetric(bench.SpreadOf(costs[false]).Median, "µs/job-off")
	b.ReportMetric(ratio.Median, "ratio")
	b.ReportMetric(ratio.Low, "ratio-low")
	b.ReportMetric(ratio.High, "ratio-high")
}

// spent is the processor time of a run.
type spent struct {
	server, load, postgres time.Duration
	took                   time.Duration // by the clock
	spans                  int           // that the collector has got
}

func (s spent) perJob(jobs int) float64 { return micros(s.server+s.load+s.postgres, jobs) }

func micros(d time.Duration, jobs int) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(jobs) }

func (s spent) text(jobs int) string {
	return fmt.Sprintf("%.1f µs a job (server %.1f, worker %.1f, PostgreSQL %.1f; %.0f jobs/s, %d spans)", s.perJob(jobs),
		micros(s.server, jobs), micros(s.load, jobs), micros(s.postgres, jobs), float64(jobs)/s.took.Seconds(), s.spans)
}

// run measures one run on a new database.
func (w watching) run(b *testing.B, pg *testenv.Server, jobs int) (s spent) {
	b.Helper()
	pg.Exec("postgres", "DROP DATABASE IF EXISTS errand WITH (FORCE)")
	pg.Exec("postgres", "CREATE DATABASE errand")
	pg.Exec("postgres", "CHECKPOINT")
	c := &cluster.Cluster{T: b, Dir: b.TempDir(), Ledger: pg.DSN("errand"), Env: []string{"ERRAND_SESSION_TTL=30s"}}
	var collector *otlptest.Collector
	if w.traces != "" {
		collector = otlptest.Start(b)
		b.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL())
		b.Setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
		b.Setenv("OTEL_TRACES_SAMPLER_ARG", w.traces)
		b.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1000000") // what is dropped would cost nothing
	} else {
		b.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	}
	server := c.AddServer(w.flags()...)
	logStatements := countStatements(b, pg, "run of "+strconv.Quote(w.name), jobs)
	scrapes := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(b))
	ctx, stop := context.WithCancel(b.Context())
	asked := make(chan struct{})
	go func() { defer close(asked); w.ask(ctx, server.URL(), scrapes) }()
	serverWas, postgresWas, began := server.CPUSoFar(), pg.CPU(), time.Now()
	s.load = w.load(b, c, server.URL(), scrapes, jobs)
	s.took = time.Since(began)
	stop()
	<-asked
	if w.insights {
		if _, err := c.Client().Insights(b.Context(), errand.InsightsQuery{}); err != nil {
			b.Fatal(err)
		}
	}
	server.Signal(syscall.SIGTERM)
	if code := server.Wait(cluster.Patience); code != 0 {
		b.Fatalf("the server's exit status is %d:\n%s", code, server.Log())
	}
	s.server, s.postgres = server.CPU()-serverWas, pg.CPU()-postgresWas
	logStatements()
	if collector != nil {
		s.spans = len(collector.Spans())
	}
	return s
}

func (w watching) flags() []string {
	flags := []string{"--drain-delay=0s", "--metrics=" + strconv.FormatBool(w.metrics), "--insights=" + strconv.FormatBool(w.insights)}
	if w.canary {
		flags = append(flags, "--canary=default=1s")
	}
	if w.logs {
		return append(flags, "--log-format=json", "--log-level=info")
	}
	return append(flags, "--log-level=error")
}

// load runs the process that hands the jobs in and carries them out, and
// returns its processor time.
func (w watching) load(b *testing.B, c *cluster.Cluster, server, scrapes string, jobs int) time.Duration {
	b.Helper()
	args := []string{"-server", server, "-jobs", strconv.Itoa(jobs)}
	if w.metrics {
		args = append(args, "-metrics", scrapes)
	}
	p := c.Run("load", loadProgram(b), args...)
	code := p.Wait(2 * cluster.Patience)
	n, err := strconv.ParseInt(strings.TrimSpace(p.Log()), 10, 64)
	if code != 0 || err != nil {
		b.Fatalf("the load's exit status is %d, %v:\n%s", code, err, p.Log())
	}
	return time.Duration(n)
}

func loadProgram(b *testing.B) string { return cluster.Binary(b, "test/observe/load", "load") }

// ask scrapes and polls every second until ctx ends.
func (w watching) ask(ctx context.Context, server, worker string) {
	var urls []string
	if w.metrics {
		urls = append(urls, server+"/metrics", "http://"+worker+"/metrics")
	}
	if w.scaling {
		urls = append(urls, server+"/v1/scaling?queue=default")
	}
	for tick := time.Tick(time.Second); ; {
		for _, url := range urls {
			if resp, err := http.Get(url); err == nil { // before its start and after its end the worker does not answer
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
	}
}
