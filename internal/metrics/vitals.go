package metrics

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/errandhq/errand/ledger"
)

// The database's own gauges.
var (
	bytesDesc      = desc("errand_ledger_bytes", "Bytes of the ledger on disk.")
	oldestDeadDesc = desc("errand_dead_letters_oldest_seconds", "Age of the oldest dead letter, 0 if there is none.")
	xminDesc       = desc("errand_postgres_oldest_xmin_transactions", "Transactions that began since the oldest one that somebody may still see: dead rows younger than that cannot be removed.")
	openDesc       = desc("errand_postgres_oldest_transaction_seconds", "Age of the oldest open transaction that keeps dead rows in place.")
	deadRowsDesc   = desc("errand_postgres_dead_rows", "Dead rows in the table of live jobs, as PostgreSQL estimates.")
	liveRowsDesc   = desc("errand_postgres_live_rows", "Rows in the table of live jobs, as PostgreSQL estimates.")
	vacuumDesc     = desc("errand_postgres_last_vacuum_timestamp_seconds", "When the table of live jobs was last vacuumed, 0 for never.")
	poolDesc       = desc("errand_ledger_pool_connections", "Connections of this server to the ledger, by state: busy or idle.", "state")
	poolMaxDesc    = desc("errand_ledger_pool_max_connections", "Connections that this server may open at most.")
	poolWaitsDesc  = desc("errand_ledger_pool_waits_total", "Calls that had to wait for a connection.")
	poolWaitedDesc = desc("errand_ledger_pool_wait_seconds_total", "How long calls waited for the connection that they got, together.")
	poolGaveUpDesc = desc("errand_ledger_pool_gave_up_total", "Calls that got no connection in their time.")
)

// Examine adds the gauges of the database under a ledger, as far as it has any.
// l is the ledger that was opened, not one that Time returned.
func (m *Metrics) Examine(l ledger.Ledger) {
	if p, ok := l.(ledger.Pooled); ok {
		m.Register(poolCollector{p})
	}
	if x, ok := l.(ledger.Examined); ok {
		m.examine(x)
	}
}

func (m *Metrics) examine(l ledger.Examined) {
	m.AddProbe(Probe{
		Name:  "database",
		Descs: []*prometheus.Desc{bytesDesc, oldestDeadDesc, xminDesc, openDesc, deadRowsDesc, liveRowsDesc, vacuumDesc},
		Read: func(ctx context.Context) ([]prometheus.Metric, error) {
			v, err := l.Vitals(ctx)
			if err != nil {
				return nil, fmt.Errorf("examine the database: %w", err)
			}
			return m.showVitals(&v), nil
		},
	})
}

func (m *Metrics) showVitals(v *ledger.Vitals) []prometheus.Metric {
	var out []prometheus.Metric
	show := func(d *prometheus.Desc, t prometheus.ValueType, value float64, labels ...string) {
		out = append(out, prometheus.MustNewConstMetric(d, t, value, labels...))
	}
	show(bytesDesc, prometheus.GaugeValue, float64(v.Bytes))
	age := 0.0
	if !v.OldestDead.IsZero() {
		age = between(v.OldestDead, m.now())
	}
	show(oldestDeadDesc, prometheus.GaugeValue, age)
	if w := v.Vacuum; w != nil {
		show(xminDesc, prometheus.GaugeValue, float64(w.XminAge))
		show(openDesc, prometheus.GaugeValue, w.OldestOpen.Seconds())
		show(deadRowsDesc, prometheus.GaugeValue, float64(w.DeadRows))
		show(liveRowsDesc, prometheus.GaugeValue, float64(w.LiveRows))
		show(vacuumDesc, prometheus.GaugeValue, stamp(w.LastCleaned))
	}
	return out
}

// poolCollector shows a pool, from memory.
type poolCollector struct{ l ledger.Pooled }

// Describe implements prometheus.Collector.
func (poolCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{poolDesc, poolMaxDesc, poolWaitsDesc, poolWaitedDesc, poolGaveUpDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c poolCollector) Collect(ch chan<- prometheus.Metric) {
	show := func(d *prometheus.Desc, t prometheus.ValueType, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, value, labels...)
	}
	p := c.l.Pool()
	show(poolDesc, prometheus.GaugeValue, float64(p.Busy), "busy")
	show(poolDesc, prometheus.GaugeValue, float64(max(p.Open-p.Busy, 0)), "idle")
	show(poolMaxDesc, prometheus.GaugeValue, float64(p.Max))
	show(poolWaitsDesc, prometheus.CounterValue, float64(p.Waits))
	show(poolWaitedDesc, prometheus.CounterValue, p.Waited.Seconds())
	show(poolGaveUpDesc, prometheus.CounterValue, float64(p.GaveUp))
}

// stamp is a moment in seconds since 1970, 0 for none.
func stamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1e3
}
