package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/internal/meter"
	"github.com/errandhq/errand/job"
)

// How an attempt can end, and what a job can end as.
var (
	attemptOutcomes = map[job.Event]string{
		job.Succeed: "succeeded", job.Fail: "failed", job.Discard: "discarded",
		job.Snooze: "snoozed", job.Release: "released", job.Crash: "crashed",
	}
	finalOutcomes = []string{"succeeded", "dead", "cancelled", "expired"}
)

// jobMeters counts jobs by queue and kind.
type jobMeters struct {
	names *meter.Folder

	enqueued, leased, attempts, finished *prometheus.CounterVec
	wait, run, total                     *prometheus.HistogramVec
	lastLease                            *prometheus.GaugeVec

	mu    sync.RWMutex
	pairs map[meter.Pair]*pairMeters // by the names that the labels have
}

func newJobMeters(names int) *jobMeters {
	counter := func(name, help string, more ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"queue", "kind"}, more...))
	}
	timing := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(meter.Histogram(name, help, meter.Seconds), []string{"queue", "kind"})
	}
	return &jobMeters{
		names: meter.NewFolder(names), pairs: map[meter.Pair]*pairMeters{},
		enqueued: counter("errand_jobs_enqueued_total", "Jobs accepted by this server."),
		leased:   counter("errand_jobs_leased_total", "Jobs given to workers by this server."),
		attempts: counter("errand_attempts_ended_total", "Attempts that ended, by how: succeeded, failed, discarded, snoozed, released or crashed.", "outcome"),
		finished: counter("errand_jobs_finished_total", "Jobs that ended for good, by what they ended as: succeeded, dead, cancelled or expired.", "outcome"),
		wait:     timing("errand_job_wait_seconds", "From the time a job could be taken to its lease. Jobs given back by their worker are left out."),
		run:      timing("errand_job_run_seconds", "From the lease of an attempt to its end; attempts that succeeded, failed or were discarded."),
		total:    timing("errand_job_end_to_end_seconds", "From the enqueue of a job to its success, with any delay that was asked for."),
		lastLease: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "errand_queue_last_lease_timestamp_seconds", Help: "When this server last gave a job of the queue to a worker.",
		}, []string{"queue"}),
	}
}

// Describe implements prometheus.Collector.
func (m *jobMeters) Describe(ch chan<- *prometheus.Desc) {
	m.each(func(c prometheus.Collector) { c.Describe(ch) })
}

// Collect implements prometheus.Collector.
func (m *jobMeters) Collect(ch chan<- prometheus.Metric) {
	m.each(func(c prometheus.Collector) { c.Collect(ch) })
}

func (m *jobMeters) each(do func(prometheus.Collector)) {
	for _, c := range []prometheus.Collector{m.enqueued, m.leased, m.attempts, m.finished, m.wait, m.run, m.total, m.lastLease} {
		do(c)
	}
}

// of returns the meters of a queue and kind, made at their first use with all
// outcomes at zero, so that the first failure is seen as a rise.
func (m *jobMeters) of(queue, kind string) *pairMeters {
	p := m.names.Pair(queue, kind)
	m.mu.RLock()
	one := m.pairs[p]
	m.mu.RUnlock()
	if one != nil {
		return one
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if one = m.pairs[p]; one == nil {
		one = m.make(p)
		m.pairs[p] = one
	}
	return one
}

func (m *jobMeters) make(p meter.Pair) *pairMeters {
	one := &pairMeters{
		Pair:     p,
		enqueued: m.enqueued.WithLabelValues(p.Queue, p.Kind), leased: m.leased.WithLabelValues(p.Queue, p.Kind),
		wait: m.wait.WithLabelValues(p.Queue, p.Kind), run: m.run.WithLabelValues(p.Queue, p.Kind),
		total:     m.total.WithLabelValues(p.Queue, p.Kind),
		lastLease: sync.OnceValue(func() prometheus.Gauge { return m.lastLease.WithLabelValues(p.Queue) }),
		finished:  map[string]prometheus.Counter{},
	}
	for event, name := range attemptOutcomes {
		one.attempts[event] = m.attempts.WithLabelValues(p.Queue, p.Kind, name)
	}
	for _, name := range finalOutcomes {
		one.finished[name] = m.finished.WithLabelValues(p.Queue, p.Kind, name)
	}
	return one
}

// meanRun is how long an attempt of a kind takes, as seen here lately, and
// whether any was seen.
func (m *jobMeters) meanRun(queue, kind string) (time.Duration, bool) {
	m.mu.RLock()
	one := m.pairs[m.names.Pair(queue, kind)]
	m.mu.RUnlock()
	if one == nil {
		return 0, false
	}
	return one.mean.read()
}

// pairMeters are the meters of one queue and kind.
type pairMeters struct {
	meter.Pair
	enqueued, leased prometheus.Counter
	attempts         [job.Crash + 1]prometheus.Counter
	finished         map[string]prometheus.Counter
	wait, run, total prometheus.Observer
	lastLease        func() prometheus.Gauge // not there before the first lease
	mean             mean
}

// observe counts one change.
func (p *pairMeters) observe(c *engine.Change) {
	switch j := c.Job; c.Event {
	case engine.EventEnqueue:
		p.enqueued.Inc()
	case job.Lease:
		p.leased.Inc()
		p.lastLease().Set(float64(j.LeasedAt.UnixMilli()) / 1e3)
		if j.Lane > job.LaneFront {
			p.wait.Observe(between(j.RunAt, j.LeasedAt))
		}
	case job.Succeed, job.Fail, job.Discard, job.Snooze, job.Release, job.Crash:
		p.attempts[c.Event].Inc()
		p.ended(c)
		p.done(c)
	case job.Cancel, job.Expire:
		p.done(c)
	}
}

// ended measures an attempt that ran to an end of its own.
func (p *pairMeters) ended(c *engine.Change) {
	j, at := c.Job, c.Job.DoneAt
	switch c.Event {
	case job.Succeed:
		p.total.Observe(between(j.CreatedAt, at))
	case job.Fail, job.Discard:
		if n := len(j.Errors); n > 0 {
			at = j.Errors[n-1].At
		}
	default:
		return
	}
	ran := between(j.LeasedAt, at)
	p.run.Observe(ran)
	p.mean.add(ran)
}

// done counts a job that has ended for good.
func (p *pairMeters) done(c *engine.Change) {
	switch c.Job.State {
	case job.Succeeded:
		p.finished["succeeded"].Inc()
	case job.Dead:
		p.finished["dead"].Inc()
	case job.Cancelled:
		name := "cancelled"
		if c.Job.Reason == job.WhyExpired {
			name = "expired"
		}
		p.finished[name].Inc()
	}
}

// between is the time from one moment to another in seconds, never negative:
// the ledger's clock may have been set back.
func between(from, to time.Time) float64 { return max(to.Sub(from).Seconds(), 0) }

// mean follows the average of the last hundred or so values.
type mean struct {
	mu  sync.Mutex
	n   int
	avg float64
}

func (m *mean) add(v float64) {
	m.mu.Lock()
	m.n = min(m.n+1, 100)
	m.avg += (v - m.avg) / float64(m.n)
	m.mu.Unlock()
}

func (m *mean) read() (time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Duration(m.avg * float64(time.Second)), m.n > 0
}
