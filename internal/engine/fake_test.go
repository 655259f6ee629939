package engine_test

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// fake is a ledger in memory, as small as the engine's rules allow, with hooks
// for the ways in which a real one fails.
type fake struct {
	mu       sync.Mutex
	jobs     map[job.ID]*job.Job
	sessions map[job.ID]*ledger.Session
	paused   map[string]bool
	routes   map[string]string
	leader   job.ID // of the relay
	epoch    int64
	leads    time.Time // until then
	idem     map[string]job.ID
	seq      int64
	rules    job.Rules
	calls    map[string]int
	skew     time.Duration
	sums     ledger.Sums

	// before runs at the start of each method; its error is the method's.
	before func(method string) error
	// after runs when the method has committed; its error is the answer all the same.
	after func(method string) error
	// busy jobs are locked for whoever does not wait.
	busy map[job.ID]bool
	// inserted and claims log the sizes of the calls.
	inserted []int
	claims   []int
	woken    []string
	// line is what Listen hears.
	line chan string
	// cut has a claim give two jobs at most, and say that there may be more.
	cut bool
}

func newFake() *fake {
	return &fake{
		jobs: map[job.ID]*job.Job{}, sessions: map[job.ID]*ledger.Session{}, paused: map[string]bool{},
		routes: map[string]string{},
		idem:   map[string]job.ID{}, calls: map[string]int{}, busy: map[job.ID]bool{},
		rules: job.DefaultRules(func() float64 { return 0.5 }),
		line:  make(chan string),
	}
}

// enter counts a call and runs the hook before; leave is to be deferred.
func (f *fake) enter(method string) error {
	f.mu.Lock()
	f.calls[method]++
	before := f.before
	f.mu.Unlock()
	if before != nil {
		if err := before(method); err != nil {
			return err
		}
	}
	f.mu.Lock()
	return nil
}

func (f *fake) leave(method string, err *error) {
	after := f.after
	f.mu.Unlock()
	if after != nil && *err == nil {
		*err = after(method)
	}
}

func (f *fake) hook(before, after func(string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

func (f *fake) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

func (f *fake) get(id job.ID) job.Job {
	f.mu.Lock()
	defer f.mu.Unlock()
	if j := f.jobs[id]; j != nil {
		return *j
	}
	return job.Job{}
}

// put stores a ready job without any engine.
func (f *fake) put(j job.Job) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j.Queue, j.State, j.Lane, j.Version, j.MaxAttempts = job.DefaultQueue, job.Ready, job.Lane(j.Priority), 1, 1
	f.jobs[j.ID] = &j
}

// change alters a job behind the engine's back.
func (f *fake) change(id job.ID, fn func(*job.Job)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn(f.jobs[id])
}

func (f *fake) session(id job.ID) ledger.SessionState {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sessions[id]; s != nil {
		return s.State
	}
	return ledger.SessionAbsent
}

func (f *fake) Now(context.Context) (time.Time, error) {
	if err := f.enter("Now"); err != nil {
		return time.Time{}, err
	}
	defer f.mu.Unlock()
	return time.Now().Add(f.skew), nil
}

func (f *fake) Pulse(_ context.Context, now time.Time, ask ledger.Ask) (p ledger.Pulse, err error) {
	if err := f.enter("Pulse"); err != nil {
		return ledger.Pulse{}, err
	}
	defer f.leave("Pulse", &err)
	p.Now = time.Now().Add(f.skew)
	for _, j := range f.jobs {
		p.Due = p.Due || ask.Due && (f.picked(ledger.Pick{Due: now}, j) || f.picked(ledger.Pick{Expired: now}, j))
		p.Orphans = p.Orphans || ask.Orphans && (f.picked(ledger.Pick{Orphans: ledger.SessionDead}, j) || f.picked(ledger.Pick{Orphans: ledger.SessionDrained}, j))
		p.Cancels = p.Cancels || ask.Cancels && j.State == job.Running && j.CancelRequested
	}
	for _, h := range ask.Queues {
		of := func(j *job.Job) bool {
			return j.State == job.Ready && j.Queue == h.Queue && (len(h.Kinds) == 0 || slices.Contains(h.Kinds, j.Kind))
		}
		for _, j := range f.jobs {
			if of(j) && !slices.Contains(p.Ready, h.Queue) {
				p.Ready = append(p.Ready, h.Queue)
			}
		}
	}
	return p, nil
}

func (f *fake) Wake(_ context.Context, queues []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.woken = append(f.woken, queues...)
	return nil
}

func (f *fake) Listen(ctx context.Context, fn func(string)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case queue := <-f.line:
			fn(queue)
		}
	}
}

