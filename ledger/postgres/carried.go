package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/coldsql"
)

// HoldRelay implements ledger.Carried.
func (l *Ledger) HoldRelay(ctx context.Context, now time.Time, holder job.ID, ttl time.Duration) (leads bool, epoch int64, err error) {
	err = l.inTx(ctx, "hold the relay", func(t *tx) (err error) {
		if leads, epoch, err = l.cold.HoldRelay(t.get(ctx), now, holder, ttl); err != nil {
			return err
		}
		return t.commit(ctx)
	})
	return leads && err == nil, epoch, err
}

// get runs single statements of coldsql in the transaction.
func (t *tx) get(ctx context.Context) coldsql.Get {
	return func(text string, args []any, dest ...any) (found bool, err error) {
		err = t.run(ctx, step{sql: text, args: args, scan: func(r pgx.Rows) error {
			found = true
			return r.Scan(dest...)
		}})
		return found, err
	}
}

// Identity implements ledger.Carried.
func (l *Ledger) Identity(ctx context.Context) (string, error) { return l.cold.Identity(ctx) }

// SetRoute implements ledger.Queues.
func (l *Ledger) SetRoute(ctx context.Context, now time.Time, queue, route string) error {
	return l.inTx(ctx, "set route", func(t *tx) error {
		text, args := l.cold.RouteText(now, queue, route)
		return t.commit(ctx, step{sql: text, args: args})
	})
}

// Routes implements ledger.Queues.
func (l *Ledger) Routes(ctx context.Context) (map[string]string, error) { return l.cold.Routes(ctx) }
