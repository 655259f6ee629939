// Package errandprom tells Prometheus what a worker process does. It keeps
// nothing in globals: the registry is yours.
//
//	w := &errand.Worker{Client: c, Queues: []string{"mail"}}
//	err := errandprom.Observe(w, prometheus.DefaultRegisterer)
//
// The names begin with errand_worker_. A server's own metrics count the same jobs
// from its side; these tell which process was slow, and what it had free.
package errandprom

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/meter"
)

// maxNames bounds the queues, and kinds, that have labels of their own; the
// others are "other". Only a worker of every kind comes near it.
const maxNames = 100

// Observe makes w tell reg of its jobs. Call it before w.Run, with w's fields set;
// two workers of one process need labels to tell them apart, by
// prometheus.WrapRegistererWith. It returns an error if w is observed already, or if reg
// has these metrics.
func Observe(w *errand.Worker, reg prometheus.Registerer) error {
	if w.Observer != nil {
		return errors.New("errandprom: the worker has an observer already")
	}
	o := newObserver(w)
	if err := reg.Register(o); err != nil {
		return err
	}
	w.Observer = o
	return nil
}

// observer is a worker's meters.
type observer struct {
	names   *meter.Folder
	started *prometheus.CounterVec
	ended   *prometheus.CounterVec
	run     *prometheus.HistogramVec
	busy    prometheus.Gauge
	others  []prometheus.Collector

	mu    sync.RWMutex
	pairs map[meter.Pair]*pair
}

// pair are the meters of one queue and kind.
type pair struct {
	started prometheus.Counter
	ended   map[errand.Outcome]prometheus.Counter
	run     prometheus.Observer
}

func newObserver(w *errand.Worker) *observer {
	labels := []string{"queue", "kind"}
	o := &observer{
		names: meter.NewFolder(maxNames), pairs: map[meter.Pair]*pair{},
		started: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "errand_worker_jobs_started_total", Help: "Handlers called.",
		}, labels),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "errand_worker_jobs_ended_total",
			Help: "Handlers that returned, by outcome: succeeded, failed, discarded, snoozed or released.",
		}, append(labels, "outcome")),
		run: prometheus.NewHistogramVec(meter.Histogram("errand_worker_job_run_seconds", "How long handlers took.", meter.Seconds), labels),
		busy: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "errand_worker_busy_slots", Help: "Handlers that run now.",
		}),
	}
	all := prometheus.NewGauge(prometheus.GaugeOpts{Name: "errand_worker_concurrency", Help: "Jobs that the worker takes at a time."})
	all.Set(float64(concurrency(w)))
	count := func(name, help string, of func(errand.WorkerStats) int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help},
			func() float64 { return float64(of(w.Stats())) })
	}
	o.others = []prometheus.Collector{
		o.started, o.ended, o.run, o.busy, all,
		count("errand_worker_stale_results_total", "Outcomes that the server refused because the job had gone to another holder.",
			func(s errand.WorkerStats) int64 { return s.Stale }),
		count("errand_worker_overruns_total", "Handlers that went on for 5 s after their context had ended.",
			func(s errand.WorkerStats) int64 { return s.Overrun }),
		count("errand_worker_sessions_total", "Sessions opened: more than one means that leases were lost.",
			func(s errand.WorkerStats) int64 { return s.Sessions }),
	}
	return o
}

// concurrency is what Run takes for zero.
func concurrency(w *errand.Worker) int {
	if w.Concurrency == 0 {
		return 10
	}
	return w.Concurrency
}

// Describe implements prometheus.Collector.
func (o *observer) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range o.others {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (o *observer) Collect(ch chan<- prometheus.Metric) {
	for _, c := range o.others {
		c.Collect(ch)
	}
}

// JobStarted implements errand.WorkerObserver.
func (o *observer) JobStarted(j *errand.RawJob) {
	o.of(j).started.Inc()
	o.busy.Inc()
}

// JobEnded implements errand.WorkerObserver.
func (o *observer) JobEnded(j *errand.RawJob, outcome errand.Outcome, ran time.Duration) {
	p := o.of(j)
	p.ended[outcome].Inc()
	p.run.Observe(ran.Seconds())
	o.busy.Dec()
}

// of returns the meters of a job's queue and kind, made at their first use with
// all outcomes at zero.
func (o *observer) of(j *errand.RawJob) *pair {
	name := o.names.Pair(j.Queue, j.Kind)
	o.mu.RLock()
	p := o.pairs[name]
	o.mu.RUnlock()
	if p != nil {
		return p
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if p = o.pairs[name]; p != nil {
		return p
	}
	p = &pair{
		started: o.started.WithLabelValues(name.Queue, name.Kind), run: o.run.WithLabelValues(name.Queue, name.Kind),
		ended: map[errand.Outcome]prometheus.Counter{},
	}
	for _, outcome := range errand.Outcomes {
		p.ended[outcome] = o.ended.WithLabelValues(name.Queue, name.Kind, string(outcome))
	}
	o.pairs[name] = p
	return p
}
