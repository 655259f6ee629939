package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/ledger"
)

// SetPaused implements ledger.Queues. Claims hold the lock shared, so it waits
// for those that may not have seen the setting, and those behind it will.
func (l *Ledger) SetPaused(ctx context.Context, now time.Time, queue string, paused bool) error {
	return l.inTx(ctx, "set paused", func(t *tx) error {
		return t.commit(ctx,
			step{sql: "SELECT pg_advisory_xact_lock($1, $2)", args: []any{lockClass, lockPausing}},
			step{
				sql: `INSERT INTO errand.queue (name, paused, changed_at) VALUES ($1, $2, $3)
					ON CONFLICT (name) DO UPDATE SET paused = excluded.paused, changed_at = excluded.changed_at`,
				args: []any{queue, paused, now.UnixMicro()},
			})
	})
}

// The steps of Upkeep, which are bounded so that none holds anything for long.
const (
	foldStep    = 10_000
	removeStep  = 1_000
	upkeepSteps = 20 // of each kind, a call
	sessionKept = time.Hour
)

// Upkeep implements ledger.Ledger.
func (l *Ledger) Upkeep(ctx context.Context, now time.Time, keep ledger.Keep) (ledger.Upkept, error) {
	var u ledger.Upkept
	var err error
	if u.SlicesMade, err = l.makeSlices(ctx, now); err != nil {
		return u, err
	}
	if keep.Archive > 0 {
		if u.SlicesDropped, err = l.dropSlices(ctx, now.Add(-keep.Archive)); err != nil {
			return u, err
		}
	}
	if u.Folded, err = l.fold(ctx); err != nil {
		return u, err
	}
	if err := l.removeBlocks(ctx, now); err != nil {
		return u, err
	}
	if keep.Dead > 0 {
		if u.DeadRemoved, err = l.removeDead(ctx, now.Add(-keep.Dead)); err != nil {
			return u, err
		}
	}
	if keep.Stats > 0 {
		if u.StatsRemoved, err = l.removeStats(ctx, now.Add(-keep.Stats)); err != nil {
			return u, err
		}
	}
	if u.KeysRemoved, err = l.removeKeys(ctx, now, keep); err != nil {
		return u, err
	}
	u.SessionsGone, err = l.removeSessions(ctx, now.Add(-sessionKept))
	return u, err
}

// foldSQL moves deltas into the totals: one keeper at a time, and nobody waits.
const foldSQL = `WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($1, $2) AS ok),
	gone AS (
		DELETE FROM errand.counter_delta WHERE ctid = ANY (ARRAY (
			SELECT d.ctid FROM errand.counter_delta d WHERE (SELECT ok FROM mine) LIMIT $3 FOR UPDATE SKIP LOCKED))
		RETURNING *),
	folded AS (
		INSERT INTO errand.counter_total AS t (queue, kind, state, slice, n)
		SELECT queue, kind, state, slice, sum(n) FROM gone GROUP BY 1, 2, 3, 4
		ON CONFLICT (queue, kind, state, slice) DO UPDATE SET n = t.n + excluded.n)
	SELECT count(*) FROM gone`

func (l *Ledger) fold(ctx context.Context) (int, error) {
	return l.inSteps(ctx, "fold counters", foldStep, foldSQL, lockClass, lockFolding, foldStep)
}

// inSteps runs a statement that answers how many rows it handled until it is
// done: each time in a transaction of its own, and not forever.
func (l *Ledger) inSteps(ctx context.Context, op string, full int, text string, args ...any) (total int, err error) {
	for range upkeepSteps {
		var n int
		err := l.inTx(ctx, op, func(t *tx) error {
			return t.commit(ctx, step{sql: text, args: args, scan: func(r pgx.Rows) error { return r.Scan(&n) }})
		})
		if err != nil {
			return total, err
		}
		total += n
		if n < full {
			break
		}
	}
	return total, nil
}

func (l *Ledger) removeDead(ctx context.Context, limit time.Time) (int, error) {
	return l.inSteps(ctx, "remove dead letters", removeStep, `WITH gone AS (
			DELETE FROM errand.dead WHERE ctid = ANY (ARRAY (
				SELECT ctid FROM errand.dead WHERE done_at < $1 ORDER BY done_at LIMIT $2 FOR UPDATE SKIP LOCKED))
			RETURNING queue, kind),
		counted AS (
			INSERT INTO errand.counter_delta (queue, kind, state, slice, n)
			SELECT queue, kind, 5, 0, -count(*) FROM gone GROUP BY 1, 2)
		SELECT count(*) FROM gone`, limit.UnixMicro(), removeStep)
}

func (l *Ledger) removeKeys(ctx context.Context, now time.Time, keep ledger.Keep) (int, error) {
	n, err := l.inSteps(ctx, "remove unique windows", removeStep, `WITH gone AS (
			DELETE FROM errand.unique_key WHERE ctid = ANY (ARRAY (
				SELECT ctid FROM errand.unique_key WHERE until <= $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED))
			RETURNING 1)
		SELECT count(*) FROM gone`, now.UnixMicro(), removeStep)
	if err != nil || keep.Idempotency <= 0 {
		return n, err
	}
	m, err := l.inSteps(ctx, "remove idempotency keys", removeStep, `WITH gone AS (
			DELETE FROM errand.idempotency WHERE ctid = ANY (ARRAY (
				SELECT ctid FROM errand.idempotency WHERE at <= $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED))
			RETURNING 1)
		SELECT count(*) FROM gone`, now.Add(-keep.Idempotency).UnixMicro(), removeStep)
	return n + m, err
}

// removeSessions forgets sessions that ended before limit and hold nothing.
func (l *Ledger) removeSessions(ctx context.Context, limit time.Time) (int, error) {
	n, err := l.inSteps(ctx, "remove sessions", removeStep, `WITH gone AS (
			DELETE FROM errand.session WHERE ctid = ANY (ARRAY (
				SELECT s.ctid FROM errand.session s WHERE s.state IN (3, 4) AND s.ended_at < $1
				AND NOT EXISTS (SELECT FROM errand.job_row j WHERE j.session = s.id AND j.state = 3)
				AND NOT EXISTS (SELECT FROM errand.lease_block b WHERE b.session = s.id)
				LIMIT $2 FOR UPDATE SKIP LOCKED))
			RETURNING 1)
		SELECT count(*) FROM gone`, limit.UnixMicro(), removeStep)
	if err != nil {
		return n, err
	}
	_, err = l.inSteps(ctx, "forget sessions", removeStep, `WITH gone AS (
			DELETE FROM errand.session_gone WHERE ctid = ANY (ARRAY (
				SELECT s.ctid FROM errand.session_gone s WHERE s.at < $1
				AND NOT EXISTS (SELECT FROM errand.job_row j WHERE j.session = s.id AND j.state = 3)
				AND NOT EXISTS (SELECT FROM errand.lease_block b WHERE b.session = s.id)
				LIMIT $2 FOR UPDATE SKIP LOCKED))
			RETURNING 1)
		SELECT count(*) FROM gone`, limit.UnixMicro(), removeStep)
	return n, err
}
