package ledgertest

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// world is one test's ledger, its clock and its hands.
type world struct {
	testing.TB
	ctx   context.Context
	l     ledger.Ledger
	now   time.Time // the clock that is handed to the ledger; starts at the ledger's own
	rules job.Rules
	suite suite
}

func newWorld(t testing.TB, s suite) *world {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	w := &world{TB: t, ctx: ctx, l: s.open(t), rules: fixedRules(), suite: s}
	now, err := w.l.Now(ctx)
	w.ok(err)
	w.now = now.UTC().Truncate(time.Microsecond)
	return w
}

// fixedRules draw no luck: two runs of one move make the same job.
func fixedRules() job.Rules { return job.DefaultRules(func() float64 { return 0.5 }) }

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatalf("unexpected error: %v", err)
	}
}

func (w *world) pass(d time.Duration) { w.now = w.now.Add(d) }

func newID() job.ID { return job.ID(uuid.Must(uuid.NewV7())) }

// job makes a ready job of queue q and kind k, changed by each of with.
func (w *world) job(with ...func(*job.Job)) job.Job {
	j := job.Job{
		ID: newID(), Queue: "q", Kind: "k", Payload: []byte(`{"n":1}`), ContentType: job.DefaultContentType,
		Priority: job.DefaultPriority, State: job.Ready, CreatedAt: w.now, RunAt: w.now, MaxAttempts: job.DefaultMaxAttempts, Version: 1,
	}
	j.Digest = int64(binary.BigEndian.Uint64(j.ID[8:]))
	for _, f := range with {
		f(&j)
	}
	j.Lane = job.Lane(j.Priority)
	return j
}

func kind(k string) func(*job.Job)  { return func(j *job.Job) { j.Kind = k } }
func queue(q string) func(*job.Job) { return func(j *job.Job) { j.Queue = q } }
func prio(p int) func(*job.Job)     { return func(j *job.Job) { j.Priority = p } }
func body(b []byte) func(*job.Job)  { return func(j *job.Job) { j.Payload = b } }
func tags(t ...string) func(*job.Job) {
	return func(j *job.Job) { j.Tags = t }
}
func at(t time.Time) func(*job.Job) {
	return func(j *job.Job) { j.State, j.RunAt = job.Scheduled, t }
}
func expires(t time.Time) func(*job.Job) { return func(j *job.Job) { j.ExpiresAt = t } }
func unique(key string, mode job.UniqueMode, window time.Duration) func(*job.Job) {
	return func(j *job.Job) { j.UniqueKey, j.UniqueMode, j.UniqueFor = key, mode, window }
}

func items(jobs ...job.Job) []ledger.Item {
	out := make([]ledger.Item, len(jobs))
	for i, j := range jobs {
		out[i] = ledger.Item{Job: j, Fresh: true}
	}
	return out
}

// insert stores jobs and expects each to be new.
func (w *world) insert(jobs ...job.Job) []job.ID {
	w.Helper()
	ids := make([]job.ID, len(jobs))
	for i, in := range w.tryInsert(items(jobs...)...) {
		if in.Outcome != ledger.InsertedNew || in.Holder != jobs[i].ID || in.State != jobs[i].State {
			w.Fatalf("item %d: %+v, want a new %s job %s", i, in, jobs[i].State, jobs[i].ID)
		}
		ids[i] = jobs[i].ID
	}
	return ids
}

func (w *world) tryInsert(its ...ledger.Item) []ledger.Inserted {
	w.Helper()
	out, err := w.l.Insert(w.ctx, w.now, its)
	w.ok(err)
	if len(out) != len(its) {
		w.Fatalf("%d answers to %d items", len(out), len(its))
	}
	return out
}

// many makes n ready jobs.
func (w *world) many(n int, with ...func(*job.Job)) []job.Job {
	jobs := make([]job.Job, n)
	for i := range jobs {
		jobs[i] = w.job(with...)
	}
	return jobs
}

