package ledgertest

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// How long the random test is, unless flags of rapid say so: "go test" stays
// within seconds, a soak sets more.
const (
	checksVar = "ERRAND_MODEL_CHECKS" // sequences; 5 by default
	stepsVar  = "ERRAND_MODEL_STEPS"  // operations in each, on average; 60 by default
)

// model runs random sequences of all operations against the ledger and the
// model, and compares every answer and, after every operation, everything kept.
func (s suite) model(t *testing.T) {
	setUnlessGiven(t, "rapid.checks", cmp.Or(os.Getenv(checksVar), "5"))
	setUnlessGiven(t, "rapid.steps", cmp.Or(os.Getenv(stepsVar), "60"))
	setUnlessGiven(t, "rapid.nofailfile", "true") // the seed that is printed repeats a failure
	rapid.Check(t, func(rt *rapid.T) {
		r := newRandom(t, rt, s)
		defer r.close()
		rt.Repeat(map[string]func(*rapid.T){
			"":         func(*rapid.T) { r.compare() },
			"insert":   r.insert,
			"insert2":  r.insert,
			"open":     r.openSession,
			"beat":     r.beat,
			"move":     r.moveSession,
			"claim":    r.claim,
			"claim2":   r.claim,
			"heads":    r.heads,
			"relay":    r.holdRelay,
			"route":    r.route,
			"succeed":  r.succeed,
			"apply":    r.applyIDs,
			"settle":   r.settle,
			"settle2":  r.settle,
			"pick":     r.applyPick,
			"dead":     r.applyDead,
			"pause":    r.pause,
			"upkeep":   r.upkeep,
			"read":     r.read,
			"handover": r.handover,
		})
	})
}

// givenFlags are those of the command line: to set one makes it look as if it had been given there.
var givenFlags = sync.OnceValue(func() map[string]bool {
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	return given
})

// setUnlessGiven sets a flag of the test binary for the time of t.
func setUnlessGiven(t *testing.T, name, value string) {
	if givenFlags()[name] {
		return
	}
	old := flag.Lookup(name).Value.String()
	if err := flag.Set(name, value); err != nil {
		t.Fatalf("set -%s to %q: %v", name, value, err)
	}
	t.Cleanup(func() { _ = flag.Set(name, old) }) // it was valid before
}

// random is a ledger and its model under one random sequence.
type random struct {
	*world
	m       *model
	handles []ledger.Ledger
	ids     []job.ID // every job that was ever inserted
	open    []job.ID // every session that was ever opened
	lastSeq int64    // the largest that the ledger has drawn
	upkept  time.Time
}

// failing sends failures to rapid, which looks for a shorter sequence.
type failing struct {
	testing.TB
	rt *rapid.T
}

func (f failing) Helper()                      {}
func (f failing) Failed() bool                 { return f.rt.Failed() }
func (f failing) FailNow()                     { f.rt.FailNow() }
func (f failing) Fatal(args ...any)            { f.rt.Fatal(args...) }
func (f failing) Error(args ...any)            { f.rt.Error(args...) }
func (f failing) Logf(s string, args ...any)   { f.rt.Logf(s, args...) }
func (f failing) Fatalf(s string, args ...any) { f.rt.Fatalf(s, args...) }
func (f failing) Errorf(s string, args ...any) { f.rt.Errorf(s, args...) }

func newRandom(t *testing.T, rt *rapid.T, s suite) *random {
	w := newWorld(failing{t, rt}, s)
	r := &random{world: w, m: newModel(w.rules, fresh), handles: []ledger.Ledger{w.l}, upkept: w.now}
	if s.features.Second != nil {
		r.handles = append(r.handles, s.features.Second(w.TB, w.l))
	}
	r.ok2(w.l.Upkeep(w.ctx, w.now, ledger.DefaultKeep))
	return r
}

func (r *random) close() {
	for _, l := range r.handles {
		r.ok(l.Close())
	}
}

func (r *random) ok2(_ any, err error) { r.Helper(); r.ok(err) }

// begin is the start of every operation: some time passes, never none, so that
// no two operations fall on one moment.
func (r *random) begin(t *rapid.T) {
	r.pass(rapid.SampledFrom([]time.Duration{time.Microsecond, time.Millisecond, time.Second, time.Minute, 20 * time.Minute}).Draw(t, "pass") + time.Microsecond)
	if r.now.Sub(r.upkept) > 40*time.Minute {
		r.keep(ledger.DefaultKeep)
	}
}

