package sqlite

import (
	"context"
	"slices"
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
	began := time.Now()
	err := l.heads.do("pulse", func() error { return l.heads.pulse(now, &ask, &p) })
	if err != nil {
		return ledger.Pulse{}, err
	}
	p.Now = began.Add(time.Since(began) / 2).UTC().Truncate(time.Microsecond)
	return p, nil
}

func (r *headReader) pulse(now time.Time, ask *ledger.Ask, p *ledger.Pulse) error {
	if ask.Due || ask.Orphans || ask.Cancels {
		args := []any{ask.Due, coldsql.Micros(now), ask.Orphans, ask.Cancels}
		if _, err := r.c.get(pulseSQL, args, &p.Due, &p.Orphans, &p.Cancels); err != nil {
			return err
		}
	}
	for _, h := range ask.Queues {
		if slices.Contains(p.Ready, h.Queue) {
			continue
		}
		ready, err := r.ready(h.Queue)
		if err != nil {
			return err
		}
		for kind, n := range ready {
			if (len(h.Kinds) == 0 || slices.Contains(h.Kinds, kind)) && *n != [lanes]int64{} {
				p.Ready = append(p.Ready, h.Queue)
				break
			}
		}
	}
	return nil
}
