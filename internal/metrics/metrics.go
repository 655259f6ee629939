// Package metrics is what a server tells Prometheus: counters and histograms
// of what this process has committed, fed by the engine's observer seam, and
// gauges of what the ledger holds, read from its counters when somebody
// scrapes. docs/observability.md lists them all, and a test holds that list
// against what a server exposes.
//
// Counters are of this process: add them up over the servers. Gauges of the
// ledger are the same on each server: take their maximum. No job, session or
// tenant is ever a label, and queues and kinds beyond a bound fold into "other".
package metrics

import (
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// Config sets Metrics. Zero values mean the defaults.
type Config struct {
	Version string        // of the server, for errand_build_info
	Ledger  string        // "sqlite" or "postgres"
	Names   int           // 100: queues, and kinds, with labels of their own
	Timeout time.Duration // 5 s: how long a scrape waits for the ledger, or another part
}

// Metrics is one server's registry and all that feeds it. It is safe for
// concurrent use, and an engine.Observer.
type Metrics struct {
	conf     Config
	registry *prometheus.Registry
	own      []prometheus.Collector // what the registry has of Errand
	probes   []*probing
	jobs     *jobMeters
	canary   *canaryMeters
	ledger   *prometheus.HistogramVec
	calls    *prometheus.CounterVec
	troubles *prometheus.CounterVec
	now      func() time.Time
}

var _ engine.Observer = (*Metrics)(nil)

// New makes the registry, with what Go and the process tell of themselves.
func New(c Config) *Metrics {
	if c.Names <= 0 {
		c.Names = 100
	}
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	m := &Metrics{
		conf: c, registry: prometheus.NewRegistry(), now: time.Now,
		jobs: newJobMeters(c.Names), canary: newCanaryMeters(), ledger: newLedgerTimes(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "errand_api_calls_total", Help: "Calls answered by this server, by call and code of the answer.",
		}, []string{"call", "code"}),
		troubles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "errand_scrape_errors_total", Help: "Scrapes in which a part could not be read; its gauges were left out.",
		}, []string{"collector"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "errand_build_info", Help: "Always 1: which Errand this is.",
		ConstLabels: prometheus.Labels{"version": c.Version, "goversion": runtime.Version(), "ledger": c.Ledger},
	})
	info.Set(1)
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.Register(info, m.jobs, m.canary, m.ledger, m.calls, m.troubles)
	return m
}

// Register adds collectors of other parts, such as counters of a relay or a
// cache. What must be asked for at each scrape, and may fail or hang, comes by
// AddProbe. It panics if a name is taken: that is a mistake of the program.
func (m *Metrics) Register(cs ...prometheus.Collector) {
	m.registry.MustRegister(cs...)
	m.own = append(m.own, cs...)
}

// Handler answers a scrape, in the time that the scraper says it has. A part that
// cannot be read leaves its gauges out and is counted; everything else is
// answered all the same. It is called when all parts are added.
func (m *Metrics) Handler() http.Handler {
	opts := promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, EnableOpenMetrics: true}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		promhttp.HandlerFor(m.within(m.patience(r)), opts).ServeHTTP(w, r)
	})
}

// patience is how long a scrape may wait for parts: Timeout, or less if the
// scraper would not wait so long.
func (m *Metrics) patience(r *http.Request) time.Duration {
	theirs, err := strconv.ParseFloat(r.Header.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || theirs <= 0 {
		return m.conf.Timeout
	}
	return min(m.conf.Timeout, time.Duration(0.8*theirs*float64(time.Second)))
}

// within gathers everything, the parts that must be asked within a time.
func (m *Metrics) within(patience time.Duration) prometheus.Gatherer {
	asked := prometheus.NewRegistry()
	for _, p := range m.probes {
		asked.MustRegister(asking{p, patience})
	}
	return prometheus.Gatherers{m.registry, asked}
}

// Observe implements engine.Observer.
func (m *Metrics) Observe(changes []engine.Change) {
	var last *pairMeters // batches are mostly of one queue and kind
	for i := range changes {
		c := &changes[i]
		if c.Job.Kind == job.KindCanary {
			m.canary.observe(c, m.now)
			continue
		}
		if last == nil || last.Queue != c.Job.Queue || last.Kind != c.Job.Kind {
			last = m.jobs.of(c.Job.Queue, c.Job.Kind)
		}
		last.observe(c)
	}
}