func (r *random) someID(t *rapid.T) job.ID {
	if len(r.ids) == 0 || rapid.IntRange(0, 19).Draw(t, "nobody") == 0 {
		return newID()
	}
	return rapid.SampledFrom(r.ids).Draw(t, "id")
}

// someJob draws a job in a state, if there is one.
func (r *random) someJob(t *rapid.T, s job.State) (job.Job, bool) {
	jobs := r.m.where(func(j *job.Job) bool { return j.State == s })
	if len(jobs) == 0 {
		return job.Job{}, false
	}
	return jobs[rapid.IntRange(0, len(jobs)-1).Draw(t, "job")], true
}

func (r *random) someSession(t *rapid.T) job.ID {
	if len(r.open) == 0 || rapid.IntRange(0, 19).Draw(t, "nobody") == 0 {
		return newID()
	}
	return rapid.SampledFrom(r.open[max(len(r.open)-4, 0):]).Draw(t, "session")
}

func (r *random) insert(t *rapid.T) {
	r.begin(t)
	its := make([]ledger.Item, rapid.IntRange(0, 6).Draw(t, "items"))
	for i := range its {
		its[i] = r.item(t)
	}
	got, err := r.l.Insert(r.ctx, r.now, its)
	r.ok(err)
	want, err := r.m.Insert(r.ctx, r.now, its)
	r.ok(err)
	for i := range want {
		if want[i].State == 0 {
			got[i].State = 0 // a later item of the call may have made that job anew
		}
		if got[i] != want[i] {
			r.Fatalf("insert, item %d: %+v, want %+v", i, got[i], want[i])
		}
	}
}

func (r *random) item(t *rapid.T) ledger.Item {
	j := r.job(queue(rapid.SampledFrom([]string{"q", "r"}).Draw(t, "queue")), kind(rapid.SampledFrom([]string{"k0", "k1", "k2"}).Draw(t, "kind")),
		prio(rapid.IntRange(0, 2).Draw(t, "priority")), body(make([]byte, rapid.IntRange(1, 300).Draw(t, "bytes"))))
	j.MaxAttempts = rapid.IntRange(1, 4).Draw(t, "attempts")
	j.Digest = int64(rapid.IntRange(0, 1).Draw(t, "digest"))
	if rapid.IntRange(0, 2).Draw(t, "scheduled") == 0 {
		j.State, j.RunAt = job.Scheduled, r.now.Add(time.Duration(rapid.IntRange(0, 3600).Draw(t, "in"))*time.Second)
	}
	if rapid.IntRange(0, 4).Draw(t, "expires") == 0 {
		j.ExpiresAt = r.now.Add(time.Duration(rapid.IntRange(1, 3600).Draw(t, "expires in")) * time.Second)
	}
	if mode := rapid.SampledFrom([]job.UniqueMode{0, 0, 0, 1, 2, 3}).Draw(t, "mode"); mode != job.NotUnique {
		j.UniqueMode, j.UniqueKey = mode, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key")
		if mode == job.ForWindow {
			j.UniqueFor = time.Duration(rapid.IntRange(1, 3600).Draw(t, "window")) * time.Second
		}
	}
	it := ledger.Item{Job: j, Fresh: true}
	if rapid.IntRange(0, 5).Draw(t, "repeat") == 0 {
		it.Job.ID, it.Fresh = r.someID(t), false
	}
	if rapid.IntRange(0, 5).Draw(t, "idempotent") == 0 {
		it.Caller, it.IdempotencyKey = "c", rapid.SampledFrom([]string{"x", "y"}).Draw(t, "idempotency key")
	}
	if !slices.Contains(r.ids, it.Job.ID) {
		r.ids = append(r.ids, it.Job.ID)
	}
	return it
}

func (r *random) openSession(t *rapid.T) {
	r.begin(t)
	s := ledger.Session{ID: newID(), Worker: "w", TTL: time.Second, State: ledger.SessionLive, Beat: 1, OpenedAt: r.now, BeatAt: r.now}
	r.ok(r.l.OpenSession(r.ctx, s))
	r.ok(r.m.OpenSession(r.ctx, s))
	r.open = append(r.open, s.ID)
}

func (r *random) beat(t *rapid.T) {
	r.begin(t)
	ids := []job.ID{r.someSession(t), newID()}
	got, err := r.l.Beat(r.ctx, r.now, ids)
	r.ok(err)
	want, _ := r.m.Beat(r.ctx, r.now, ids)
	for i := range want {
		if got[i].State != want[i].State || !sameSet(got[i].Held, want[i].Held) {
			r.Fatalf("beat: %+v, want %+v", got, want)
		}
	}
}

