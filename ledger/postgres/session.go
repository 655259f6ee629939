package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// OpenSession implements ledger.Sessions. A session that is open already, as
// after an answer that was lost, stays as it is; one that has ended is
// refused with job.ErrSessionLost.
func (l *Ledger) OpenSession(ctx context.Context, s ledger.Session) error {
	s.State, s.Beat = ledger.SessionLive, 1
	args := coldsql.SessionValues(&s, func(id job.ID) any { return uuidArg(id) })
	return l.inTx(ctx, "open session", func(t *tx) error {
		var state int16
		gone := false
		err := t.run(ctx,
			step{sql: "INSERT INTO errand.session (" + coldsql.SessionColumns + `)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING`, args: args},
			step{sql: "SELECT state FROM errand.session WHERE id = $1", args: args[:1],
				scan: func(r pgx.Rows) error { return r.Scan(&state) }},
			step{sql: "SELECT EXISTS (SELECT FROM errand.session_gone WHERE id = $1)", args: args[:1],
				scan: func(r pgx.Rows) error { return r.Scan(&gone) }})
		if err != nil {
			return err
		}
		if gone || ledger.SessionState(state) != ledger.SessionLive {
			return job.ErrSessionLost
		}
		return t.commit(ctx)
	})
}

// beatPatience bounds how long a Beat waits for another Beat or a MoveSession:
// nothing else locks a session's row against it, but a process may freeze inside one.
const beatPatience = "500ms"

// heldSQL is what sessions hold.
const heldSQL = `SELECT id, session, token, coalesce(call, 0), cancel_requested FROM errand.job_held
	WHERE session = ANY ($1::uuid[])`

// Beat implements ledger.Sessions. A claim is not in its way. Rows are locked in
// the order of the ids; if one of them is not to be had the sessions are
// answered as they are, and the next Beat raises their counters.
func (l *Ledger) Beat(ctx context.Context, now time.Time, ids []job.ID) ([]ledger.Renewed, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	found := map[job.ID]*ledger.Renewed{}
	raise := step{
		sql: `UPDATE errand.session s SET beat = s.beat + 1, beat_at = $2 FROM
				(SELECT id FROM errand.session WHERE id = ANY ($1::uuid[]) AND state IN (1, 2)
				ORDER BY id FOR NO KEY UPDATE) AS held
			WHERE s.id = held.id`,
		args: []any{uuids(ids), now.UnixMicro()},
	}
	err := l.inTx(ctx, "beat", func(t *tx) error {
		clear(found)
		if _, err := t.patiently(ctx, beatPatience, func() error { return t.run(ctx, raise) }); err != nil {
			return err
		}
		return t.commit(ctx, step{
			sql:  "SELECT id, state FROM errand.session WHERE id = ANY ($1::uuid[])",
			args: []any{uuids(ids)},
			scan: func(rows pgx.Rows) error {
				r := rowReader{vals: rows.RawValues()}
				found[r.uuid()] = &ledger.Renewed{State: ledger.SessionState(r.int2())}
				return r.err
			},
		}, step{
			sql:  heldSQL,
			args: []any{uuids(ids)},
			scan: func(rows pgx.Rows) error {
				r := rowReader{vals: rows.RawValues()}
				h := ledger.Lease{ID: r.uuid(), Session: r.uuid(), Token: r.int8(), Call: r.int8(), CancelRequested: r.bool()}
				if s := found[h.Session]; s != nil {
					s.Held = append(s.Held, h)
				}
				return r.err
			},
		})
	})
	if err != nil {
		return nil, err
	}
	out := make([]ledger.Renewed, len(ids))
	for i, id := range ids {
		if s := found[id]; s != nil {
			out[i] = *s
		}
	}
	return out, nil
}

// MoveSession implements ledger.Sessions. It locks the row against claims,
// which hold it for key share: when it returns, no lease under way can commit.
func (l *Ledger) MoveSession(ctx context.Context, now time.Time, id job.ID, from []ledger.SessionState,
	to ledger.SessionState, beat int64,
) (bool, error) {
	moved := false
	if to == ledger.SessionLive {
		return false, nil
	}
	states := make([]int16, len(from))
	for i, s := range from {
		states[i] = int16(s)
	}
	err := l.inTx(ctx, "move session", func(t *tx) error {
		moved = false
		err := t.run(ctx, step{
			sql:  `SELECT id FROM errand.session WHERE id = $1 AND state = ANY ($2::smallint[]) AND ($3::bigint <= 0 OR beat = $3) FOR UPDATE`,
			args: []any{uuidArg(id), states, beat},
			scan: func(pgx.Rows) error {
				moved = true
				return nil
			},
		})
		if err != nil || !moved {
			return err
		}
		return t.commit(ctx, moveSteps(now, id, to)...)
	})
	return moved && err == nil, err
}

func moveSteps(now time.Time, id job.ID, to ledger.SessionState) []step {
	at := now.UnixMicro()
	if to == ledger.SessionAbsent {
		return []step{
			{sql: "DELETE FROM errand.session WHERE id = $1", args: []any{uuidArg(id)}},
			{sql: "INSERT INTO errand.session_gone (id, at) VALUES ($1, $2) ON CONFLICT DO NOTHING", args: []any{uuidArg(id), at}},
		}
	}
	return []step{{
		sql: `UPDATE errand.session SET state = $2,
			ended_at = CASE WHEN $2::smallint IN (3, 4) THEN $3::bigint ELSE ended_at END WHERE id = $1`,
		args: []any{uuidArg(id), int16(to), at},
	}}
}
