package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/errandhq/errand/internal/meter"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// operationSeconds are the bounds of the ledger's times.
var operationSeconds = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15}

func newLedgerTimes() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(meter.Histogram("errand_ledger_operation_seconds",
		"How long calls of the ledger take, batches as a whole, by operation and outcome: ok or error.", operationSeconds),
		[]string{"operation", "outcome"})
}

// Time returns a ledger that measures what the hot path and the keeper ask of
// l, and is l in everything else. Whoever wants of l more than ledger.Ledger asks l itself.
func (m *Metrics) Time(l ledger.Ledger) ledger.Ledger {
	t := &timed{Ledger: l}
	for op := range t.ops {
		for k, outcome := range []string{"ok", "error"} {
			t.ops[op][k] = m.ledger.WithLabelValues(operations[op], outcome)
		}
	}
	return t
}

// The operations that are told apart.
const (
	opInsert = iota
	opClaim
	opSucceed
	opApply
	opBeat
	opSessions
	opCounts
	opRead
	opClock
	opUpkeep
	opHeads
	opPulse
	opFoldStats
	opReadStats
)

var operations = [...]string{"insert", "claim", "succeed", "apply", "beat", "sessions", "counts", "read", "clock", "upkeep", "heads", "pulse", "fold_stats", "read_stats"}

// timed is a ledger under a watch.
type timed struct {
	ledger.Ledger
	ops [len(operations)][2]prometheus.Observer // ok, error
}

// watch measures one call.
func watch[T any](t *timed, op int, do func() (T, error)) (T, error) {
	start := time.Now()
	v, err := do()
	outcome := 0
	if err != nil {
		outcome = 1
	}
	t.ops[op][outcome].Observe(time.Since(start).Seconds())
	return v, err
}

// Insert implements ledger.Jobs.
func (t *timed) Insert(ctx context.Context, now time.Time, items []ledger.Item) ([]ledger.Inserted, error) {
	return watch(t, opInsert, func() ([]ledger.Inserted, error) { return t.Ledger.Insert(ctx, now, items) })
}

// Claim implements ledger.Jobs.
func (t *timed) Claim(ctx context.Context, now time.Time, reqs []ledger.Claim) ([]ledger.Claimed, error) {
	return watch(t, opClaim, func() ([]ledger.Claimed, error) { return t.Ledger.Claim(ctx, now, reqs) })
}

// Succeed implements ledger.Jobs.
func (t *timed) Succeed(ctx context.Context, now time.Time, items []ledger.Success) ([]ledger.Succeeded, error) {
	return watch(t, opSucceed, func() ([]ledger.Succeeded, error) { return t.Ledger.Succeed(ctx, now, items) })
}

// Apply implements ledger.Jobs.
func (t *timed) Apply(ctx context.Context, now time.Time, pick ledger.Pick, fn func(*job.Job) error) ([]ledger.Applied, error) {
	return watch(t, opApply, func() ([]ledger.Applied, error) { return t.Ledger.Apply(ctx, now, pick, fn) })
}

// Beat implements ledger.Sessions.
func (t *timed) Beat(ctx context.Context, now time.Time, ids []job.ID) ([]ledger.Renewed, error) {
	return watch(t, opBeat, func() ([]ledger.Renewed, error) { return t.Ledger.Beat(ctx, now, ids) })
}

// ListSessions implements ledger.Sessions.
func (t *timed) ListSessions(ctx context.Context, counted bool) ([]ledger.Session, error) {
	return watch(t, opSessions, func() ([]ledger.Session, error) { return t.Ledger.ListSessions(ctx, counted) })
}

// Counts implements ledger.Queues.
func (t *timed) Counts(ctx context.Context) ([]ledger.Count, error) {
	return watch(t, opCounts, func() ([]ledger.Count, error) { return t.Ledger.Counts(ctx) })
}

// Get implements ledger.Reader.
func (t *timed) Get(ctx context.Context, ids []job.ID) ([]job.Job, error) {
	return watch(t, opRead, func() ([]job.Job, error) { return t.Ledger.Get(ctx, ids) })
}

// List implements ledger.Reader.
func (t *timed) List(ctx context.Context, q ledger.Query) ([]job.Job, error) {
	return watch(t, opRead, func() ([]job.Job, error) { return t.Ledger.List(ctx, q) })
}

// Heads implements ledger.Carried.
func (t *timed) Heads(ctx context.Context, now time.Time, reqs []ledger.Head) ([]ledger.Headed, error) {
	return watch(t, opHeads, func() ([]ledger.Headed, error) { return t.Ledger.Heads(ctx, now, reqs) })
}

// Pulse implements ledger.Ledger.
func (t *timed) Pulse(ctx context.Context, now time.Time, ask ledger.Ask) (ledger.Pulse, error) {
	return watch(t, opPulse, func() (ledger.Pulse, error) { return t.Ledger.Pulse(ctx, now, ask) })
}

// FoldStats implements ledger.Stats.
func (t *timed) FoldStats(ctx context.Context, hour ledger.Hour, fn func(ledger.Sums) (ledger.Sums, error)) error {
	_, err := watch(t, opFoldStats, func() (struct{}, error) { return struct{}{}, t.Ledger.FoldStats(ctx, hour, fn) })
	return err
}

// ReadStats implements ledger.Stats. What is made of the rows is part of the time.
func (t *timed) ReadStats(ctx context.Context, from ledger.Hour, queue string, tally func(ledger.Tally) bool, fault func(ledger.Fault) bool) error {
	_, err := watch(t, opReadStats, func() (struct{}, error) {
		return struct{}{}, t.Ledger.ReadStats(ctx, from, queue, tally, fault)
	})
	return err
}

// Now implements ledger.Ledger.
func (t *timed) Now(ctx context.Context) (time.Time, error) {
	return watch(t, opClock, func() (time.Time, error) { return t.Ledger.Now(ctx) })
}

// Upkeep implements ledger.Ledger.
func (t *timed) Upkeep(ctx context.Context, now time.Time, keep ledger.Keep) (ledger.Upkept, error) {
	return watch(t, opUpkeep, func() (ledger.Upkept, error) { return t.Ledger.Upkeep(ctx, now, keep) })
}