func (f *fake) Upkeep(context.Context, time.Time, ledger.Keep) (_ ledger.Upkept, err error) {
	if err := f.enter("Upkeep"); err != nil {
		return ledger.Upkept{}, err
	}
	defer f.leave("Upkeep", &err)
	return ledger.Upkept{}, nil
}

func (f *fake) Close() error { return nil }

func (f *fake) Insert(_ context.Context, _ time.Time, items []ledger.Item) (out []ledger.Inserted, err error) {
	if err := f.enter("Insert"); err != nil {
		return nil, err
	}
	defer f.leave("Insert", &err)
	f.inserted = append(f.inserted, len(items))
	for _, it := range items {
		j := it.Job
		switch old := f.jobs[j.ID]; {
		case old != nil && old.Digest == j.Digest:
			out = append(out, ledger.Inserted{Outcome: ledger.Duplicate, Holder: j.ID, State: old.State})
			continue
		case old != nil:
			out = append(out, ledger.Inserted{Outcome: ledger.IDTaken, Holder: j.ID, State: old.State})
			continue
		}
		if h := f.holder(&j); !h.IsZero() {
			out = append(out, ledger.Inserted{Outcome: ledger.UniqueHeld, Holder: h})
			continue
		}
		if j.State == job.Ready {
			f.seq++
			j.Seq = f.seq
		}
		f.jobs[j.ID] = &j
		out = append(out, ledger.Inserted{Holder: j.ID, State: j.State})
	}
	return out, nil
}

func (f *fake) holder(j *job.Job) job.ID {
	for _, o := range f.jobs {
		if j.UniqueKey != "" && o.ID != j.ID && o.Kind == j.Kind && o.UniqueKey == j.UniqueKey && o.HoldsKey() {
			return o.ID
		}
	}
	return job.ID{}
}

func (f *fake) Claim(_ context.Context, now time.Time, reqs []ledger.Claim) (out []ledger.Claimed, err error) {
	if err := f.enter("Claim"); err != nil {
		return nil, err
	}
	defer f.leave("Claim", &err)
	f.claims = append(f.claims, len(reqs))
	for _, r := range reqs {
		if s := f.sessions[r.Session]; s == nil || s.State != ledger.SessionLive {
			out = append(out, ledger.Claimed{Err: job.ErrSessionLost})
			continue
		}
		var got []job.Job
		for _, j := range f.choice(now, r) {
			if len(got) == r.Max || f.cut && len(got) == 2 {
				break
			}
			if err := f.rules.Step(j, job.Move{Event: job.Lease, Now: now, Session: r.Session, Call: r.Call}); err != nil {
				return nil, err
			}
			got = append(got, *j)
		}
		out = append(out, ledger.Claimed{Jobs: got, More: f.cut})
	}
	return out, nil
}

func (f *fake) ready(queue string, kinds []string) []*job.Job {
	var out []*job.Job
	for _, j := range f.jobs {
		if j.State == job.Ready && j.Queue == queue && !f.paused[queue] && (len(kinds) == 0 || slices.Contains(kinds, j.Kind)) {
			out = append(out, j)
		}
	}
	slices.SortFunc(out, func(a, b *job.Job) int {
		return cmp.Or(cmp.Compare(a.Lane, b.Lane), cmp.Compare(a.Seq, b.Seq))
	})
	return out
}

func (f *fake) Succeed(_ context.Context, now time.Time, items []ledger.Success) (out []ledger.Succeeded, err error) {
	if err := f.enter("Succeed"); err != nil {
		return nil, err
	}
	defer f.leave("Succeed", &err)
	for _, it := range items {
		j := f.jobs[it.ID]
		if j == nil || j.State != job.Running || j.Token != it.Token || f.busy[it.ID] {
			out = append(out, ledger.Succeeded{})
			continue
		}
		if _, err := f.rules.Settle(j, it.Token, job.Move{Event: job.Succeed, Now: now, Result: it.Result}); err != nil {
			return nil, err
		}
		out = append(out, ledger.Succeeded{OK: true, Queue: j.Queue, Kind: j.Kind, Priority: j.Priority,
			Attempt: j.Attempt, MaxAttempts: j.MaxAttempts, Crashes: j.Crashes, Version: j.Version,
			CreatedAt: j.CreatedAt, RunAt: j.RunAt, LeasedAt: j.LeasedAt})
	}
	return out, nil
}

