package metrics

import "github.com/prometheus/client_golang/prometheus"

// Collector returns all of Errand's metrics as one collector, for a registry
// of somebody else's, which has those of Go and of the process itself. It waits for the
// ledger, and other parts, as long as Config.Timeout says. It is called when all parts are added.
func (m *Metrics) Collector() prometheus.Collector { return whole{m} }

// whole is everything as one collector: a registry takes all of it, or none.
type whole struct{ m *Metrics }

// Describe implements prometheus.Collector. The probes' states differ by a label alone.
func (w whole) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range w.m.own {
		c.Describe(ch)
	}
	for _, p := range w.m.probes {
		asking{probing: p}.Describe(ch)
	}
}

// Collect implements prometheus.Collector. The probes are read at the same time.
func (w whole) Collect(ch chan<- prometheus.Metric) {
	readings := make([]*probed, len(w.m.probes))
	for i, p := range w.m.probes {
		readings[i] = p.begin()
	}
	for _, c := range w.m.own {
		c.Collect(ch)
	}
	for i, p := range w.m.probes {
		asking{p, w.m.conf.Timeout}.show(ch, readings[i])
	}
}
