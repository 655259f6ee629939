package sqlite

import (
	"context"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// OpenSession implements ledger.Sessions. The id of a session that exists is
// refused with code AlreadyExists.
func (l *Ledger) OpenSession(ctx context.Context, s ledger.Session) error {
	s.State, s.Beat = ledger.SessionLive, 1
	return l.w.do(ctx, "open session", 1, func(t *tx) error {
		n, err := t.exec("INSERT INTO session ("+coldsql.SessionColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
			coldsql.SessionValues(&s, blobID)...)
		if err == nil && n == 0 {
			return job.Errorf(job.AlreadyExists, job.ReasonIDTaken, "session %s exists already", s.ID)
		}
		return err
	})
}

// Beat implements ledger.Sessions.
func (l *Ledger) Beat(ctx context.Context, now time.Time, ids []job.ID) ([]ledger.Renewed, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	var out []ledger.Renewed
	err := l.w.do(ctx, "beat", len(ids), func(t *tx) error {
		out = make([]ledger.Renewed, len(ids))
		for i, id := range ids {
			if _, err := t.exec("UPDATE session SET beat = beat + 1, beat_at = ? WHERE id = ? AND state IN (1, 2)",
				coldsql.Micros(now), blobID(id)); err != nil {
				return err
			}
			var state int64
			if _, err := t.get("SELECT state FROM session WHERE id = ?", []any{blobID(id)}, &state); err != nil {
				return err
			}
			out[i].State = ledger.SessionState(state)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	leases, err := l.Held(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, h := range leases {
		if one := &out[slices.Index(ids, h.Session)]; one.State != ledger.SessionAbsent {
			one.Held = append(one.Held, h)
		}
	}
	return out, nil
}

// MoveSession implements ledger.Sessions.
func (l *Ledger) MoveSession(ctx context.Context, now time.Time, id job.ID, from []ledger.SessionState, to ledger.SessionState, beat int64) (bool, error) {
	if to == ledger.SessionLive {
		return false, nil
	}
	var moved bool
	err := l.w.do(ctx, "move session", 1, func(t *tx) error {
		moved = false
		var state, at int64
		found, err := t.get("SELECT state, beat FROM session WHERE id = ?", []any{blobID(id)}, &state, &at)
		if err != nil || !found || beat > 0 && at != beat {
			return err
		}
		for _, f := range from {
			moved = moved || int64(f) == state
		}
		if !moved {
			return nil
		}
		switch to {
		case ledger.SessionAbsent:
			_, err = t.exec("DELETE FROM session WHERE id = ?", blobID(id))
		case ledger.SessionDead, ledger.SessionDrained:
			_, err = t.exec("UPDATE session SET state = ?, ended_at = ? WHERE id = ?", int64(to), coldsql.Micros(now), blobID(id))
		default:
			_, err = t.exec("UPDATE session SET state = ? WHERE id = ?", int64(to), blobID(id))
		}
		return err
	})
	return moved && err == nil, err
}

// SetPaused implements ledger.Queues.
func (l *Ledger) SetPaused(ctx context.Context, now time.Time, queue string, paused bool) error {
	return l.w.do(ctx, "pause", 1, func(t *tx) error {
		m, was := t.mem, t.mem.paused[queue]
		m.paused[queue] = paused
		t.undo = append(t.undo, func() { m.paused[queue] = was })
		return l.store.SetPaused(ctx, t.conn, now, queue, paused)
	})
}
