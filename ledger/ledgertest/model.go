package ledgertest

import (
	"cmp"
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// model is the contract of ledger.Ledger as plain maps: no batching, no index,
// nothing durable. The random test compares a ledger with it after each step,
// and the suite is itself tested against it.
type model struct {
	mu       sync.Mutex
	rules    job.Rules
	jobs     map[job.ID]job.Job // live, dead and archived: the state tells
	seq      int64              // the last that was drawn
	keys     map[uniqueKey]keyHeld
	idem     map[idemKey]idemUse
	sessions map[job.ID]ledger.Session
	opened   []job.ID // sessions in the order of opening
	paused   map[string]bool
	routes   map[string]string
	relay    relay
	identity string
	sums     sums
}

type (
	uniqueKey struct{ kind, key string }
	keyHeld   struct {
		by    job.ID
		until time.Time // zero: freed by the job's state
	}
	idemKey struct{ caller, key string }
	idemUse struct {
		job    job.ID
		digest int64
		at     time.Time
	}
)

// newModel makes an empty model that draws its numbers from first on.
func newModel(rules job.Rules, first int64) *model {
	return &model{rules: rules, seq: first - 1, jobs: map[job.ID]job.Job{}, keys: map[uniqueKey]keyHeld{}, idem: map[idemKey]idemUse{},
		sessions: map[job.ID]ledger.Session{}, paused: map[string]bool{}, routes: map[string]string{}, sums: newSums(),
		identity: strings.ToLower(rand.Text()[:16])}
}

// lock guards every method; a context that has ended changes nothing.
func (m *model) lock(ctx context.Context) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	return m.mu.Unlock, nil
}

// clone copies a job so deeply that no one can change the original through it.
func clone(j job.Job) job.Job {
	j.Tags, j.Errors = slices.Clone(j.Tags), slices.Clone(j.Errors)
	j.Payload, j.Result, j.Progress = slices.Clone(j.Payload), slices.Clone(j.Result), slices.Clone(j.Progress)
	return j
}

// fresh is where the model's numbers begin in the random test, beyond those of
// any ledger: it replaces them by the ledger's after each operation.
const fresh = 1 << 60

func (m *model) nextSeq() int64 { m.seq++; return m.seq }

func (m *model) Insert(ctx context.Context, now time.Time, items []ledger.Item) ([]ledger.Inserted, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := make([]ledger.Inserted, len(items))
	for i, it := range items {
		out[i] = m.insert(now, it)
	}
	return out, nil
}

func (m *model) insert(now time.Time, it ledger.Item) ledger.Inserted {
	j := clone(it.Job)
	if old, ok := m.jobs[j.ID]; ok {
		return m.inTheWay(old.ID, old.Digest == j.Digest, ledger.IDTaken)
	}
	ik := idemKey{it.Caller, it.IdempotencyKey}
	if used, ok := m.idem[ik]; ok && it.IdempotencyKey != "" {
		return m.inTheWay(used.job, used.digest == j.Digest, ledger.KeyReused)
	}
	if j.UniqueMode != job.NotUnique {
		if by, held := m.holder(now, &j); held {
			return ledger.Inserted{Outcome: ledger.UniqueHeld, Holder: by, State: m.jobs[by].State}
		}
		held := keyHeld{by: j.ID}
		if j.UniqueMode == job.ForWindow {
			held.until = now.Add(j.UniqueFor)
		}
		m.keys[uniqueKey{j.Kind, j.UniqueKey}] = held
	}
	if it.IdempotencyKey != "" {
		m.idem[ik] = idemUse{j.ID, j.Digest, now}
	}
	if j.State == job.Ready {
		j.Seq = m.nextSeq()
	}
	m.jobs[j.ID] = j
	return ledger.Inserted{Outcome: ledger.InsertedNew, Holder: j.ID, State: j.State}
}

func (m *model) inTheWay(id job.ID, same bool, other ledger.InsertOutcome) ledger.Inserted {
	if same {
		other = ledger.Duplicate
	}
	return ledger.Inserted{Outcome: other, Holder: id, State: m.jobs[id].State}
}

