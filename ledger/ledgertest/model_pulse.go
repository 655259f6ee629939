package ledgertest

import (
	"context"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

func (m *model) Pulse(ctx context.Context, now time.Time, ask ledger.Ask) (ledger.Pulse, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return ledger.Pulse{}, err
	}
	defer unlock()
	p := ledger.Pulse{Now: time.Now()}
	some := func(pick ledger.Pick) bool {
		pick.Limit = 1
		return len(m.pick(pick)) > 0
	}
	p.Due = ask.Due && (some(ledger.Pick{Due: now}) || some(ledger.Pick{Expired: now}))
	p.Orphans = ask.Orphans && (some(ledger.Pick{Orphans: ledger.SessionDead}) || some(ledger.Pick{Orphans: ledger.SessionDrained}))
	p.Cancels = ask.Cancels && len(m.leases(func(j *job.Job) bool { return j.CancelRequested })) > 0
	for _, h := range ask.Queues {
		ready := m.where(func(j *job.Job) bool {
			return j.State == job.Ready && (j.ExpiresAt.IsZero() || j.ExpiresAt.After(now)) && j.Queue == h.Queue && (len(h.Kinds) == 0 || slices.Contains(h.Kinds, j.Kind))
		})
		if len(ready) > 0 && !slices.Contains(p.Ready, h.Queue) {
			p.Ready = append(p.Ready, h.Queue)
		}
	}
	return p, nil
}
