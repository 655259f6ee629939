package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// pulseSQL looks for what it is asked for: see ledger.Ask. What it is not asked
// for is not looked for. The first and the last of its columns are the clock
// before and after the look.
const pulseSQL = `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
	CASE WHEN $1 THEN EXISTS (SELECT FROM errand.job WHERE state = 1 AND run_at <= $2)
		OR EXISTS (SELECT FROM errand.job WHERE state < 3 AND expires_at IS NOT NULL AND expires_at <= $2) ELSE false END,
	CASE WHEN $3 THEN EXISTS (SELECT FROM errand.job j WHERE j.state = 3
		AND NOT EXISTS (SELECT FROM errand.session s WHERE s.id = j.session AND s.state IN (1, 2))) ELSE false END,
	CASE WHEN $4 THEN EXISTS (SELECT FROM errand.job WHERE state = 3 AND cancel_requested) ELSE false END,
	ARRAY (SELECT queue FROM errand.counter WHERE state = 2 AND queue = ANY ($5::text[]) GROUP BY queue HAVING sum(n) > 0),
	(extract(epoch FROM clock_timestamp()) * 1000000)::bigint`

// Pulse implements ledger.Ledger: one transaction, in one round trip.
func (l *Ledger) Pulse(ctx context.Context, now time.Time, ask ledger.Ask) (ledger.Pulse, error) {
	var p ledger.Pulse
	queues := ask.Queues
	if queues == nil {
		queues = []string{}
	}
	err := l.inTx(ctx, "pulse", func(t *tx) error {
		return t.end(ctx, step{
			sql:  pulseSQL,
			args: []any{ask.Due, now.UnixMicro(), ask.Orphans, ask.Cancels, queues},
			scan: func(r pgx.Rows) error {
				var from, to int64
				err := r.Scan(&from, &p.Due, &p.Orphans, &p.Cancels, &p.Ready, &to)
				p.Now = coldsql.Time(from + (to-from)/2)
				return err
			},
		})
	})
	if err != nil {
		return ledger.Pulse{}, err
	}
	return p, nil
}
