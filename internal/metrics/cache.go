package metrics

import "github.com/prometheus/client_golang/prometheus"

// What the cache of job states tells. All is at zero on a server without one.
var (
	hitsDesc   = desc("errand_cache_hits_total", "States that the cache answered.")
	missesDesc = desc("errand_cache_misses_total", "States that the cache could not answer: the ledger did.")
	shedDesc   = desc("errand_cache_shed_total", "Changes that were not written to the cache, for lack of room or time.")
	probedDesc = desc("errand_cache_probed_total", "Final states in the cache that were compared with the ledger.")
	driftDesc  = desc("errand_cache_drifted_total", "Of those: states that the ledger contradicted, and were repaired.")
	awayDesc   = desc("errand_cache_away", "1 while the cache fails or does not answer, and is left alone.")
)

// cacheCollector shows the cache, from memory.
type cacheCollector struct{ e Engine }

// Describe implements prometheus.Collector.
func (cacheCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{hitsDesc, missesDesc, shedDesc, probedDesc, driftDesc, awayDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c cacheCollector) Collect(ch chan<- prometheus.Metric) {
	i := c.e.Info()
	count := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	count(hitsDesc, i.CacheHits)
	count(missesDesc, i.CacheMisses)
	count(shedDesc, i.CacheShed)
	count(probedDesc, i.CacheProbed)
	count(driftDesc, i.CacheDrift)
	ch <- prometheus.MustNewConstMetric(awayDesc, prometheus.GaugeValue, truth(i.CacheAway))
}
