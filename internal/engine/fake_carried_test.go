package engine_test

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// choice returns the jobs that a claim may get, in its order.
func (f *fake) choice(now time.Time, r ledger.Claim) []*job.Job {
	suspects := 0
	for _, j := range f.jobs {
		if j.State == job.Running && j.Session == r.Session && j.Crashes > 0 {
			suspects++
		}
	}
	jobs := slices.DeleteFunc(f.ready(r.Queue, r.Kinds), func(j *job.Job) bool {
		if j.Lane == job.LaneSuspect {
			suspects++
		}
		expired := !j.ExpiresAt.IsZero() && !j.ExpiresAt.After(now)
		return expired || r.SuspectsOnly && j.Lane != job.LaneSuspect || j.Lane == job.LaneSuspect && suspects > 1
	})
	if len(r.Refs) == 0 {
		return jobs
	}
	var named []*job.Job
	for _, ref := range r.Refs {
		i := slices.IndexFunc(jobs, func(j *job.Job) bool {
			return j.ID == ref.ID && j.Token == ref.Token && j.Lane != job.LaneSuspect
		})
		if i >= 0 && !f.busy[ref.ID] && !slices.Contains(named, jobs[i]) {
			named = append(named, jobs[i])
		}
	}
	return named
}

func (f *fake) Heads(_ context.Context, now time.Time, reqs []ledger.Head) (out []ledger.Headed, err error) {
	if err := f.enter("Heads"); err != nil {
		return nil, err
	}
	defer f.leave("Heads", &err)
	for _, r := range reqs {
		h := ledger.Headed{Paused: f.paused[r.Queue]}
		for _, j := range f.choice(now, ledger.Claim{Queue: r.Queue, Kinds: r.Kinds}) {
			if j.Lane != job.LaneSuspect && len(h.Refs) < r.Max {
				h.Refs = append(h.Refs, ledger.Ref{ID: j.ID, Token: j.Token, Kind: j.Kind, Lane: j.Lane, Seq: j.Seq, RunAt: j.RunAt})
			}
		}
		out = append(out, h)
	}
	return out, nil
}

func (f *fake) HoldRelay(_ context.Context, now time.Time, holder job.ID, ttl time.Duration) (leads bool, epoch int64, err error) {
	if err := f.enter("HoldRelay"); err != nil {
		return false, 0, err
	}
	defer f.leave("HoldRelay", &err)
	switch {
	case ttl <= 0 && f.leader == holder:
		f.leader = job.ID{}
	case ttl > 0 && (f.leader == holder || f.leader.IsZero() || !f.leads.After(now)):
		if f.leader != holder {
			f.epoch++
		}
		f.leader, f.leads = holder, now.Add(ttl)
		return true, f.epoch, nil
	}
	return false, f.epoch, nil
}

func (f *fake) Identity(context.Context) (string, error) { return "0123456789abcdef", nil }

func (f *fake) SetRoute(_ context.Context, _ time.Time, queue, route string) (err error) {
	if err := f.enter("SetRoute"); err != nil {
		return err
	}
	defer f.leave("SetRoute", &err)
	f.routes[queue] = route
	if route == "" {
		delete(f.routes, queue)
	}
	return nil
}

func (f *fake) Routes(context.Context) (out map[string]string, err error) {
	if err := f.enter("Routes"); err != nil {
		return nil, err
	}
	defer f.leave("Routes", &err)
	return maps.Clone(f.routes), nil
}
