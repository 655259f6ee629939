package sqlite

import (
	"context"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Get implements ledger.Reader.
func (l *Ledger) Get(ctx context.Context, ids []job.ID) ([]job.Job, error) {
	return l.store.Get(ctx, ids)
}

// List implements ledger.Reader.
func (l *Ledger) List(ctx context.Context, q ledger.Query) ([]job.Job, error) {
	return l.store.List(ctx, q)
}

// CountDead implements ledger.Reader.
func (l *Ledger) CountDead(ctx context.Context, f ledger.DeadFilter, most int) (int, error) {
	return l.store.CountDead(ctx, f, most)
}

// Counts implements ledger.Queues.
func (l *Ledger) Counts(ctx context.Context) ([]ledger.Count, error) { return l.store.Counts(ctx) }

// OldestReady implements ledger.Queues.
func (l *Ledger) OldestReady(ctx context.Context) ([]ledger.Oldest, error) {
	return l.store.OldestReady(ctx)
}

// Paused implements ledger.Queues.
func (l *Ledger) Paused(ctx context.Context) ([]string, error) { return l.store.Paused(ctx) }

// ListSessions implements ledger.Sessions.
func (l *Ledger) ListSessions(ctx context.Context, counted bool) ([]ledger.Session, error) {
	return l.store.ListSessions(ctx, counted)
}

// Held implements ledger.Sessions.
func (l *Ledger) Held(ctx context.Context, sessions []job.ID) ([]ledger.Lease, error) {
	return l.store.Held(ctx, sessions)
}
