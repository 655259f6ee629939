package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a scenario measured.
type Result struct {
	Name          string  `json:"name"`
	Jobs          int64   `json:"jobs"` // that the seconds were spent on
	Seconds       float64 `json:"seconds"`
	JobsPerSecond float64 `json:"jobs_per_second"`

	// What this process's processors spent on a job, in microseconds: less than
	// the rate suffers, it suffers from what else the machine does. Zero where it is not known.
	CPU float64 `json:"cpu_us_per_job"`

	// Latency in milliseconds: of the call in bulk and single, from the start of
	// the call to the start of the handler in the others; nil where it would say
	// no more than the rate does.
	P50  *float64 `json:"p50_ms"`
	P90  *float64 `json:"p90_ms"`
	P99  *float64 `json:"p99_ms"`
	P999 *float64 `json:"p999_ms"`
	Max  *float64 `json:"max_ms"`

	// Of the scenarios that run for a time: jobs a second in each window of it.
	WindowSeconds float64   `json:"window_seconds,omitempty"`
	Windows       []float64 `json:"windows,omitempty"`

	// Of backlog: the rate with a tenth of it, and jobs_per_second against it.
	Alone float64 `json:"alone_jobs_per_second,omitempty"`
	Ratio float64 `json:"ratio,omitempty"`

	Interrupted bool `json:"interrupted,omitempty"` // did not come to its end
}

// clock is when a measured piece of work began.
type clock struct {
	at  time.Time
	cpu time.Duration
}

// start starts the clock.
func (l *load) start() clock {
	if l.measuring != nil {
		l.measuring(true)
	}
	return clock{at: time.Now(), cpu: cpuTime()}
}

// took stops the clock and sets a result's rate.
func (l *load) took(r *Result, jobs int64, c clock) {
	d, cpu := time.Since(c.at), cpuTime()-c.cpu
	if l.measuring != nil {
		l.measuring(false)
	}
	r.Jobs, r.Seconds = jobs, d.Seconds()
	if jobs > 0 && d > 0 {
		r.JobsPerSecond = float64(jobs) / d.Seconds()
		r.CPU = float64(cpu.Microseconds()) / float64(jobs)
	}
}

// latencies is a histogram that many goroutines write to.
type latencies struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

// newLatencies keeps three digits of all between a microsecond and an hour.
func newLatencies() *latencies {
	return &latencies{h: hdrhistogram.New(1, time.Hour.Microseconds(), 3)}
}

func (l *latencies) record(d time.Duration) {
	v := min(max(d.Microseconds(), 1), time.Hour.Microseconds())
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.h.RecordValue(v) // within the histogram's range, so there is no error
}

// into sets a result's percentiles, if anything was recorded.
func (l *latencies) into(r *Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.h.TotalCount() == 0 {
		return
	}
	ms := func(micros int64) *float64 { v := float64(micros) / 1000; return &v }
	r.P50, r.P90 = ms(l.h.ValueAtQuantile(50)), ms(l.h.ValueAtQuantile(90))
	r.P99, r.P999 = ms(l.h.ValueAtQuantile(99)), ms(l.h.ValueAtQuantile(99.9))
	r.Max = ms(l.h.Max())
}