func (r *random) moveSession(t *rapid.T) {
	r.begin(t)
	states := []ledger.SessionState{ledger.SessionLive, ledger.SessionDraining, ledger.SessionDead, ledger.SessionDrained}
	id, beat := r.someSession(t), int64(rapid.IntRange(0, 2).Draw(t, "beat"))
	from := states[:rapid.IntRange(0, len(states)).Draw(t, "from")]
	to := rapid.SampledFrom([]ledger.SessionState{ledger.SessionDraining, ledger.SessionDead, ledger.SessionDrained, ledger.SessionAbsent}).Draw(t, "to")
	if to == ledger.SessionDraining { // nobody wakes a session that has ended
		from = from[:min(len(from), 1)]
	}
	got, err := r.l.MoveSession(r.ctx, r.now, id, from, to, beat)
	r.ok(err)
	if want, _ := r.m.MoveSession(r.ctx, r.now, id, from, to, beat); got != want {
		r.Fatalf("move %s from %v to %s at beat %d: %v, want %v", id, from, to, beat, got, want)
	}
}

func (r *random) claim(t *rapid.T) {
	r.begin(t)
	reqs := make([]ledger.Claim, rapid.IntRange(1, 3).Draw(t, "requests"))
	// Those of one queue are served in their order if they are for the same kinds.
	kinds := map[string][]string{}
	for _, q := range []string{"q", "r"} {
		kinds[q] = rapid.SampledFrom([][]string{nil, {"k0"}, {"k2", "k1"}, {"k1", "nosuch"}}).Draw(t, "kinds")
	}
	for i := range reqs {
		q := rapid.SampledFrom([]string{"q", "r"}).Draw(t, "queue")
		reqs[i] = ledger.Claim{Session: r.someSession(t), Call: int64(i + 1), Queue: q, Kinds: kinds[q],
			Max: rapid.IntRange(0, 6).Draw(t, "max"), MaxBytes: rapid.SampledFrom([]int{1, 200, 600, 1 << 20}).Draw(t, "bytes")}
		switch rapid.IntRange(0, 4).Draw(t, "way") {
		case 0, 1:
			reqs[i].Refs = r.refs(t)
		case 2:
			reqs[i].SuspectsOnly = true
		}
	}
	got, err := r.l.Claim(r.ctx, r.now, reqs)
	r.ok(err)
	queue := r.m.where(func(j *job.Job) bool { return j.State == job.Ready })
	want, _ := r.m.Claim(r.ctx, r.now, reqs)
	for i := range want {
		if !slices.Equal(idsOf(got[i].Jobs), idsOf(want[i].Jobs)) {
			r.Logf("the ready jobs before it:%s", describe(queue))
		}
		r.wantIDs(fmt.Sprintf("claim %+v", reqs[i]), idsOf(got[i].Jobs), idsOf(want[i].Jobs))
		if (got[i].Err == nil) != (want[i].Err == nil) || r.Failed() {
			r.Fatalf("claim %d: %v, want %v", i, got[i].Err, want[i].Err)
		}
		for n, j := range want[i].Jobs {
			r.wantJob("claimed", got[i].Jobs[n], j)
		}
	}
}

// describe tells of each job what decides who gets it.
func describe(jobs []job.Job) string {
	slices.SortFunc(jobs, func(a, b job.Job) int {
		return cmp.Or(cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Lane, b.Lane), cmp.Compare(a.Seq, b.Seq))
	})
	s := ""
	for _, j := range jobs {
		s += fmt.Sprintf("\n  %s %s/%s lane %d seq %d, %d bytes, expires %s", j.ID, j.Queue, j.Kind, j.Lane, j.Seq, len(j.Payload), stamp(j.ExpiresAt))
	}
	return s
}

func (r *random) succeed(t *rapid.T) {
	r.begin(t)
	var its []ledger.Success
	named := map[job.ID]bool{}
	for range rapid.IntRange(0, 4).Draw(t, "items") {
		j, ok := r.someJob(t, job.Running)
		if !ok || named[j.ID] {
			continue
		}
		named[j.ID] = true
		its = append(its, ledger.Success{ID: j.ID, Token: j.Token - int64(rapid.IntRange(0, 4).Draw(t, "stale")/4), Result: []byte("r")})
	}
	its = append(its, ledger.Success{ID: newID(), Token: 1})
	got, err := r.l.Succeed(r.ctx, r.now, its)
	r.ok(err)
	if want, _ := r.m.Succeed(r.ctx, r.now, its); !slices.EqualFunc(got, want, sameSucceeded) {
		r.Fatalf("succeed %+v: %v, want %v", its, got, want)
	}
}

