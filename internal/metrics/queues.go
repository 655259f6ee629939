package metrics

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Engine is what the gauges are read from: an *engine.Engine.
type Engine interface {
	Overview(ctx context.Context) ([]engine.QueueInfo, []ledger.Session, error)
	Info() engine.Info
	Carried() engine.Carried
	Now() time.Time
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// The gauges of the ledger.
var (
	jobsDesc      = desc("errand_queue_jobs", "Jobs kept, by queue and state.", "queue", "state")
	pausedDesc    = desc("errand_queue_paused", "1 if the queue is paused, 0 if not.", "queue")
	oldestDesc    = desc("errand_queue_oldest_ready_seconds", "How long the oldest ready job of the queue has waited, whoever could take it.", "queue")
	claimableDesc = desc("errand_queue_oldest_claimable_seconds", "How long the oldest job has waited that a worker could take now: the queue is not paused, and a live worker knows the kind.", "queue")
	orphansDesc   = desc("errand_queue_jobs_without_worker", "Ready jobs of kinds that no live worker takes.", "queue", "kind")
	backlogDesc   = desc("errand_queue_backlog_worker_seconds", "Work that is ready, in seconds of one slot: ready jobs times the run time of their kind as this server saw it lately. Kinds it saw none of are left out.", "queue")
	qslotsDesc    = desc("errand_queue_slots", "Slots of live workers that take jobs of the queue, by state: busy (with whatever) or free. A worker of several queues counts in each.", "queue", "state")
	slotsDesc     = desc("errand_worker_slots", "Slots of live workers, by state: busy or free.", "state")
	sessionsDesc  = desc("errand_sessions", "Worker sessions, by state. Those that ended are kept for an hour.", "state")
	brakeDesc     = desc("errand_brake_engaged", "1 while most sessions are silent at once and their jobs are rescued late, and slowly.")
	rescuedDesc   = desc("errand_jobs_rescued_total", "Jobs that this server took back, from sessions that are dead (which charges a crash) or drained.", "sessions")
	staleDesc     = desc("errand_stale_results_total", "Results that this server refused because the job had gone to another holder.")
)

// queueStates are shown for each queue, at zero too.
var queueStates = []job.State{job.Scheduled, job.Ready, job.Running, job.Succeeded, job.Dead, job.Cancelled}

// Attach adds the gauges of the ledger that e works on.
func (m *Metrics) Attach(e Engine) {
	m.now = e.Now
	m.Register(infoCollector{e}, relayCollector{e}, cacheCollector{e})
	m.AddProbe(Probe{
		Name: "ledger",
		Descs: []*prometheus.Desc{jobsDesc, pausedDesc, oldestDesc, claimableDesc, orphansDesc, backlogDesc,
			qslotsDesc, slotsDesc, sessionsDesc},
		Read: func(ctx context.Context) ([]prometheus.Metric, error) { return m.readLedger(ctx, e) },
	})
}

// infoCollector shows what the engine counts of itself.
type infoCollector struct{ e Engine }

// Describe implements prometheus.Collector.
func (infoCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{brakeDesc, rescuedDesc, staleDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c infoCollector) Collect(ch chan<- prometheus.Metric) {
	i := c.e.Info()
	ch <- prometheus.MustNewConstMetric(brakeDesc, prometheus.GaugeValue, truth(i.Brake))
	ch <- prometheus.MustNewConstMetric(rescuedDesc, prometheus.CounterValue, float64(i.Crashed), "dead")
	ch <- prometheus.MustNewConstMetric(rescuedDesc, prometheus.CounterValue, float64(i.Rescued-i.Crashed), "drained")
	ch <- prometheus.MustNewConstMetric(staleDesc, prometheus.CounterValue, float64(i.StaleResults))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// gauges gathers values by label, adding up what folds into one.
type gauges struct {
	sum map[gauge]float64
}

type gauge struct {
	desc   *prometheus.Desc
	labels [2]string
}

func (g gauges) add(d *prometheus.Desc, v float64, labels ...string) {
	k := gauge{desc: d}
	copy(k.labels[:], labels)
	g.sum[k] += v
}

func (g gauges) most(d *prometheus.Desc, v float64, labels ...string) {
	k := gauge{desc: d}
	copy(k.labels[:], labels)
	g.sum[k] = max(g.sum[k], v)
}

func (g gauges) metrics() []prometheus.Metric {
	out := make([]prometheus.Metric, 0, len(g.sum))
	for k, v := range g.sum {
		labels := slices.DeleteFunc(k.labels[:], func(s string) bool { return s == "" })
		out = append(out, prometheus.MustNewConstMetric(k.desc, prometheus.GaugeValue, v, labels...))
	}
	return out
}

func (m *Metrics) readLedger(ctx context.Context, e Engine) ([]prometheus.Metric, error) {
	queues, sessions, err := e.Overview(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	g := gauges{sum: map[gauge]float64{}}
	for i := range queues {
		m.gaugeQueue(g, &queues[i])
	}
	m.gaugeSessions(g, sessions)
	return g.metrics(), nil
}

func (m *Metrics) gaugeQueue(g gauges, q *engine.QueueInfo) {
	name := m.jobs.names.Queue(q.Queue)
	for _, s := range queueStates {
		g.add(jobsDesc, float64(q.Counts[s]), name, s.String())
	}
	g.most(pausedDesc, truth(q.Paused), name)
	g.most(oldestDesc, max(q.OldestReady.Seconds(), 0), name)
	g.add(qslotsDesc, 0, name, "busy")
	g.add(qslotsDesc, 0, name, "free")
	var claimable, backlog float64
	for _, k := range q.Kinds {
		if run, ok := m.jobs.meanRun(q.Queue, k.Kind); ok {
			backlog += float64(k.Ready) * run.Seconds()
		}
		switch {
		case k.WaitingForWorker:
			p := m.jobs.names.Pair(q.Queue, k.Kind)
			g.add(orphansDesc, float64(k.Ready), p.Queue, p.Kind)
		case !q.Paused:
			claimable = max(claimable, k.OldestReady.Seconds())
		}
	}
	g.most(claimableDesc, claimable, name)
	g.add(backlogDesc, backlog, name)
}

func (m *Metrics) gaugeSessions(g gauges, sessions []ledger.Session) {
	for _, s := range []ledger.SessionState{ledger.SessionLive, ledger.SessionDraining, ledger.SessionDead, ledger.SessionDrained} {
		g.add(sessionsDesc, 0, s.String())
	}
	g.add(slotsDesc, 0, "busy")
	g.add(slotsDesc, 0, "free")
	for i := range sessions {
		s := &sessions[i]
		if s.OfCanary() {
			continue
		}
		g.add(sessionsDesc, 1, s.State.String())
		if s.State != ledger.SessionLive {
			continue
		}
		busy, free := float64(s.Running), float64(max(s.Concurrency-s.Running, 0))
		g.add(slotsDesc, busy, "busy")
		g.add(slotsDesc, free, "free")
		for _, q := range s.Queues {
			g.add(qslotsDesc, busy, m.jobs.names.Queue(q), "busy")
			g.add(qslotsDesc, free, m.jobs.names.Queue(q), "free")
		}
	}
}