func (w *world) session() job.ID {
	w.Helper()
	s := ledger.Session{ID: newID(), Worker: "test", Version: "v0", Queues: []string{"q"}, Concurrency: 10, TTL: 30 * time.Second,
		State: ledger.SessionLive, Beat: 1, OpenedAt: w.now, BeatAt: w.now}
	w.ok(w.l.OpenSession(w.ctx, s))
	return s.ID
}

// claim leases up to n jobs of queue q.
func (w *world) claim(session job.ID, n int, kinds ...string) []job.Job {
	w.Helper()
	return w.claimOf("q", session, n, kinds...)
}

func (w *world) claimOf(queue string, session job.ID, n int, kinds ...string) []job.Job {
	w.Helper()
	c := w.tryClaim(ledger.Claim{Session: session, Call: 1, Queue: queue, Kinds: kinds, Max: n, MaxBytes: job.MaxBatchBytes})[0]
	w.ok(c.Err)
	return c.Jobs
}

func (w *world) tryClaim(reqs ...ledger.Claim) []ledger.Claimed {
	w.Helper()
	out, err := w.l.Claim(w.ctx, w.now, reqs)
	w.ok(err)
	if len(out) != len(reqs) {
		w.Fatalf("%d answers to %d requests", len(out), len(reqs))
	}
	return out
}

// claimAll claims until nothing is left, and returns the ids in their order.
func (w *world) claimAll(session job.ID, kinds ...string) []job.ID {
	w.Helper()
	var ids []job.ID
	for {
		got := w.claim(session, 7, kinds...)
		if len(got) == 0 {
			return ids
		}
		ids = append(ids, idsOf(got)...)
	}
}

func idsOf(jobs []job.Job) []job.ID {
	out := make([]job.ID, len(jobs))
	for i, j := range jobs {
		out[i] = j.ID
	}
	return out
}

func (w *world) wantIDs(what string, got, want []job.ID) {
	w.Helper()
	if !slices.Equal(got, want) {
		w.Errorf("%s:\n got  %v\n want %v", what, got, want)
	}
}

func (w *world) wantSet(what string, got, want []job.ID) {
	w.Helper()
	byBytes := func(a, b job.ID) int { return slices.Compare(a[:], b[:]) }
	got, want = slices.Clone(got), slices.Clone(want)
	slices.SortFunc(got, byBytes)
	slices.SortFunc(want, byBytes)
	w.wantIDs(what, got, want)
}

// step moves one job through Apply.
func (w *world) step(id job.ID, m job.Move) ledger.Applied {
	w.Helper()
	m.Now = w.now
	return w.apply(ledger.Pick{IDs: []job.ID{id}, Wait: true}, func(j *job.Job) error { return w.rules.Step(j, m) })[0]
}

// must is step of a move that is allowed.
func (w *world) must(id job.ID, m job.Move) job.Job {
	w.Helper()
	a := w.step(id, m)
	w.ok(a.Err)
	return a.Job
}

// settle moves one job through Apply as its holder would.
func (w *world) settle(id job.ID, token int64, m job.Move) (repeated bool, err error) {
	w.Helper()
	m.Now = w.now
	a := w.apply(ledger.Pick{IDs: []job.ID{id}, Wait: true}, func(j *job.Job) error {
		var err error
		repeated, err = w.rules.Settle(j, token, m)
		return err
	})[0]
	return repeated, a.Err
}

func (w *world) apply(p ledger.Pick, fn func(*job.Job) error) []ledger.Applied {
	w.Helper()
	out, err := w.l.Apply(w.ctx, w.now, p, fn)
	w.ok(err)
	if p.IDs != nil && len(out) != len(p.IDs) {
		w.Fatalf("%d answers to %d ids", len(out), len(p.IDs))
	}
	return out
}

// stepAll moves every job of a pick.
func (w *world) stepAll(p ledger.Pick, e job.Event) []job.ID {
	w.Helper()
	var ids []job.ID
	for _, a := range w.apply(p, func(j *job.Job) error { return w.rules.Step(j, job.Move{Event: e, Now: w.now}) }) {
		w.ok(a.Err)
		ids = append(ids, a.Job.ID)
	}
	return ids
}

