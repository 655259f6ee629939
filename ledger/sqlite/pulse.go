package sqlite

import (
	"context"
	"database/sql/driver"
	"strings"
	"time"

	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// pulseSQL looks for what it is asked for: see ledger.Ask. What it is not asked for is not looked for.
const pulseSQL = `SELECT
	CASE WHEN ?1 THEN EXISTS (SELECT 1 FROM job_row WHERE state = 1 AND run_at <= ?2)
		OR EXISTS (SELECT 1 FROM job_row WHERE expires_at <= ?2 AND state < 3 AND ` + notLeased + `) ELSE 0 END,
	CASE WHEN ?3 THEN EXISTS (SELECT 1 FROM job_held WHERE state = 3 AND session IN (` + orphanSessions + `coalesce(session.state, 0) NOT IN (1, 2))) ELSE 0 END,
	CASE WHEN ?4 THEN EXISTS (SELECT 1 FROM job_held WHERE state = 3 AND cancel_requested) ELSE 0 END`

// Pulse implements ledger.Ledger.
func (l *Ledger) Pulse(ctx context.Context, now time.Time, ask ledger.Ask) (ledger.Pulse, error) {
	var p ledger.Pulse
	if err := ctx.Err(); err != nil {
		return p, err
	}
	err := l.heads.do("pulse", func() error { return l.heads.pulse(now, &ask, &p) })
	if err != nil {
		return ledger.Pulse{}, err
	}
	p.Now, err = l.Now(ctx)
	return p, err
}

func (r *headReader) pulse(now time.Time, ask *ledger.Ask, p *ledger.Pulse) error {
	if ask.Due || ask.Orphans || ask.Cancels {
		args := []any{ask.Due, coldsql.Micros(now), ask.Orphans, ask.Cancels}
		if _, err := r.c.get(pulseSQL, args, &p.Due, &p.Orphans, &p.Cancels); err != nil {
			return err
		}
	}
	if len(ask.Queues) == 0 {
		return nil
	}
	names := coldsql.JSON(ask.Queues)
	return r.c.query(`SELECT queue FROM counter WHERE state = 2 AND queue IN (SELECT value FROM json_each(?))
		GROUP BY queue HAVING sum(n) > 0`, []any{names}, func(row []driver.Value) error {
		var queue string
		err := assign(row, []any{&queue})
		p.Ready = append(p.Ready, strings.Clone(queue))
		return err
	})
}
