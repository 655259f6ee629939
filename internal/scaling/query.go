package scaling

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
)

// The defaults and bounds of a Query.
const (
	DefaultTarget = time.Minute
	DefaultMax    = 100
	DefaultSlots  = 10 // as a worker's

	LeastTarget = time.Second
	MostTarget  = 24 * time.Hour
	MostWorkers = 100_000
	MostSlots   = 100_000
)

// Query asks how many workers a queue needs.
type Query struct {
	Queue  string
	Kinds  []string      // that these workers take; empty: all
	Target time.Duration // within which what is ready is to be begun; DefaultTarget if zero
	Min    int           // workers, at least
	Max    int           // at most; DefaultMax, or Min if that is more, if zero
	Slots  int           // jobs that a worker takes at a time; DefaultSlots if zero
}

// Complete sets defaults and returns what is out of bounds, as an *job.Error.
func (q *Query) Complete() error {
	if q.Target == 0 {
		q.Target = DefaultTarget
	}
	if q.Max == 0 {
		q.Max = max(DefaultMax, q.Min)
	}
	if q.Slots == 0 {
		q.Slots = DefaultSlots
	}
	if err := job.CheckName("queue", q.Queue); err != nil {
		return err
	}
	for _, k := range q.Kinds {
		if err := job.CheckName("kinds", k); err != nil {
			return err
		}
	}
	switch {
	case len(q.Kinds) > job.MaxBatch:
		return bad("kinds has %d names; at most %d are allowed", len(q.Kinds), job.MaxBatch)
	case q.Target < LeastTarget || q.Target > MostTarget:
		return bad("target_wait %s is not between %s and %s", q.Target, LeastTarget, MostTarget)
	case q.Slots < 1 || q.Slots > MostSlots:
		return bad("concurrency %d is not between 1 and %d", q.Slots, MostSlots)
	case q.Min < 0 || q.Min > MostWorkers:
		return bad("min %d is not between 0 and %d", q.Min, MostWorkers)
	case q.Max < 1 || q.Max > MostWorkers:
		return bad("max %d is not between 1 and %d", q.Max, MostWorkers)
	case q.Min > q.Max:
		return bad("min %d is more than max %d", q.Min, q.Max)
	}
	return nil
}

func bad(format string, args ...any) error {
	return job.Errorf(job.InvalidArgument, job.ReasonBadField, format, args...)
}

// fields are the parameters of a query written as text, by name.
var fields = map[string]func(*Query, string) error{
	"queue": func(q *Query, v string) error { q.Queue = v; return nil },
	"kinds": func(q *Query, v string) error {
		for k := range strings.SplitSeq(v, ",") {
			q.Kinds = append(q.Kinds, strings.TrimSpace(k))
		}
		return nil
	},
	"target_wait": func(q *Query, v string) (err error) { q.Target, err = parseDuration(v); return err },
	"min":         func(q *Query, v string) error { return parseNumber("min", v, 0, &q.Min) },
	"max":         func(q *Query, v string) error { return parseNumber("max", v, 1, &q.Max) },
	"concurrency": func(q *Query, v string) error { return parseNumber("concurrency", v, 1, &q.Slots) },
}

// Parse reads a query from parameters: queue, kinds (with commas between),
// target_wait (30s, 5m, or a number of seconds), min, max and concurrency. It refuses
// every other, so that none is misspelt unnoticed, and completes the query.
func Parse(params map[string]string) (Query, error) {
	var q Query
	for _, name := range slices.Sorted(maps.Keys(params)) {
		set, ok := fields[name]
		if !ok {
			return q, bad("unknown parameter %q: known are %s", name, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		}
		if err := set(&q, params[name]); err != nil {
			return q, err
		}
	}
	return q, q.Complete()
}

// parseDuration refuses zero, which would mean the default.
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		seconds, numErr := strconv.ParseFloat(s, 64)
		if numErr != nil || math.IsNaN(seconds) || math.Abs(seconds) > MostTarget.Seconds() {
			return 0, bad("target_wait %q is not a duration such as 30s or 5m, or a number of seconds, up to %s", s, MostTarget)
		}
		d = time.Duration(seconds * float64(time.Second))
	}
	if d < LeastTarget {
		return 0, bad("target_wait %q is less than %s", s, LeastTarget)
	}
	return d, nil
}

func parseNumber(name, s string, least int, to *int) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return bad("%s %q is not a number", name, s)
	}
	if n < least {
		return bad("%s %d is less than %d", name, n, least)
	}
	*to = n
	return nil
}