// succeed settles and tells of each item whether it was the one that did.
func (w *world) succeed(its ...ledger.Success) []bool {
	w.Helper()
	out, err := w.l.Succeed(w.ctx, w.now, its)
	w.ok(err)
	if len(out) != len(its) {
		w.Fatalf("%d answers to %d items", len(out), len(its))
	}
	ok := make([]bool, len(out))
	for i, s := range out {
		if ok[i] = s.OK; !s.OK && s != (ledger.Succeeded{}) {
			w.Errorf("item %d was refused, and the answer is %+v", i, s)
		}
	}
	return ok
}

// done succeeds jobs that are held.
func (w *world) done(jobs ...job.Job) {
	w.Helper()
	its := make([]ledger.Success, len(jobs))
	for i, j := range jobs {
		its[i] = ledger.Success{ID: j.ID, Token: j.Token}
	}
	if got := w.succeed(its...); slices.Contains(got, false) {
		w.Fatalf("succeed: %v", got)
	}
}

func (w *world) get(id job.ID) job.Job {
	w.Helper()
	jobs, err := w.l.Get(w.ctx, []job.ID{id})
	w.ok(err)
	if len(jobs) != 1 {
		w.Fatalf("get %s: %d jobs", id, len(jobs))
	}
	return jobs[0]
}

func (w *world) gone(id job.ID) {
	w.Helper()
	jobs, err := w.l.Get(w.ctx, []job.ID{id})
	w.ok(err)
	if len(jobs) != 0 {
		w.Errorf("get %s: still there: %+v", id, jobs)
	}
}

// inState makes a job and brings it there the way every job gets there.
func (w *world) inState(s job.State, with ...func(*job.Job)) job.Job {
	w.Helper()
	if s == job.Scheduled {
		with = append(with, at(w.now.Add(time.Hour)))
	}
	j := w.job(with...)
	w.insert(j)
	switch s {
	case job.Running:
		w.lease(j)
	case job.Succeeded:
		w.done(w.lease(j))
	case job.Dead:
		w.lease(j)
		w.must(j.ID, job.Move{Event: job.Discard, Failure: job.Failure{Message: "no good", Stack: "at main", Worker: "w1"}})
	case job.Cancelled:
		w.must(j.ID, job.Move{Event: job.Cancel})
	}
	return w.get(j.ID)
}

// lease claims exactly j.
func (w *world) lease(j job.Job) job.Job {
	w.Helper()
	got := w.claimOf(j.Queue, w.session(), 1, j.Kind)
	if len(got) != 1 || got[0].ID != j.ID {
		w.Fatalf("claim: got %v, want %s", idsOf(got), j.ID)
	}
	return got[0]
}

// all lists every job kept, page by page.
func (w *world) all() []job.Job {
	w.Helper()
	var out []job.Job
	q := ledger.Query{Limit: job.MaxPage}
	for {
		page, err := w.l.List(w.ctx, q)
		w.ok(err)
		out = append(out, page...)
		if len(page) < q.Limit {
			return out
		}
		q.After = page[len(page)-1].ID
	}
}

func (w *world) counts() map[countKey]int64 {
	w.Helper()
	cs, err := w.l.Counts(w.ctx)
	w.ok(err)
	out := map[countKey]int64{}
	for _, c := range cs {
		k := countKey{c.Queue, c.Kind, c.State}
		if _, twice := out[k]; twice {
			w.Errorf("Counts names %v twice", k)
		}
		if c.N != 0 {
			out[k] = c.N
		}
	}
	return out
}

// audit checks what holds after every test: the counters equal the jobs.
func (w *world) audit() {
	w.Helper()
	if got, want := w.counts(), tally(w.all()); !maps.Equal(got, want) {
		w.Errorf("the counters are not the jobs kept:\n counters %v\n jobs     %v", got, want)
	}
}
