package postgres

import (
	"context"
	"database/sql"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// newCold sets the statements that both ledgers share.
func newCold(db *sql.DB) coldsql.Store {
	return coldsql.Store{DB: db, Dialect: coldsql.Dialect{
		Prefix: "errand.",
		ID:     func(id job.ID) any { return id.String() },
		Live: func(state job.State) string {
			if state == job.Running {
				return "job_held"
			}
			return "job_idle"
		},
		HasTag:        "tags::jsonb @> jsonb_build_array(%s::text)",
		NewestFailure: "(errors::json -> -1)::text",
		Wrap:          wrap,
	}}
}

// Get implements ledger.Reader.
func (l *Ledger) Get(ctx context.Context, ids []job.ID) ([]job.Job, error) {
	return l.cold.Get(ctx, ids)
}

// List implements ledger.Reader.
func (l *Ledger) List(ctx context.Context, q ledger.Query) ([]job.Job, error) {
	return l.cold.List(ctx, q)
}

// CountDead implements ledger.Reader.
func (l *Ledger) CountDead(ctx context.Context, f ledger.DeadFilter, most int) (int, error) {
	return l.cold.CountDead(ctx, f, most)
}

// ListSessions implements ledger.Sessions.
func (l *Ledger) ListSessions(ctx context.Context, counted bool) ([]ledger.Session, error) {
	return l.cold.ListSessions(ctx, counted)
}

// Held implements ledger.Sessions.
func (l *Ledger) Held(ctx context.Context, sessions []job.ID) ([]ledger.Lease, error) {
	return l.cold.Held(ctx, sessions)
}

// Paused implements ledger.Queues.
func (l *Ledger) Paused(ctx context.Context) ([]string, error) { return l.cold.Paused(ctx) }

// Counts implements ledger.Queues.
func (l *Ledger) Counts(ctx context.Context) ([]ledger.Count, error) { return l.cold.Counts(ctx) }

// OldestReady implements ledger.Queues.
func (l *Ledger) OldestReady(ctx context.Context) ([]ledger.Oldest, error) {
	return l.cold.OldestReady(ctx)
}