// holder returns who else holds j's unique key.
func (m *model) holder(now time.Time, j *job.Job) (job.ID, bool) {
	held, ok := m.keys[uniqueKey{j.Kind, j.UniqueKey}]
	if !ok || held.by == j.ID || !held.until.IsZero() && !held.until.After(now) {
		return job.ID{}, false
	}
	return held.by, true
}

func (m *model) Claim(ctx context.Context, now time.Time, reqs []ledger.Claim) ([]ledger.Claimed, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := make([]ledger.Claimed, len(reqs))
	for i, r := range reqs {
		if m.sessions[r.Session].State != ledger.SessionLive {
			out[i].Err = job.ErrSessionLost
		} else if !m.paused[r.Queue] {
			out[i].Jobs, out[i].More = m.claim(now, r)
		}
	}
	return out, nil
}

func (m *model) claim(now time.Time, r ledger.Claim) (out []job.Job, more bool) {
	bytes, suspect := 0, m.holdsSuspect(r.Session)
	for _, j := range m.choice(now, r) {
		if len(out) >= r.Max {
			break
		}
		if j.Lane == job.LaneSuspect && suspect {
			continue
		}
		bytes += len(j.Payload)
		if bytes > r.MaxBytes && len(out) > 0 {
			return out, true
		}
		suspect = suspect || j.Lane == job.LaneSuspect
		if err := m.rules.Step(&j, job.Move{Event: job.Lease, Now: now, Session: r.Session, Call: r.Call}); err != nil {
			panic(err) // a ready job can be leased
		}
		m.store(now, j)
		out = append(out, clone(j))
	}
	return out, false
}

func (m *model) holdsSuspect(session job.ID) bool {
	for _, j := range m.jobs {
		if j.State == job.Running && j.Session == session && j.Crashes > 0 {
			return true
		}
	}
	return false
}

// choice returns the jobs that a request may get, in the order in which it gets them.
func (m *model) choice(now time.Time, r ledger.Claim) []job.Job {
	jobs := m.readyInOrder(now, r.Queue, r.Kinds)
	if len(r.Refs) > 0 {
		return named(jobs, r.Refs)
	}
	if r.SuspectsOnly {
		jobs = slices.DeleteFunc(jobs, func(j job.Job) bool { return j.Lane != job.LaneSuspect })
	}
	return jobs
}

// readyInOrder leaves out jobs that have expired.
func (m *model) readyInOrder(now time.Time, queue string, kinds []string) []job.Job {
	jobs := m.where(func(j *job.Job) bool {
		return j.State == job.Ready && j.Queue == queue && (len(kinds) == 0 || slices.Contains(kinds, j.Kind)) &&
			(j.ExpiresAt.IsZero() || j.ExpiresAt.After(now))
	})
	slices.SortFunc(jobs, func(a, b job.Job) int { return cmp.Or(cmp.Compare(a.Lane, b.Lane), cmp.Compare(a.Seq, b.Seq)) })
	return jobs
}

