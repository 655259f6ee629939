package coldsql

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/errandhq/errand/job"
)

// Routes implements ledger.Queues.
func (s *Store) Routes(ctx context.Context) (map[string]string, error) {
	routes := map[string]string{}
	text := fmt.Sprintf("SELECT name, route FROM %squeue WHERE route IS NOT NULL", s.Prefix)
	err := s.each(ctx, "list routes", text, nil, func(rows *sql.Rows) error {
		var name, route string
		err := rows.Scan(&name, &route)
		routes[name] = route
		return err
	})
	if err != nil {
		return nil, err
	}
	return routes, nil
}

// RouteText returns the statement that stores a queue's route, with its
// arguments. A row that is made for it is not paused.
func (s *Store) RouteText(now time.Time, queue, route string) (string, []any) {
	if route == "" {
		return fmt.Sprintf("UPDATE %squeue SET route = NULL, changed_at = $1 WHERE name = $2 AND route IS NOT NULL", s.Prefix),
			[]any{Micros(now), queue}
	}
	return fmt.Sprintf(`INSERT INTO %squeue (name, paused, route, changed_at) VALUES ($1, false, $2, $3)
		ON CONFLICT (name) DO UPDATE SET route = excluded.route, changed_at = excluded.changed_at`, s.Prefix),
		[]any{queue, route, Micros(now)}
}

// Get runs a statement within a transaction, scans the row that it returns
// into dest, and reports whether there was one.
type Get func(text string, args []any, dest ...any) (bool, error)

// HoldRelay is ledger.Carried's, within the transaction of get. Its error is
// the driver's own.
func (s *Store) HoldRelay(get Get, now time.Time, holder job.ID, ttl time.Duration) (leads bool, epoch int64, err error) {
	text := `UPDATE %srelay SET epoch = epoch + CASE WHEN holder = $1 THEN 0 ELSE 1 END, holder = $1, until_us = $2
		WHERE holder = $1 OR holder IS NULL OR until_us <= $3 RETURNING epoch`
	args := []any{s.ID(holder), Micros(now.Add(ttl)), Micros(now)}
	if ttl <= 0 {
		text, args = "UPDATE %srelay SET holder = NULL WHERE holder = $1 RETURNING epoch", args[:1]
	}
	changed, err := get(fmt.Sprintf(text, s.Prefix), args, &epoch)
	if err != nil || changed {
		return changed && ttl > 0, epoch, err
	}
	_, err = get(fmt.Sprintf("SELECT epoch FROM %srelay", s.Prefix), nil, &epoch)
	return false, epoch, err
}

// Identity implements ledger.Carried.
func (s *Store) Identity(ctx context.Context) (string, error) {
	var name string
	text := fmt.Sprintf("SELECT name FROM %sidentity", s.Prefix)
	err := s.each(ctx, "read the ledger's identity", text, nil, func(rows *sql.Rows) error { return rows.Scan(&name) })
	return name, err
}
