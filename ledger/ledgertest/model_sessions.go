package ledgertest

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

func (m *model) OpenSession(ctx context.Context, s ledger.Session) error {
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := m.sessions[s.ID]; ok {
		return job.Errorf(job.AlreadyExists, job.ReasonIDTaken, "session %s exists", s.ID)
	}
	s.State, s.Beat = ledger.SessionLive, 1
	m.sessions[s.ID] = s
	m.opened = append(m.opened, s.ID)
	return nil
}

func (m *model) Beat(ctx context.Context, now time.Time, ids []job.ID) ([]ledger.Renewed, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := make([]ledger.Renewed, len(ids))
	for i, id := range ids {
		s, ok := m.sessions[id]
		if !ok {
			continue
		}
		if s.State == ledger.SessionLive || s.State == ledger.SessionDraining {
			s.Beat++
			s.BeatAt = now
			m.sessions[id] = s
		}
		out[i] = ledger.Renewed{State: s.State, Held: m.leases(func(j *job.Job) bool { return j.Session == id })}
	}
	return out, nil
}

func (m *model) MoveSession(ctx context.Context, now time.Time, id job.ID, from []ledger.SessionState, to ledger.SessionState, beat int64) (bool, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	s, ok := m.sessions[id]
	if !ok || !slices.Contains(from, s.State) || beat > 0 && s.Beat != beat || to == ledger.SessionLive {
		return false, nil
	}
	if to == ledger.SessionAbsent {
		m.forget(id)
		return true, nil
	}
	s.State = to
	if to == ledger.SessionDead || to == ledger.SessionDrained {
		s.EndedAt = now
	}
	m.sessions[id] = s
	return true, nil
}

func (m *model) forget(id job.ID) {
	delete(m.sessions, id)
	m.opened = slices.DeleteFunc(m.opened, func(o job.ID) bool { return o == id })
}

func (m *model) ListSessions(ctx context.Context, counted bool) ([]ledger.Session, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var out []ledger.Session
	for _, id := range slices.Backward(m.opened) {
		s := m.sessions[id]
		if counted {
			s.Running = len(m.where(func(j *job.Job) bool { return j.State == job.Running && j.Session == id }))
		}
		out = append(out, s)
	}
	return out, nil
}

func (m *model) Held(ctx context.Context, sessions []job.ID) ([]ledger.Lease, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return m.leases(func(j *job.Job) bool {
		return slices.Contains(sessions, j.Session) || len(sessions) == 0 && j.CancelRequested
	}), nil
}

func (m *model) leases(which func(*job.Job) bool) (out []ledger.Lease) {
	for _, j := range m.where(func(j *job.Job) bool { return j.State == job.Running && which(j) }) {
		out = append(out, ledger.Lease{ID: j.ID, Session: j.Session, Token: j.Token, Call: j.Call, CancelRequested: j.CancelRequested})
	}
	return out
}

func (m *model) SetPaused(ctx context.Context, _ time.Time, queue string, paused bool) error {
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	m.paused[queue] = paused
	return nil
}

func (m *model) Paused(ctx context.Context) ([]string, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var out []string
	for q, p := range m.paused {
		if p {
			out = append(out, q)
		}
	}
	return out, nil
}

func (m *model) Counts(ctx context.Context) ([]ledger.Count, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var out []ledger.Count
	for k, n := range tally(m.where(func(*job.Job) bool { return true })) {
		out = append(out, ledger.Count{Queue: k.queue, Kind: k.kind, State: k.state, N: n})
	}
	return out, nil
}

func (m *model) OldestReady(ctx context.Context) ([]ledger.Oldest, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	type lane struct {
		queue, kind string
		lane        job.Lane
	}
	heads := map[lane]job.Job{}
	for _, j := range m.where(func(j *job.Job) bool { return j.State == job.Ready }) {
		k := lane{j.Queue, j.Kind, j.Lane}
		if h, ok := heads[k]; !ok || j.Seq < h.Seq {
			heads[k] = j
		}
	}
	oldest := map[[2]string]ledger.Oldest{}
	for k, h := range heads {
		qk := [2]string{k.queue, k.kind}
		if o, ok := oldest[qk]; !ok || h.RunAt.Before(o.Since) {
			oldest[qk] = ledger.Oldest{Queue: k.queue, Kind: k.kind, Since: h.RunAt}
		}
	}
	var out []ledger.Oldest
	for _, o := range oldest {
		out = append(out, o)
	}
	return out, nil
}