// where returns copies of the jobs that match, by id.
func (m *model) where(match func(*job.Job) bool) []job.Job {
	var out []job.Job
	for _, j := range m.jobs {
		if match(&j) {
			out = append(out, clone(j))
		}
	}
	slices.SortFunc(out, func(a, b job.Job) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return out
}

// store keeps j, with its unique key in step; it reports who has the key if
// that stands in the way.
func (m *model) store(now time.Time, j job.Job) (holder job.ID, ok bool) {
	was := m.jobs[j.ID]
	k := uniqueKey{j.Kind, j.UniqueKey}
	switch {
	case !was.HoldsKey() && j.HoldsKey():
		if by, held := m.holder(now, &j); held {
			return by, false
		}
		m.keys[k] = keyHeld{by: j.ID}
	case was.HoldsKey() && !j.HoldsKey() && m.keys[k].by == j.ID:
		delete(m.keys, k)
	}
	if j.State == job.Ready && j.Seq == 0 {
		j.Seq = m.nextSeq()
	}
	m.jobs[j.ID] = j
	if j.State == job.Deleted {
		delete(m.jobs, j.ID)
	}
	return j.ID, true
}

func (m *model) Succeed(ctx context.Context, now time.Time, items []ledger.Success) ([]ledger.Succeeded, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := make([]ledger.Succeeded, len(items))
	for i, it := range items {
		j, ok := m.jobs[it.ID]
		if !ok || j.State != job.Running || j.Token != it.Token {
			continue
		}
		j = clone(j)
		if _, err := m.rules.Settle(&j, it.Token, job.Move{Event: job.Succeed, Now: now, Result: slices.Clone(it.Result)}); err != nil {
			continue
		}
		if _, ok := m.store(now, j); ok {
			out[i] = succeeded(j)
		}
	}
	return out, nil
}

// succeeded is the answer to the success that made j.
func succeeded(j job.Job) ledger.Succeeded {
	return ledger.Succeeded{OK: true, Queue: j.Queue, Kind: j.Kind, Priority: j.Priority,
		Attempt: j.Attempt, MaxAttempts: j.MaxAttempts, Crashes: j.Crashes, Version: j.Version,
		CreatedAt: j.CreatedAt, RunAt: j.RunAt, LeasedAt: j.LeasedAt}
}

func (m *model) Apply(ctx context.Context, now time.Time, pick ledger.Pick, fn func(*job.Job) error) ([]ledger.Applied, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	ids := pick.IDs
	if ids == nil {
		for _, j := range m.pick(pick) {
			ids = append(ids, j.ID)
		}
	}
	out := make([]ledger.Applied, len(ids))
	for i, id := range ids {
		out[i] = m.apply(now, id, fn)
	}
	return out, nil
}

func (m *model) apply(now time.Time, id job.ID, fn func(*job.Job) error) ledger.Applied {
	was, ok := m.jobs[id]
	if !ok {
		return ledger.Applied{Job: job.Job{ID: id}, Err: job.ErrNotFound}
	}
	j := clone(was)
	if err := fn(&j); err != nil {
		return ledger.Applied{Job: clone(was), From: was.State, Err: err}
	}
	if holder, ok := m.store(now, j); !ok {
		err := job.Errorf(job.FailedPrecondition, job.ReasonUniqueHeld, "the unique key is held by %s", holder)
		err.Holder = holder
		return ledger.Applied{Job: clone(was), From: was.State, Err: err}
	}
	if stored, ok := m.jobs[id]; ok {
		j = stored
	}
	return ledger.Applied{Job: clone(j), From: was.State}
}

func (m *model) pick(p ledger.Pick) []job.Job {
	p.Limit = max(p.Limit, 0)
	if p.Dead != nil {
		dead := m.dead(*p.Dead)
		return dead[:min(len(dead), p.Limit)]
	}
	picked := m.where(func(j *job.Job) bool {
		switch {
		case !p.Due.IsZero():
			return j.State == job.Scheduled && !j.RunAt.After(p.Due)
		case !p.Expired.IsZero():
			return (j.State == job.Scheduled || j.State == job.Ready) && !j.ExpiresAt.IsZero() && !j.ExpiresAt.After(p.Expired)
		case p.Orphans == ledger.SessionDead || p.Orphans == ledger.SessionDrained:
			s := m.sessions[j.Session].State
			return j.State == job.Running && (s == p.Orphans || s == ledger.SessionAbsent && p.Orphans == ledger.SessionDrained)
		}
		return false
	})
	slices.SortStableFunc(picked, func(a, b job.Job) int { return a.RunAt.Compare(b.RunAt) })
	return picked[:min(len(picked), p.Limit)]
}

// dead returns the dead letters that f chooses, newest first.
func (m *model) dead(f ledger.DeadFilter) []job.Job {
	dead := m.where(func(j *job.Job) bool {
		return j.State == job.Dead && (f.Queue == "" || j.Queue == f.Queue) && (f.Kind == "" || j.Kind == f.Kind) &&
			strings.Contains(j.LastError(), f.Error) && (f.Before.IsZero() || j.DoneAt.Before(f.Before))
	})
	slices.Reverse(dead)
	for i, j := range dead {
		if j.ID == f.AfterID {
			return dead[i+1:]
		}
	}
	return dead
}