// both applies fn to the ledger and to the model, and compares the answers:
// as a list where the pick fixes the order, else by id.
func (r *random) both(p ledger.Pick, fn func(*job.Job) error) {
	r.Helper()
	got, err := r.l.Apply(r.ctx, r.now, p, fn)
	r.ok(err)
	want, _ := r.m.Apply(r.ctx, r.now, p, fn)
	if p.IDs == nil {
		byID := func(a, b ledger.Applied) int { return slices.Compare(a.Job.ID[:], b.Job.ID[:]) }
		slices.SortFunc(got, byID)
		slices.SortFunc(want, byID)
	}
	if len(got) != len(want) {
		r.Fatalf("apply %+v: %d answers, want %d", p, len(got), len(want))
	}
	for i, x := range want {
		if job.ReasonOf(got[i].Err) != job.ReasonOf(x.Err) || holderOf(got[i].Err) != holderOf(x.Err) || got[i].From != x.From {
			r.Fatalf("apply %+v, answer %d: from %s, %v; want from %s, %v", p, i, got[i].From, got[i].Err, x.From, x.Err)
		}
		if x.Err == nil || x.From != 0 {
			r.wantJob(fmt.Sprintf("apply %+v, answer %d", p, i), got[i].Job, undrawn(x.Job))
		}
	}
}

// undrawn takes away a Seq that the model drew in this operation: the
// ledger's own has another value.
func undrawn(j job.Job) job.Job {
	if j.Seq >= fresh {
		j.Seq = 0
	}
	return j
}

func (r *random) stepBoth(p ledger.Pick, m job.Move) {
	r.Helper()
	m.Now = r.now
	r.both(p, func(j *job.Job) error { return r.rules.Step(j, m) })
}