func (m *model) Get(ctx context.Context, ids []job.ID) ([]job.Job, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return m.where(func(j *job.Job) bool { return slices.Contains(ids, j.ID) }), nil
}

func (m *model) List(ctx context.Context, q ledger.Query) ([]job.Job, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	jobs := m.where(func(j *job.Job) bool {
		return (q.Queue == "" || j.Queue == q.Queue) && (q.Kind == "" || j.Kind == q.Kind) && (q.State == 0 || j.State == q.State) &&
			(q.Error == "" || j.State == job.Dead && strings.Contains(j.LastError(), q.Error)) &&
			(q.Tag == "" || slices.Contains(j.Tags, q.Tag)) && (q.After.IsZero() || cmp.Compare(string(j.ID[:]), string(q.After[:])) < 0)
	})
	slices.Reverse(jobs)
	jobs = jobs[:min(len(jobs), q.Limit)]
	for i := range jobs {
		jobs[i] = listed(jobs[i])
	}
	return jobs, nil
}

// listed is a job as List shows it.
func listed(j job.Job) job.Job {
	j.Payload, j.Result = nil, nil
	j.Errors = j.Errors[max(len(j.Errors)-1, 0):]
	return j
}

func (m *model) CountDead(ctx context.Context, f ledger.DeadFilter, most int) (int, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	return min(len(m.dead(f)), most), nil
}

func (m *model) Upkeep(ctx context.Context, now time.Time, keep ledger.Keep) (ledger.Upkept, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return ledger.Upkept{}, err
	}
	defer unlock()
	var did ledger.Upkept
	for id, j := range m.jobs {
		archived := j.State == job.Succeeded || j.State == job.Cancelled
		switch {
		case archived && j.DoneAt.Before(now.Add(-keep.Archive)):
			delete(m.jobs, id)
			did.SlicesDropped = 1 // the model's archive is one slice a moment
		case j.State == job.Dead && keep.Dead > 0 && j.DoneAt.Before(now.Add(-keep.Dead)):
			delete(m.jobs, id)
			did.DeadRemoved++
		}
	}
	m.dropKeys(now, keep, &did)
	if keep.Stats > 0 {
		did.StatsRemoved = m.sums.removeBefore(ledger.HourOf(now.Add(-keep.Stats)))
	}
	for id, s := range m.sessions {
		holds := len(m.where(func(j *job.Job) bool { return j.State == job.Running && j.Session == id }))
		if (s.State == ledger.SessionDead || s.State == ledger.SessionDrained) && s.EndedAt.Before(now.Add(-time.Hour)) && holds == 0 {
			m.forget(id)
			did.SessionsGone++
		}
	}
	return did, nil
}

func (m *model) dropKeys(now time.Time, keep ledger.Keep, did *ledger.Upkept) {
	for k, u := range m.idem {
		if u.at.Before(now.Add(-keep.Idempotency)) {
			delete(m.idem, k)
			did.KeysRemoved++
		}
	}
	for k, held := range m.keys {
		if !held.until.IsZero() && !held.until.After(now) {
			delete(m.keys, k)
			did.KeysRemoved++
		}
	}
}

func (m *model) Now(ctx context.Context) (time.Time, error) { return time.Now(), ctx.Err() }

func (m *model) Wake(ctx context.Context, _ []string) error { return ctx.Err() }

func (m *model) Listen(ctx context.Context, _ func(string)) error {
	<-ctx.Done()
	return nil
}

func (m *model) Close() error { return nil }

type countKey struct {
	queue, kind string
	state       job.State
}

func tally(jobs []job.Job) map[countKey]int64 {
	n := map[countKey]int64{}
	for _, j := range jobs {
		n[countKey{j.Queue, j.Kind, j.State}]++
	}
	return n
}

var (
	_ ledger.Ledger = (*model)(nil)
)