func (f *fake) Apply(_ context.Context, _ time.Time, pick ledger.Pick, fn func(*job.Job) error) (out []ledger.Applied, err error) {
	if err := f.enter("Apply"); err != nil {
		return nil, err
	}
	defer f.leave("Apply", &err)
	for _, id := range f.pick(pick) {
		j := f.jobs[id]
		switch {
		case j == nil:
			out = append(out, ledger.Applied{Err: job.ErrNotFound})
			continue
		case f.busy[id] && !pick.Wait:
			out = append(out, ledger.Applied{Job: *j, Err: job.ErrBusy})
			continue
		}
		next := *j
		next.Errors = slices.Clone(j.Errors)
		if err := fn(&next); err != nil {
			out = append(out, ledger.Applied{Job: *j, From: j.State, Err: err})
			continue
		}
		if h := f.holder(&next); next.HoldsKey() && !j.HoldsKey() && !h.IsZero() {
			refusal := job.Errorf(job.AlreadyExists, job.ReasonUniqueHeld, "held")
			refusal.Holder = h
			out = append(out, ledger.Applied{Job: *j, From: j.State, Err: refusal})
			continue
		}
		if next.State == job.Ready && next.Seq == 0 {
			f.seq++
			next.Seq = f.seq
		}
		out = append(out, ledger.Applied{Job: next, From: j.State})
		if next.State == job.Deleted {
			delete(f.jobs, id)
			continue
		}
		f.jobs[id] = &next
	}
	return out, nil
}

func (f *fake) pick(p ledger.Pick) []job.ID {
	if p.IDs != nil {
		return p.IDs
	}
	var ids []job.ID
	for id, j := range f.jobs {
		if f.picked(p, j) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b job.ID) int { return slices.Compare(a[:], b[:]) })
	if p.Dead != nil {
		slices.Reverse(ids)
	}
	return ids[:min(len(ids), p.Limit)]
}

func (f *fake) picked(p ledger.Pick, j *job.Job) bool {
	switch {
	case !p.Due.IsZero():
		return j.State == job.Scheduled && !j.RunAt.After(p.Due)
	case !p.Expired.IsZero():
		return (j.State == job.Scheduled || j.State == job.Ready) && !j.ExpiresAt.IsZero() && !j.ExpiresAt.After(p.Expired)
	case p.Dead != nil:
		return j.State == job.Dead && (p.Dead.AfterID.IsZero() || slices.Compare(j.ID[:], p.Dead.AfterID[:]) < 0)
	}
	state := ledger.SessionAbsent
	if s := f.sessions[j.Session]; s != nil {
		state = s.State
	}
	if j.State != job.Running {
		return false
	}
	return state == p.Orphans || p.Orphans == ledger.SessionDrained && state == ledger.SessionAbsent
}

func (f *fake) OpenSession(_ context.Context, s ledger.Session) (err error) {
	if err := f.enter("OpenSession"); err != nil {
		return err
	}
	defer f.leave("OpenSession", &err)
	f.sessions[s.ID] = &s
	return nil
}

func (f *fake) Beat(_ context.Context, _ time.Time, ids []job.ID) (out []ledger.Renewed, err error) {
	if err := f.enter("Beat"); err != nil {
		return nil, err
	}
	defer f.leave("Beat", &err)
	for _, id := range ids {
		s := f.sessions[id]
		if s == nil {
			out = append(out, ledger.Renewed{})
			continue
		}
		s.Beat++
		out = append(out, ledger.Renewed{State: s.State, Held: f.leases(func(j *job.Job) bool { return j.Session == id })})
	}
	return out, nil
}

func (f *fake) MoveSession(_ context.Context, _ time.Time, id job.ID, from []ledger.SessionState, to ledger.SessionState, beat int64) (_ bool, err error) {
	if err := f.enter("MoveSession"); err != nil {
		return false, err
	}
	defer f.leave("MoveSession", &err)
	s := f.sessions[id]
	if s == nil || !slices.Contains(from, s.State) || beat > 0 && s.Beat != beat {
		return false, nil
	}
	if s.State = to; to == ledger.SessionAbsent {
		delete(f.sessions, id)
	}
	return true, nil
}

func (f *fake) ListSessions(context.Context, bool) (out []ledger.Session, err error) {
	if err := f.enter("ListSessions"); err != nil {
		return nil, err
	}
	defer f.leave("ListSessions", &err)
	for _, s := range f.sessions {
		out = append(out, *s)
	}
	return out, nil
}

