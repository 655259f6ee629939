package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/internal/meter"
	"github.com/errandhq/errand/job"
)

// canaryMeters measure the jobs by which servers test their own queues.
type canaryMeters struct {
	roundTrip    *prometheus.HistogramVec
	lastSuccess  *prometheus.GaugeVec
	interval     *prometheus.GaugeVec
	sent, missed *prometheus.CounterVec
}

func newCanaryMeters() *canaryMeters {
	queue := []string{"queue"}
	return &canaryMeters{
		roundTrip: prometheus.NewHistogramVec(meter.Histogram("errand_canary_round_trip_seconds",
			"From the enqueue of a canary to the commit of its success, of those that ended on this server.", meter.Seconds), queue),
		lastSuccess: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "errand_canary_last_success_timestamp_seconds",
			Help: "When a canary of the queue last succeeded on this server; at first, when the server started.",
		}, queue),
		interval: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "errand_canary_interval_seconds", Help: "How often this server sends a canary through the queue.",
		}, queue),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "errand_canaries_sent_total", Help: "Canaries that this server has sent.",
		}, queue),
		missed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "errand_canaries_missed_total", Help: "Canaries of this server that did not succeed in time, or could not be sent.",
		}, queue),
	}
}

// Describe implements prometheus.Collector.
func (m *canaryMeters) Describe(ch chan<- *prometheus.Desc) {
	m.each(func(c prometheus.Collector) { c.Describe(ch) })
}

// Collect implements prometheus.Collector.
func (m *canaryMeters) Collect(ch chan<- prometheus.Metric) {
	m.each(func(c prometheus.Collector) { c.Collect(ch) })
}

func (m *canaryMeters) each(do func(prometheus.Collector)) {
	for _, c := range []prometheus.Collector{m.roundTrip, m.lastSuccess, m.interval, m.sent, m.missed} {
		do(c)
	}
}

// observe measures a canary that has succeeded. now is the ledger's clock, by
// which the canary was made: the commit is part of the round trip.
func (m *canaryMeters) observe(c *engine.Change, now func() time.Time) {
	if c.Event != job.Succeed {
		return
	}
	at := now()
	m.roundTrip.WithLabelValues(c.Job.Queue).Observe(between(c.Job.CreatedAt, at))
	m.lastSuccess.WithLabelValues(c.Job.Queue).Set(float64(at.UnixMilli()) / 1e3)
}

// CanaryConfigured says that this server sends a canary through the queue. It
// starts the clock of the last success, so that a first one that never comes
// is missed too.
func (m *Metrics) CanaryConfigured(queue string, interval time.Duration) {
	m.canary.interval.WithLabelValues(queue).Set(interval.Seconds())
	m.canary.lastSuccess.WithLabelValues(queue).SetToCurrentTime()
	m.canary.roundTrip.WithLabelValues(queue)
	m.canary.sent.WithLabelValues(queue)
	m.canary.missed.WithLabelValues(queue)
}

// CanarySent counts a canary.
func (m *Metrics) CanarySent(queue string) { m.canary.sent.WithLabelValues(queue).Inc() }

// CanaryMissed counts a canary that was late, was lost, or could not be sent.
func (m *Metrics) CanaryMissed(queue string) { m.canary.missed.WithLabelValues(queue).Inc() }
