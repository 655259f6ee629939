package sqlite

import (
	"context"
	"database/sql/driver"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// Rows that a step of Upkeep removes in one transaction, and how many such
// transactions one call makes of a kind: what is left waits for the next call.
const (
	upkeepRows   = 1000
	upkeepRounds = 50
)

// sessionMemory is how long an ended session is shown.
const sessionMemory = time.Hour

// Upkeep implements ledger.Ledger. Counters are written whole with each
// transaction: there are no deltas to fold.
func (l *Ledger) Upkeep(ctx context.Context, now time.Time, keep ledger.Keep) (u ledger.Upkept, err error) {
	if u.SlicesMade, err = l.makeSlices(ctx, now, keep); err != nil {
		return u, err
	}
	if u.SlicesDropped, err = l.dropSlices(ctx, coldsql.Micros(now.Add(-keep.Archive))); err != nil {
		return u, err
	}
	if keep.Dead > 0 {
		if u.DeadRemoved, err = l.rounds(ctx, func(t *tx) (int64, error) { return t.removeDead(now.Add(-keep.Dead)) }); err != nil {
			return u, err
		}
	}
	if keep.Stats > 0 {
		if u.StatsRemoved, err = l.removeStats(ctx, now.Add(-keep.Stats)); err != nil {
			return u, err
		}
	}
	for _, old := range []struct {
		text  string
		until time.Time
		n     *int
	}{
		{`DELETE FROM idempotency_key WHERE (caller, key) IN
			(SELECT caller, key FROM idempotency_key WHERE used_at < ? ORDER BY used_at LIMIT ?)`, now.Add(-keep.Idempotency), &u.KeysRemoved},
		{`DELETE FROM unique_key WHERE (scope, key) IN
			(SELECT scope, key FROM unique_key WHERE until <= ? ORDER BY until LIMIT ?)`, now, &u.KeysRemoved},
		{`DELETE FROM session WHERE id IN (SELECT id FROM session s WHERE s.ended_at < ?
			AND NOT EXISTS (SELECT 1 FROM job_row WHERE state = 3 AND session = s.id)
			AND NOT EXISTS (SELECT 1 FROM lease_block WHERE session = s.id) LIMIT ?)`, now.Add(-sessionMemory), &u.SessionsGone},
	} {
		n, err := l.rounds(ctx, func(t *tx) (int64, error) {
			return t.exec(old.text, coldsql.Micros(old.until), int64(upkeepRows))
		})
		*old.n += n
		if err != nil {
			return u, err
		}
	}
	return u, nil
}

// rounds repeats fn, a transaction each, until it has nothing more to do.
func (l *Ledger) rounds(ctx context.Context, fn func(*tx) (int64, error)) (total int, err error) {
	for range upkeepRounds {
		var n int64
		err := l.w.do(ctx, "upkeep", upkeepRows, func(t *tx) (err error) {
			n, err = fn(t)
			return err
		})
		if err != nil {
			return total, err
		}
		total += int(n)
		if n < upkeepRows {
			break
		}
	}
	return total, nil
}

// makeSlices makes the slice of now and of a span ahead, so that no settle has
// to, and sets the span of new slices by the retention.
func (l *Ledger) makeSlices(ctx context.Context, now time.Time, keep ledger.Keep) (made int, err error) {
	err = l.w.do(ctx, "upkeep", 1, func(t *tx) error {
		m := t.mem
		m.forgetMarks()
		before := len(m.slices)
		if span := max(keep.Archive/archiveParts, minSpan).Truncate(time.Second).Microseconds(); span != m.span {
			was := m.span
			m.span = span
			t.undo = append(t.undo, func() { m.span = was })
			if err := t.setting("slice_us", span); err != nil {
				return err
			}
		}
		for _, at := range []time.Time{now, now.Add(time.Duration(m.span) * time.Microsecond)} {
			if _, err := t.sliceFor(at); err != nil {
				return err
			}
		}
		made = len(m.slices) - before
		return nil
	})
	return made, err
}

// dropSlices drops the slices that end before a time, each in its own
// transaction.
func (l *Ledger) dropSlices(ctx context.Context, until int64) (dropped int, err error) {
	for {
		found := false
		err := l.w.do(ctx, "upkeep", upkeepRows, func(t *tx) error {
			found = false
			for _, s := range t.mem.slices {
				if s.to <= until {
					found = true
					return t.dropSlice(s)
				}
			}
			return nil
		})
		if err != nil || !found {
			return dropped, err
		}
		dropped++
	}
}

// removeDead removes dead letters that died before a time.
func (t *tx) removeDead(before time.Time) (n int64, err error) {
	err = t.query(`DELETE FROM dead WHERE rid IN (SELECT rid FROM dead WHERE done_at < ? ORDER BY done_at LIMIT ?)
		RETURNING queue, kind`, []any{coldsql.Micros(before), int64(upkeepRows)}, func(row []driver.Value) error {
		k := counterKey{state: job.Dead}
		err := assign(row, []any{&k.queue, &k.kind})
		t.countKey(k, -1)
		n++
		return err
	})
	return n, err
}
