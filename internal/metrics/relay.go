package metrics

import "github.com/prometheus/client_golang/prometheus"

// What the relay tells. A server that leads has all of it; the others stand by,
// and still lease by refs.
var (
	carriersDesc    = desc("errand_relay_carriers", "Carriers configured on this server.")
	leadsDesc       = desc("errand_relay_leads", "1 if this server publishes refs to the carriers, 0 if it stands by.")
	publishedDesc   = desc("errand_relay_refs_published_total", "Refs that this server published; one counts as often as it was published.")
	republishedDesc = desc("errand_relay_refs_republished_total", "Refs that this server published again, because they were not leased in time.")
	returnedDesc    = desc("errand_relay_refs_returned_total", "Refs that this server's relay took back, because a server could not use them.")
	byRefDesc       = desc("errand_jobs_leased_by_ref_total", "Jobs that this server leased because a carrier brought their refs.")
	waitingDesc     = desc("errand_relay_refs_waiting", "Refs published and not seen leased yet; 0 where the relay does not lead.")
	waitOldestDesc  = desc("errand_relay_refs_waiting_oldest_seconds", "How long ago the oldest of them was published, or last published again.")
	lagDesc         = desc("errand_relay_lag_seconds", "Age of the oldest ready job that the relay sees and has not published yet; 0 if there is none, or where the relay does not lead.")
)

// relayCollector shows the relay, from memory.
type relayCollector struct{ e Engine }

// Describe implements prometheus.Collector.
func (relayCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{carriersDesc, leadsDesc, publishedDesc, republishedDesc, returnedDesc, byRefDesc, waitingDesc, waitOldestDesc, lagDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c relayCollector) Collect(ch chan<- prometheus.Metric) {
	i, r := c.e.Info(), c.e.Carried()
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	count := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	gauge(carriersDesc, float64(r.Carriers))
	gauge(leadsDesc, truth(i.RelayLeads))
	gauge(waitingDesc, float64(r.Waiting))
	gauge(waitOldestDesc, r.Oldest.Seconds())
	gauge(lagDesc, r.Lag.Seconds())
	count(publishedDesc, i.RefsPublished)
	count(republishedDesc, i.Republished)
	count(returnedDesc, i.RefsReturned)
	count(byRefDesc, i.LeasedByRef)
}
