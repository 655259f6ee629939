package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// OpenSession implements ledger.Sessions. Opening a live session again is no
// error; an ended one never comes back.
func (l *Ledger) OpenSession(ctx context.Context, s ledger.Session) error {
	s.State, s.Beat = ledger.SessionLive, 1
	return l.w.do(ctx, "open session", func(t *tx) error {
		var state int64
		found, err := t.c.get("SELECT state FROM session WHERE id = ?", []any{s.ID[:]}, &state)
		switch {
		case err != nil:
			return err
		case found && ledger.SessionState(state) == ledger.SessionLive:
			return nil
		case found:
			return job.ErrSessionLost
		}
		_, err = t.c.exec("INSERT INTO session ("+coldsql.SessionColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
			coldsql.SessionValues(&s, blobID)...)
		return err
	})
}

// Beat implements ledger.Sessions.
func (l *Ledger) Beat(ctx context.Context, now time.Time, ids []job.ID) ([]ledger.SessionState, error) {
	var states []ledger.SessionState
	err := l.w.do(ctx, "renew sessions", func(t *tx) error {
		states = make([]ledger.SessionState, len(ids))
		for i, id := range ids {
			var state int64
			if _, err := t.c.exec("UPDATE session SET beat = beat + 1, beat_at = ? WHERE id = ? AND state IN (1, 2)",
				coldsql.Micros(now), id[:]); err != nil {
				return err
			}
			if _, err := t.c.get("SELECT state FROM session WHERE id = ?", []any{id[:]}, &state); err != nil {
				return err
			}
			states[i] = ledger.SessionState(state)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return states, nil
}

// MoveSession implements ledger.Sessions.
func (l *Ledger) MoveSession(ctx context.Context, now time.Time, id job.ID, from []ledger.SessionState, to ledger.SessionState, beat int64) (bool, error) {
	if to == ledger.SessionLive || len(from) == 0 {
		return false, nil
	}
	in := ""
	for _, s := range from {
		in += fmt.Sprintf(", %d", s)
	}
	cond := " WHERE id = ? AND state IN (" + in[2:] + ") AND (? = 0 OR beat = ?)"
	var n int64
	err := l.w.do(ctx, "move a session", func(t *tx) (err error) {
		if to == ledger.SessionAbsent {
			n, err = t.c.exec("DELETE FROM session"+cond, id[:], max(beat, 0), beat)
			return err
		}
		var ended any
		if to != ledger.SessionDraining {
			ended = coldsql.Micros(now)
		}
		n, err = t.c.exec("UPDATE session SET state = ?, ended_at = ?"+cond, int64(to), ended, id[:], max(beat, 0), beat)
		return err
	})
	return n > 0 && err == nil, err
}

// SetPaused implements ledger.Queues.
func (l *Ledger) SetPaused(ctx context.Context, now time.Time, queue string, paused bool) error {
	return l.w.do(ctx, "pause a queue", func(t *tx) error {
		_, err := t.c.exec(`INSERT INTO queue (name, paused, changed_at) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET paused = excluded.paused, changed_at = excluded.changed_at`,
			queue, paused, coldsql.Micros(now))
		return err
	})
}

// sessionKept is how long an ended session is remembered.
const sessionKept = time.Hour

// removeStep bounds the rows that one transaction of Upkeep removes.
const removeStep = 1000

// Upkeep implements ledger.Ledger. Counters need no folding here.
func (l *Ledger) Upkeep(ctx context.Context, now time.Time, keep ledger.Keep) (ledger.Upkept, error) {
	var u ledger.Upkept
	err := l.w.do(ctx, "upkeep", func(t *tx) error {
		u = ledger.Upkept{}
		if n := sliceOf(now.Add(sliceSpan)); !t.w.slices[n] {
			u.SlicesMade++
			if err := t.w.ensureSlice(n); err != nil {
				return err
			}
		}
		if keep.Archive > 0 {
			limit := coldsql.Micros(now.Add(-keep.Archive))
			for n := range t.w.slices {
				if (n+1)*sliceSpan.Microseconds() <= limit {
					u.SlicesDropped++
					if err := t.w.dropSlice(n); err != nil {
						return err
					}
				}
			}
		}
		return t.removeOld(now, keep, &u)
	})
	return u, err
}

func (t *tx) removeOld(now time.Time, keep ledger.Keep, u *ledger.Upkept) error {
	if keep.Dead > 0 {
		gone, err := t.jobs(fmt.Sprintf(`DELETE FROM dead WHERE rid IN (SELECT rid FROM dead WHERE done_at < ? ORDER BY done_at LIMIT %d)
			RETURNING %s`, removeStep, coldsql.ColumnList), coldsql.Micros(now.Add(-keep.Dead)))
		if err != nil {
			return err
		}
		for i := range gone {
			t.count(&gone[i], -1)
		}
		u.DeadRemoved = len(gone)
	}
	n, err := t.c.exec(fmt.Sprintf(`DELETE FROM unique_key WHERE (scope, key) IN
		(SELECT scope, key FROM unique_key WHERE until <= ? LIMIT %d)`, removeStep), coldsql.Micros(now))
	if err != nil {
		return err
	}
	u.KeysRemoved = int(n)
	if keep.Idempotency > 0 {
		n, err := t.c.exec(fmt.Sprintf(`DELETE FROM idempotency_key WHERE (caller, key) IN
			(SELECT caller, key FROM idempotency_key WHERE used_at <= ? LIMIT %d)`, removeStep), coldsql.Micros(now.Add(-keep.Idempotency)))
		if err != nil {
			return err
		}
		u.KeysRemoved += int(n)
	}
	n, err = t.c.exec(`DELETE FROM session WHERE state IN (3, 4) AND ended_at < ?
		AND NOT EXISTS (SELECT 1 FROM job WHERE job.session = session.id AND job.state = 3)`, coldsql.Micros(now.Add(-sessionKept)))
	u.SessionsGone = int(n)
	return err
}

// fenceStep is far more leases than a job has had.
const fenceStep = int64(1) << 32

// Fence raises all tokens, after the file was put back to an earlier point:
// what workers hold from before is then stale. It returns how many jobs it raised.
func (l *Ledger) Fence(ctx context.Context) (int64, error) {
	var total int64
	err := l.w.do(ctx, "fence", func(t *tx) error {
		total = 0
		tables := []string{live, dead}
		err := t.c.query("SELECT n FROM archive_slice", nil, func(row []driver.Value) error {
			var n int64
			err := assign(row, []any{&n})
			tables = append(tables, sliceName(n))
			return err
		})
		if err != nil {
			return err
		}
		for _, table := range tables {
			n, err := t.c.exec("UPDATE "+table+" SET token = token + ?, version = version + 1", fenceStep)
			if err != nil {
				return err
			}
			total += n
		}
		return nil
	})
	return total, err
}
