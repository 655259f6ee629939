package metrics

import (
	"testing"
	"time"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// BenchmarkObserve is the whole life of a job, in batches of a hundred.
func BenchmarkObserve(b *testing.B) {
	m := New(Config{})
	now := time.Now()
	var batches [3][]engine.Change
	for i := range 100 {
		at := func(d int) time.Time { return now.Add(time.Duration(d*(i+1)) * time.Millisecond) }
		j := &job.Job{Queue: "q", Kind: "k", State: job.Succeeded, CreatedAt: now, RunAt: now, Lane: 5, LeasedAt: at(3), DoneAt: at(7)}
		for k, ev := range []job.Event{engine.EventEnqueue, job.Lease, job.Succeed} {
			batches[k] = append(batches[k], engine.Change{Event: ev, Job: j})
		}
	}
	for b.Loop() {
		for _, batch := range batches {
			m.Observe(batch)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/job")
}
