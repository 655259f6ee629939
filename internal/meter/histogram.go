// Package meter is what the metrics of servers and of workers share: bounded
// labels and the form of histograms.
package meter

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Seconds are the bounds of histograms of jobs: from a queue that is asleep to
// one that is hours behind.
var Seconds = []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200}

// Histogram returns the options of a histogram with these bounds, and with a
// native one beside them, which needs none, for servers that ask for it.
func Histogram(name, help string, bounds []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: bounds,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
	}
}