func (r *random) applyIDs(t *rapid.T) {
	r.begin(t)
	m := job.Move{Event: rapid.SampledFrom(append(events, job.Cancel, job.Cancel, job.Redrive)).Draw(t, "event"), Session: r.someSession(t), Call: 9,
		Delay: time.Duration(rapid.IntRange(0, 2).Draw(t, "delay")) * time.Minute, Failure: job.Failure{Message: "m", Worker: "w"}}
	ids := []job.ID{r.someID(t)}
	for range rapid.IntRange(0, 2).Draw(t, "more") {
		// Two redrives of one call may want one key: either may win.
		if id := r.someID(t); m.Event != job.Redrive && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	r.stepBoth(ledger.Pick{IDs: ids, Wait: rapid.Bool().Draw(t, "wait")}, m)
}

func (r *random) settle(t *rapid.T) {
	r.begin(t)
	j, ok := r.someJob(t, rapid.SampledFrom([]job.State{job.Running, job.Running, job.Running, job.Running, job.Scheduled, job.Succeeded, job.Dead}).Draw(t, "state"))
	if !ok {
		t.Skip("no such job")
	}
	token := j.Token - int64(rapid.IntRange(0, 4).Draw(t, "stale")/4)
	m := job.Move{Event: rapid.SampledFrom(events[2:7]).Draw(t, "event"), Now: r.now, Result: []byte("r"), Failure: job.Failure{Message: "m"},
		Delay: time.Duration(rapid.IntRange(0, 2).Draw(t, "delay")) * time.Minute}
	r.both(ledger.Pick{IDs: []job.ID{j.ID}, Wait: true}, func(j *job.Job) error { _, err := r.rules.Settle(j, token, m); return err })
}

func (r *random) applyPick(t *rapid.T) {
	r.begin(t)
	switch rapid.IntRange(0, 3).Draw(t, "pick") {
	case 0:
		r.stepBoth(ledger.Pick{Due: r.now, Limit: 1000}, job.Move{Event: job.Due})
	case 1:
		r.stepBoth(ledger.Pick{Expired: r.now, Limit: 1000}, job.Move{Event: job.Expire})
	case 2:
		r.stepBoth(ledger.Pick{Orphans: ledger.SessionDead, Limit: 1000}, job.Move{Event: job.Crash, Failure: job.Failure{Message: "died"}})
	case 3:
		r.stepBoth(ledger.Pick{Orphans: ledger.SessionDrained, Limit: 1000}, job.Move{Event: job.Release})
	}
}

func (r *random) deadFilter(t *rapid.T) ledger.DeadFilter {
	return ledger.DeadFilter{Queue: rapid.SampledFrom([]string{"", "q"}).Draw(t, "queue"), Kind: rapid.SampledFrom([]string{"", "k1"}).Draw(t, "kind"),
		Error: rapid.SampledFrom([]string{"", "m", "died", "M"}).Draw(t, "error")}
}

func (r *random) applyDead(t *rapid.T) {
	r.begin(t)
	f := r.deadFilter(t)
	m := job.Move{Event: rapid.SampledFrom([]job.Event{job.Delete, job.Cancel, job.Expire}).Draw(t, "event")}
	r.stepBoth(ledger.Pick{Dead: &f, Limit: 1000}, m)
}

func (r *random) pause(t *rapid.T) {
	r.begin(t)
	on := rapid.IntRange(0, 2).Draw(t, "paused") == 0
	r.ok(r.l.SetPaused(r.ctx, r.now, "r", on))
	r.ok(r.m.SetPaused(r.ctx, r.now, "r", on))
}

func (r *random) upkeep(t *rapid.T) {
	r.begin(t)
	if rapid.IntRange(0, 5).Draw(t, "much later") == 0 {
		r.pass(9 * time.Hour)
	}
	keep := ledger.DefaultKeep
	keep.Dead = rapid.SampledFrom([]time.Duration{0, 5 * time.Hour}).Draw(t, "keep dead")
	r.keep(keep)
}

// keep does the upkeep. A ledger may keep an archived job longer than asked,
// because its slice is dropped whole, but never shorter.
func (r *random) keep(keep ledger.Keep) {
	r.Helper()
	r.upkept = r.now
	got, err := r.l.Upkeep(r.ctx, r.now, keep)
	r.ok(err)
	old := r.m.where(func(j *job.Job) bool { return j.State == job.Succeeded || j.State == job.Cancelled })
	want, _ := r.m.Upkeep(r.ctx, r.now, keep)
	for _, j := range old {
		if kept, err := r.l.Get(r.ctx, []job.ID{j.ID}); err != nil || len(kept) > 0 {
			r.ok(err)
			r.m.jobs[j.ID] = j
		}
	}
	if got.DeadRemoved != want.DeadRemoved || got.SessionsGone != want.SessionsGone {
		r.Fatalf("upkeep: %+v, want %+v", got, want)
	}
}

func (r *random) read(t *rapid.T) {
	f := r.deadFilter(t)
	gotN, err := r.l.CountDead(r.ctx, f, 3)
	r.ok(err)
	if wantN, _ := r.m.CountDead(r.ctx, f, 3); gotN != wantN {
		r.Fatalf("count dead %+v: %d, want %d", f, gotN, wantN)
	}
	q := ledger.Query{Queue: f.Queue, Kind: f.Kind, State: job.State(rapid.IntRange(0, 6).Draw(t, "state")), After: r.someID(t),
		Limit: rapid.IntRange(1, 20).Draw(t, "limit")}
	got, err := r.l.List(r.ctx, q)
	r.ok(err)
	want, _ := r.m.List(r.ctx, q)
	r.wantIDs(fmt.Sprintf("list %+v", q), idsOf(got), idsOf(want))
	var sessions []job.ID
	if rapid.Bool().Draw(t, "of sessions") {
		sessions = []job.ID{r.someSession(t), r.someSession(t)}
	}
	gotHeld, err := r.l.Held(r.ctx, sessions)
	r.ok(err)
	wantHeld, _ := r.m.Held(r.ctx, sessions)
	if !sameSet(gotHeld, wantHeld) {
		r.Fatalf("held by %v: %+v, want %+v", sessions, gotHeld, wantHeld)
	}
}

func sameSet[T comparable](a, b []T) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(x T) bool { return !slices.Contains(b, x) })
}

// handover goes on with another handle, or with the same store after a restart.
func (r *random) handover(t *rapid.T) {
	switch {
	case len(r.handles) > 1:
		r.l = r.handles[rapid.IntRange(0, len(r.handles)-1).Draw(t, "handle")]
	case r.suite.features.Reopen != nil && rapid.IntRange(0, 2).Draw(t, "restart") == 0:
		r.l = r.suite.features.Reopen(r.TB, r.l)
		r.handles[0] = r.l
		// Numbers may start anew behind those of jobs that have left the queue.
		r.lastSeq = 0
		for _, j := range r.m.jobs {
			if !j.State.Final() {
				r.lastSeq = max(r.lastSeq, j.Seq)
			}
		}
	}
}
