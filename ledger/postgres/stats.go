package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// FoldStats implements ledger.Stats. A lock keeps folds apart, of all hours and
// processes: there is one every few seconds.
func (l *Ledger) FoldStats(ctx context.Context, hour ledger.Hour, fn func(ledger.Sums) (ledger.Sums, error)) error {
	return l.inTx(ctx, "fold statistics", func(t *tx) error {
		var stored ledger.Sums
		tallies, faults := l.cold.HourTexts()
		err := t.run(ctx,
			step{sql: "SELECT pg_advisory_xact_lock($1, $2)", args: []any{lockClass, lockStats}},
			step{sql: tallies, args: []any{int64(hour)}, scan: func(r pgx.Rows) error { return coldsql.AddTally(&stored, r.Scan) }},
			step{sql: faults, args: []any{int64(hour)}, scan: func(r pgx.Rows) error { return coldsql.AddFault(&stored, r.Scan) }})
		if err != nil {
			return err
		}
		sums, err := fn(stored)
		if err != nil {
			return err
		}
		texts := l.cold.StatsTexts(sums)
		steps := make([]step, len(texts))
		for i, s := range texts {
			steps[i] = step{sql: s.SQL, args: s.Args}
		}
		return t.commit(ctx, steps...)
	})
}

// ReadStats implements ledger.Stats.
func (l *Ledger) ReadStats(ctx context.Context, from ledger.Hour, queue string, tally func(ledger.Tally) bool, fault func(ledger.Fault) bool) error {
	return l.cold.ReadStats(ctx, from, queue, tally, fault)
}

// removeStats removes the sums of hours that ended before a time.
func (l *Ledger) removeStats(ctx context.Context, before time.Time) (removed int, err error) {
	for _, relation := range []string{"errand.tally", "errand.fault"} {
		n, err := l.inSteps(ctx, "remove statistics", removeStep, `WITH gone AS (
				DELETE FROM `+relation+` WHERE ctid = ANY (ARRAY (
					SELECT ctid FROM `+relation+` WHERE hour < $1 ORDER BY hour LIMIT $2 FOR UPDATE SKIP LOCKED))
				RETURNING 1)
			SELECT count(*) FROM gone`, int64(ledger.HourOf(before)), removeStep)
		removed += n
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}