func (f *fake) Held(_ context.Context, sessions []job.ID) (out []ledger.Lease, err error) {
	if err := f.enter("Held"); err != nil {
		return nil, err
	}
	defer f.leave("Held", &err)
	return f.leases(func(j *job.Job) bool {
		return slices.Contains(sessions, j.Session) || len(sessions) == 0 && j.CancelRequested
	}), nil
}

func (f *fake) leases(which func(*job.Job) bool) (out []ledger.Lease) {
	for _, j := range f.jobs {
		if j.State == job.Running && which(j) {
			out = append(out, ledger.Lease{ID: j.ID, Session: j.Session, Token: j.Token, Call: j.Call, CancelRequested: j.CancelRequested})
		}
	}
	return out
}

func (f *fake) SetPaused(_ context.Context, _ time.Time, queue string, paused bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused[queue] = paused
	return nil
}

func (f *fake) Paused(context.Context) (out []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for q, p := range f.paused {
		if p {
			out = append(out, q)
		}
	}
	return out, nil
}

func (f *fake) Counts(context.Context) (out []ledger.Count, err error) {
	if err := f.enter("Counts"); err != nil {
		return nil, err
	}
	defer f.leave("Counts", &err)
	for _, j := range f.jobs {
		i := slices.IndexFunc(out, func(c ledger.Count) bool {
			return c.Queue == j.Queue && c.Kind == j.Kind && c.State == j.State
		})
		if i < 0 {
			out = append(out, ledger.Count{Queue: j.Queue, Kind: j.Kind, State: j.State})
			i = len(out) - 1
		}
		out[i].N++
	}
	return out, nil
}

func (f *fake) OldestReady(context.Context) (out []ledger.Oldest, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, j := range f.jobs {
		if j.State == job.Ready {
			out = append(out, ledger.Oldest{Queue: j.Queue, Kind: j.Kind, Since: j.RunAt})
		}
	}
	return out, nil
}

func (f *fake) Get(_ context.Context, ids []job.ID) (out []job.Job, err error) {
	if err := f.enter("Get"); err != nil {
		return nil, err
	}
	defer f.leave("Get", &err)
	for _, id := range ids {
		if j := f.jobs[id]; j != nil {
			out = append(out, *j)
		}
	}
	return out, nil
}

func (f *fake) List(context.Context, ledger.Query) ([]job.Job, error) { return nil, nil }

func (f *fake) CountDead(_ context.Context, _ ledger.DeadFilter, most int) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, j := range f.jobs {
		if j.State == job.Dead {
			n++
		}
	}
	return min(n, most), nil
}

func (f *fake) FoldStats(ctx context.Context, hour ledger.Hour, fn func(ledger.Sums) (ledger.Sums, error)) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.enter("FoldStats"); err != nil {
		return err
	}
	defer f.leave("FoldStats", &err)
	changed, err := fn(f.summed(func(of ledger.Hour, _ string) bool { return of == hour }))
	if err != nil {
		return err
	}
	for _, t := range changed.Tallies {
		f.sums.Tallies = slices.DeleteFunc(f.sums.Tallies, func(o ledger.Tally) bool {
			return o.Hour == t.Hour && o.Queue == t.Queue && o.Kind == t.Kind && o.Outcome == t.Outcome
		})
		f.sums.Tallies = append(f.sums.Tallies, t)
	}
	for _, t := range changed.Faults {
		f.sums.Faults = slices.DeleteFunc(f.sums.Faults, func(o ledger.Fault) bool {
			return o.Hour == t.Hour && o.Queue == t.Queue && o.Kind == t.Kind && o.Message == t.Message
		})
		f.sums.Faults = append(f.sums.Faults, t)
	}
	return nil
}

func (f *fake) ReadStats(_ context.Context, from ledger.Hour, queue string, tally func(ledger.Tally) bool, fault func(ledger.Fault) bool) error {
	if err := f.enter("ReadStats"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	got := f.summed(func(of ledger.Hour, q string) bool { return of >= from && (queue == "" || q == queue) })
	for _, t := range got.Tallies {
		if !tally(t) {
			return nil
		}
	}
	for _, one := range got.Faults {
		if fault == nil || !fault(one) {
			return nil
		}
	}
	return nil
}

// summed returns a copy of the sums that are wanted.
func (f *fake) summed(wanted func(ledger.Hour, string) bool) (out ledger.Sums) {
	for _, t := range f.sums.Tallies {
		if wanted(t.Hour, t.Queue) {
			out.Tallies = append(out.Tallies, t)
		}
	}
	for _, t := range f.sums.Faults {
		if wanted(t.Hour, t.Queue) {
			out.Faults = append(out.Faults, t)
		}
	}
	return out
}
