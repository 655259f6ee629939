package coldsql

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Paused implements ledger.Queues.
func (s *Store) Paused(ctx context.Context) ([]string, error) {
	var names []string
	text := fmt.Sprintf("SELECT name FROM %squeue WHERE paused ORDER BY name", s.Prefix)
	err := s.each(ctx, "list paused queues", text, nil, func(rows *sql.Rows) error {
		var name string
		err := rows.Scan(&name)
		names = append(names, name)
		return err
	})
	return names, err
}

// SetPaused stores the setting by x, within whatever transaction x is. Its
// error is the driver's own.
func (s *Store) SetPaused(ctx context.Context, x Execer, now time.Time, queue string, paused bool) error {
	_, err := x.ExecContext(ctx, fmt.Sprintf(`INSERT INTO %squeue (name, paused, changed_at) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET paused = excluded.paused, changed_at = excluded.changed_at`, s.Prefix),
		queue, paused, Micros(now))
	return err
}

// Counts implements ledger.Queues.
func (s *Store) Counts(ctx context.Context) ([]ledger.Count, error) {
	var counts []ledger.Count
	text := fmt.Sprintf(`SELECT queue, kind, state, CAST(sum(n) AS bigint) FROM %scounter
		GROUP BY queue, kind, state HAVING sum(n) <> 0 ORDER BY queue, kind, state`, s.Prefix)
	err := s.each(ctx, "read counters", text, nil, func(rows *sql.Rows) error {
		var c ledger.Count
		err := rows.Scan(&c.Queue, &c.Kind, &c.State, &c.N)
		counts = append(counts, c)
		return err
	})
	return counts, err
}

// OldestReady implements ledger.Queues: one probe of the ready index for each
// lane of each kind that the counters know to have ready jobs.
func (s *Store) OldestReady(ctx context.Context) ([]ledger.Oldest, error) {
	lanes := ""
	for lane := job.LaneSuspect; lane <= job.LaneLast; lane++ {
		if lanes != "" {
			lanes += ", "
		}
		lanes += fmt.Sprintf("(%d)", lane)
	}
	text := fmt.Sprintf(`WITH lanes(lane) AS (VALUES %[2]s),
		kinds AS (SELECT queue, kind FROM %[1]scounter WHERE state = 2 GROUP BY queue, kind HAVING sum(n) > 0),
		heads AS (SELECT k.queue, k.kind, (SELECT j.run_at FROM %[3]s j
			WHERE j.queue = k.queue AND j.kind = k.kind AND j.state = 2 AND j.lane = l.lane
			ORDER BY j.seq LIMIT 1) AS run_at
			FROM kinds k CROSS JOIN lanes l)
		SELECT queue, kind, min(run_at) FROM heads WHERE run_at IS NOT NULL
		GROUP BY queue, kind ORDER BY queue, kind`, s.Prefix, lanes, s.live(job.Ready))
	var oldest []ledger.Oldest
	err := s.each(ctx, "read the oldest ready jobs", text, nil, func(rows *sql.Rows) error {
		var o ledger.Oldest
		var since int64
		err := rows.Scan(&o.Queue, &o.Kind, &since)
		o.Since = Time(since)
		oldest = append(oldest, o)
		return err
	})
	return oldest, err
}

// OldestDead returns when the oldest dead letter died, zero if there is none:
// one probe of the index.
func (s *Store) OldestDead(ctx context.Context) (time.Time, error) {
	var at time.Time
	text := fmt.Sprintf("SELECT coalesce(min(done_at), 0) FROM %sdead", s.Prefix)
	err := s.each(ctx, "find the oldest dead letter", text, nil, func(rows *sql.Rows) error {
		var us int64
		err := rows.Scan(&us)
		at = Time(us)
		return err
	})
	return at, err
}
