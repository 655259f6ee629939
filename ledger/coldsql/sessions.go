package coldsql

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// SessionColumns names the columns of the relation session, in the order of
// SessionValues. Queues and kinds are JSON arrays of strings, or NULL.
const SessionColumns = "id, worker, version, queues, kinds, concurrency, ttl_us, state, beat, opened_at, beat_at, ended_at"

// SessionValues returns the values of a session in the order of SessionColumns.
func SessionValues(s *ledger.Session, id func(job.ID) any) []any {
	return []any{id(s.ID), s.Worker, s.Version, JSON(s.Queues), JSON(s.Kinds), int64(s.Concurrency), s.TTL.Microseconds(),
		int64(s.State), s.Beat, Micros(s.OpenedAt), Micros(s.BeatAt), number(Micros(s.EndedAt))}
}

// ListSessions implements ledger.Sessions.
func (s *Store) ListSessions(ctx context.Context, counted bool) ([]ledger.Session, error) {
	running, join := "0", ""
	if counted {
		running = "coalesce(held.n, 0)"
		join = fmt.Sprintf(`LEFT JOIN (SELECT session AS holder, count(*) AS n FROM %s WHERE state = 3 GROUP BY session) AS held
			ON held.holder = id`, s.live(job.Running))
	}
	text := fmt.Sprintf("SELECT %s, %s FROM %ssession %s ORDER BY opened_at DESC, id DESC", SessionColumns, running, s.Prefix, join)
	var sessions []ledger.Session
	err := s.each(ctx, "list sessions", text, nil, func(rows *sql.Rows) error {
		one, err := scanSession(rows)
		sessions = append(sessions, one)
		return err
	})
	return sessions, err
}

func scanSession(rows *sql.Rows) (ledger.Session, error) {
	var one ledger.Session
	var queues, kinds sql.NullString
	var ttl, openedAt, beatAt int64
	var endedAt sql.NullInt64
	err := rows.Scan(&one.ID, &one.Worker, &one.Version, &queues, &kinds, &one.Concurrency, &ttl,
		&one.State, &one.Beat, &openedAt, &beatAt, &endedAt, &one.Running)
	if err != nil {
		return one, err
	}
	one.TTL = time.Duration(ttl) * time.Microsecond
	one.OpenedAt, one.BeatAt, one.EndedAt = Time(openedAt), Time(beatAt), Time(endedAt.Int64)
	if err := fromJSON(queues, &one.Queues); err != nil {
		return one, fmt.Errorf("session %s: queues: %w", one.ID, err)
	}
	if err := fromJSON(kinds, &one.Kinds); err != nil {
		return one, fmt.Errorf("session %s: kinds: %w", one.ID, err)
	}
	return one, nil
}

// Held implements ledger.Sessions.
func (s *Store) Held(ctx context.Context, sessions []job.ID) ([]ledger.Lease, error) {
	if len(sessions) == 0 {
		return s.held(ctx, nil, "cancel_requested", nil)
	}
	var leases []ledger.Lease
	for len(sessions) > 0 {
		n := min(len(sessions), idsAStatement)
		var q query
		cond := fmt.Sprintf("session IN (%s)", s.ids(&q, sessions[:n]))
		var err error
		if leases, err = s.held(ctx, leases, cond, q.args); err != nil {
			return nil, err
		}
		sessions = sessions[n:]
	}
	return leases, nil
}

func (s *Store) held(ctx context.Context, leases []ledger.Lease, cond string, args []any) ([]ledger.Lease, error) {
	text := fmt.Sprintf("SELECT id, session, token, call, cancel_requested FROM %s WHERE state = 3 AND %s", s.live(job.Running), cond)
	err := s.each(ctx, "read leases", text, args, func(rows *sql.Rows) error {
		var l ledger.Lease
		var call sql.NullInt64
		err := rows.Scan(&l.ID, &l.Session, &l.Token, &call, &l.CancelRequested)
		l.Call = call.Int64
		leases = append(leases, l)
		return err
	})
	return leases, err
}
