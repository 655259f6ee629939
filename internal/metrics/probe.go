package metrics

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Probe is a part that is asked for its gauges at each scrape.
type Probe struct {
	Name  string // of the part, as the label "collector"
	Descs []*prometheus.Desc
	// Read returns the gauges, by the time that ctx ends.
	Read func(ctx context.Context) ([]prometheus.Metric, error)
}

// AddProbe adds a part. Scrapes that come while it is being read share the
// answer. If it fails, or has not answered within the timeout, the scrape goes on
// without its gauges, and errand_scrape_errors_total counts it. Parts are added
// before Handler is called.
func (m *Metrics) AddProbe(p Probe) {
	m.probes = append(m.probes, &probing{
		Probe: p, timeout: m.conf.Timeout, failed: m.troubles.WithLabelValues(p.Name),
		up: prometheus.NewDesc("errand_collector_up", "1 if the part could be read for this scrape, 0 if not.",
			nil, prometheus.Labels{"collector": p.Name}),
	})
}

// probing is a Probe with its state.
type probing struct {
	Probe
	timeout time.Duration
	failed  prometheus.Counter
	up      *prometheus.Desc

	mu  sync.Mutex
	now *probed // the reading under way
}

// probed is one reading; done is closed when it has ended.
type probed struct {
	done    chan struct{}
	metrics []prometheus.Metric
	err     error
}

// asking is a probing as the collector of one scrape.
type asking struct {
	*probing
	patience time.Duration
}

// Describe implements prometheus.Collector.
func (p asking) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range p.Descs {
		ch <- d
	}
	ch <- p.up
}

// Collect implements prometheus.Collector.
func (p asking) Collect(ch chan<- prometheus.Metric) { p.show(ch, p.begin()) }

// show tells what a reading brings.
func (p asking) show(ch chan<- prometheus.Metric, r *probed) {
	metrics, err := p.await(r)
	up := 1.0
	if err != nil {
		p.failed.Inc()
		up = 0
	}
	for _, one := range metrics {
		ch <- one
	}
	ch <- prometheus.MustNewConstMetric(p.up, prometheus.GaugeValue, up)
}

// begin starts a reading, or joins the one under way: one that hangs is not
// joined by a second.
func (p *probing) begin() *probed {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now != nil {
		return p.now
	}
	r := &probed{done: make(chan struct{})}
	p.now = r
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
		defer cancel()
		r.metrics, r.err = p.Read(ctx)
		p.mu.Lock()
		p.now = nil
		p.mu.Unlock()
		close(r.done)
	}()
	return r
}

func (p asking) await(r *probed) ([]prometheus.Metric, error) {
	t := time.NewTimer(p.patience)
	defer t.Stop()
	select {
	case <-r.done:
		return r.metrics, r.err
	case <-t.C:
		return nil, fmt.Errorf("read %s: no answer within %s", p.Name, p.patience)
	}
}
