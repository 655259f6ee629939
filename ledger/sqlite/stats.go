package sqlite

import (
	"context"
	"database/sql/driver"
	"time"

	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// FoldStats implements ledger.Stats. The one writer keeps folds apart.
func (l *Ledger) FoldStats(ctx context.Context, hour ledger.Hour, fn func(ledger.Sums) (ledger.Sums, error)) error {
	return l.w.do(ctx, "fold statistics", upkeepRows, func(t *tx) error {
		var stored ledger.Sums
		tallies, faults := l.store.HourTexts()
		for _, part := range []struct {
			text string
			add  func(*ledger.Sums, coldsql.Scan) error
		}{{tallies, coldsql.AddTally}, {faults, coldsql.AddFault}} {
			err := t.query(part.text, []any{int64(hour)}, func(row []driver.Value) error {
				return part.add(&stored, func(dest ...any) error { return assign(row, dest) })
			})
			if err != nil {
				return err
			}
		}
		sums, err := fn(stored)
		if err != nil {
			return err
		}
		for _, s := range l.store.StatsTexts(sums) {
			if _, err := t.exec(s.SQL, s.Args...); err != nil {
				return err
			}
		}
		return nil
	})
}

// ReadStats implements ledger.Stats.
func (l *Ledger) ReadStats(ctx context.Context, from ledger.Hour, queue string, tally func(ledger.Tally) bool, fault func(ledger.Fault) bool) error {
	return l.store.ReadStats(ctx, from, queue, tally, fault)
}

// removeStats removes the sums of hours that ended before a time.
func (l *Ledger) removeStats(ctx context.Context, before time.Time) (removed int, err error) {
	for _, text := range []string{
		`DELETE FROM tally WHERE (hour, queue, kind, outcome) IN
			(SELECT hour, queue, kind, outcome FROM tally WHERE hour < ? ORDER BY hour LIMIT ?)`,
		`DELETE FROM fault WHERE (hour, queue, kind, message) IN
			(SELECT hour, queue, kind, message FROM fault WHERE hour < ? ORDER BY hour LIMIT ?)`,
	} {
		n, err := l.rounds(ctx, func(t *tx) (int64, error) {
			return t.exec(text, int64(ledger.HourOf(before)), int64(upkeepRows))
		})
		removed += n
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}
