package ledgertest

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// relay is who leads it.
type relay struct {
	holder job.ID // zero: nobody
	epoch  int64
	until  time.Time
}

// named returns those of the jobs that refs name, in the order of refs.
func named(jobs []job.Job, refs []ledger.Ref) []job.Job {
	var out []job.Job
	for _, ref := range refs {
		i := slices.IndexFunc(jobs, func(j job.Job) bool {
			return j.ID == ref.ID && j.Token == ref.Token && j.Lane != job.LaneSuspect
		})
		if i >= 0 && !slices.ContainsFunc(out, func(j job.Job) bool { return j.ID == ref.ID }) {
			out = append(out, jobs[i])
		}
	}
	return out
}

func refOf(j job.Job) ledger.Ref {
	return ledger.Ref{ID: j.ID, Token: j.Token, Kind: j.Kind, Lane: j.Lane, Seq: j.Seq, RunAt: j.RunAt}
}

func (m *model) Heads(ctx context.Context, now time.Time, reqs []ledger.Head) ([]ledger.Headed, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := make([]ledger.Headed, len(reqs))
	for i, r := range reqs {
		if out[i].Paused = m.paused[r.Queue]; out[i].Paused {
			continue
		}
		for _, j := range m.readyInOrder(now, r.Queue, r.Kinds) {
			if j.Lane != job.LaneSuspect && len(out[i].Refs) < r.Max {
				out[i].Refs = append(out[i].Refs, refOf(j))
			}
		}
	}
	return out, nil
}

func (m *model) HoldRelay(ctx context.Context, now time.Time, holder job.ID, ttl time.Duration) (bool, int64, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return false, 0, err
	}
	defer unlock()
	r := &m.relay
	switch mine := r.holder == holder; {
	case ttl <= 0:
		if mine {
			r.holder = job.ID{}
		}
		return false, r.epoch, nil
	case mine, r.holder.IsZero(), !r.until.After(now):
		if !mine {
			r.epoch++
		}
		r.holder, r.until = holder, now.Add(ttl)
		return true, r.epoch, nil
	default:
		return false, r.epoch, nil
	}
}

func (m *model) Identity(ctx context.Context) (string, error) { return m.identity, ctx.Err() }

func (m *model) SetRoute(ctx context.Context, _ time.Time, queue, route string) error {
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	m.routes[queue] = route
	if route == "" {
		delete(m.routes, queue)
	}
	return nil
}

func (m *model) Routes(ctx context.Context) (map[string]string, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return maps.Clone(m.routes), nil
}
