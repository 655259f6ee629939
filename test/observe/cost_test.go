package observe

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/test/cluster"
)

const (
	costJobs  = 40_000
	costPairs = 9
)

// BenchmarkCostOfMetrics measures the server's processor time for each job, with
// metrics (scraped every second) and without, in interleaved pairs, and
// reports the median of each and the median, least and most of their ratios:
//
//	go test ./test/observe -run '^$' -bench Cost -benchtime 1x
func BenchmarkCostOfMetrics(b *testing.B) {
	for range b.N {
		var on, off, ratio []float64
		for i := range costPairs {
			var with, without float64
			if i%2 == 0 {
				with, without = cost(b, true), cost(b, false)
			} else {
				without, with = cost(b, false), cost(b, true)
			}
			on, off, ratio = append(on, with), append(off, without), append(ratio, with/without)
			b.Logf("pair %d: %.2f µs with, %.2f µs without", i, with, without)
		}
		slices.Sort(ratio)
		b.ReportMetric(median(on), "µs/job-on")
		b.ReportMetric(median(off), "µs/job-off")
		b.ReportMetric(median(ratio), "ratio")
		b.ReportMetric(ratio[0], "ratio-least")
		b.ReportMetric(ratio[len(ratio)-1], "ratio-most")
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// cost runs a server for costJobs jobs that do nothing, and returns its
// processor time for each, in microseconds.
func cost(b *testing.B, metrics bool) float64 {
	b.Helper()
	c := cluster.SQLite(b)
	flag := "--metrics=false"
	if metrics {
		flag = "--metrics=true"
	}
	server := c.AddServer(flag)
	ctx, stop := context.WithCancel(b.Context())
	scraped := make(chan struct{})
	go func() { defer close(scraped); scrapeEvery(ctx, server.URL()) }()
	drain(b, c.NewClient())
	stop()
	<-scraped
	server.Signal(syscall.SIGTERM)
	server.Wait(cluster.Patience)
	return float64(server.CPU().Microseconds()) / costJobs
}

func scrapeEvery(ctx context.Context, url string) {
	for tick := time.Tick(time.Second); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		if resp, err := http.Get(url + "/metrics"); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}
}

// drain hands the jobs in and has them carried out.
func drain(b *testing.B, client *errand.Client) {
	b.Helper()
	ctx, stop := context.WithCancel(b.Context())
	var done atomic.Int64
	w := &errand.Worker{Client: client, Concurrency: 500, Logger: slog.New(slog.DiscardHandler)}
	errand.HandleKind(w, "k", func(context.Context, *errand.RawJob) error {
		if done.Add(1) == costJobs {
			stop()
		}
		return nil
	})
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	batch := make([]errand.EnqueueParams, 500)
	for i := range batch {
		batch[i] = errand.EnqueueParams{Kind: "k", Payload: []byte(`{"user":42}`)}
	}
	for range costJobs / len(batch) {
		if _, err := client.EnqueueBatch(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
