package ledgertest

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var namedTests = []test{
	{"LeasesByTheRules", nil, namedByRules},
	{"InTheOrderOfRefs", nil, namedOrder},
	{"OthersChangeNothing", nil, namedOthers},
	{"SuspectsAreNotGiven", nil, namedSuspects},
	{"ExpiredAreNotGiven", nil, namedExpired},
	{"AtMostMax", nil, namedMax},
	{"MaxBytes", nil, namedMaxBytes},
	{"NamedTwice", nil, namedTwice},
	{"LostSessions", nil, namedLost},
	{"PausedGivesNothing", nil, namedPaused},
	{"FreesKeysThatEndWithTheLease", nil, namedKeys},
	{"ManyRequestsInOneCall", nil, namedMany},
	{"BesideOtherClaims", nil, namedMixed},
	{"EarlierJobsAreStillFound", nil, namedMarks},
	{"GivenOnceHoweverOftenDelivered", nil, func(w *world) { deliverTogether(w, []ledger.Ledger{w.l}) }},
	{"GivenOnceOverHandles", hasSecond, func(w *world) { deliverTogether(w, []ledger.Ledger{w.l, w.second()}) }},
	{"NobodyWaitsForALockedRow", hasSecond, namedLocked},
	{"SuspectsOnly", nil, suspectsOnly},
}

// refsOf names ready jobs as Heads would.
func (w *world) refsOf(jobs ...job.Job) []ledger.Ref {
	w.Helper()
	refs := make([]ledger.Ref, len(jobs))
	for i, j := range jobs {
		refs[i] = refOf(w.get(j.ID))
	}
	return refs
}

// byName is a request for jobs of queue q.
func byName(session job.ID, refs ...ledger.Ref) ledger.Claim {
	return ledger.Claim{Session: session, Call: 1, Queue: "q", Max: len(refs), MaxBytes: job.MaxBatchBytes, Refs: refs}
}

// take claims by name.
func (w *world) take(session job.ID, refs ...ledger.Ref) []job.Job {
	w.Helper()
	got := w.tryClaim(byName(session, refs...))[0]
	w.ok(got.Err)
	return got.Jobs
}

func namedByRules(w *world) {
	j := fullJob(w)
	j.State, j.RunAt = job.Ready, w.now
	w.insert(j)
	w.pass(3 * time.Microsecond)
	s := w.session()
	c := ledger.Claim{Session: s, Call: 42, Queue: "mail", Kinds: []string{"other", "send"}, Max: 5, MaxBytes: 1 << 20, Refs: w.refsOf(j)}
	got := w.tryClaim(c)[0]
	w.ok(got.Err)
	if len(got.Jobs) != 1 {
		w.Fatalf("%d jobs", len(got.Jobs))
	}
	want := j
	want.Seq = w.get(j.ID).Seq
	w.ok(w.rules.Step(&want, job.Move{Event: job.Lease, Now: w.now, Session: s, Call: 42}))
	w.wantJob("answer", got.Jobs[0], want)
	w.wantJob("stored", w.get(j.ID), want)
	if again := w.tryClaim(c)[0]; len(again.Jobs) != 0 {
		w.Errorf("leased twice: %v", idsOf(again.Jobs))
	}
}

func namedOrder(w *world) {
	var jobs []job.Job
	for i := range 400 {
		jobs = append(jobs, w.job(prio(i%10), kind(fmt.Sprint("k", i%3))))
	}
	w.insert(jobs...)
	slices.SortFunc(jobs, func(a, b job.Job) int { return slices.Compare(a.ID[8:], b.ID[8:]) }) // by chance
	w.wantIDs("order", idsOf(w.take(w.session(), w.refsOf(jobs...)...)), idsOf(jobs))
}

// namedOthers names jobs in every state, with every token near theirs, and jobs
// of another queue or kind, between two that may be had.
func namedOthers(w *world) {
	first, last := w.job(), w.job()
	w.insert(first)
	refs := w.refsOf(first)
	var kept []job.Job
	for s := job.Scheduled; s <= job.Cancelled; s++ {
		j := w.inState(s, kind("k"+s.String()))
		kept = append(kept, j)
		for _, token := range []int64{-1, 0, j.Token - 1, j.Token, j.Token + 1, 1 << 62} {
			if s != job.Ready || token != j.Token {
				refs = append(refs, ledger.Ref{ID: j.ID, Token: token, Kind: j.Kind, Lane: j.Lane, Seq: j.Seq})
			}
		}
	}
	elsewhere, other := w.job(queue("elsewhere")), w.job(kind("other"))
	w.insert(elsewhere, other, last)
	kept = append(kept, w.get(elsewhere.ID), w.get(other.ID))
	refs = append(refs, w.refsOf(elsewhere, other)...)
	refs = append(refs, ledger.Ref{ID: newID()}, ledger.Ref{})
	refs = append(refs, w.refsOf(last)...)
	c := byName(w.session(), refs...)
	c.Kinds = []string{"k", "kscheduled", "kready", "krunning", "ksucceeded", "kdead", "kcancelled"}
	got := w.tryClaim(c)[0]
	w.ok(got.Err)
	w.wantIDs("given", idsOf(got.Jobs), []job.ID{first.ID, last.ID})
	for _, j := range kept {
		w.wantJob("untouched "+j.State.String(), w.get(j.ID), j)
	}
}

func namedSuspects(w *world) {
	suspect, good := w.crashed(1)[0], w.job()
	w.insert(good)
	was := w.get(suspect.ID)
	w.wantIDs("given", idsOf(w.take(w.session(), w.refsOf(suspect, good)...)), []job.ID{good.ID})
	w.wantJob("the suspect", w.get(suspect.ID), was)
}

func namedExpired(w *world) {
	gone, edge := w.job(expires(w.now.Add(time.Second))), w.job(expires(w.now.Add(2*time.Second)))
	still := w.job(expires(w.now.Add(2*time.Second + time.Microsecond)))
	w.insert(gone, edge, still)
	refs := w.refsOf(gone, edge, still)
	w.pass(2 * time.Second)
	w.wantIDs("given", idsOf(w.take(w.session(), refs...)), []job.ID{still.ID})
}

func namedMax(w *world) {
	jobs := w.many(5)
	w.insert(jobs...)
	refs := w.refsOf(jobs...)
	s := w.session()
	w.take(s, refs[1])
	c := byName(s, refs...)
	for _, c.Max = range []int{-1, 0} {
		if got := w.tryClaim(c)[0]; len(got.Jobs) != 0 {
			w.Errorf("at most %d: %v", c.Max, idsOf(got.Jobs))
		}
	}
	c.Max = 2
	w.wantIDs("the first two of those that are left", idsOf(w.tryClaim(c)[0].Jobs), []job.ID{jobs[0].ID, jobs[2].ID})
	w.wantIDs("the next two", idsOf(w.tryClaim(c)[0].Jobs), []job.ID{jobs[3].ID, jobs[4].ID})
}

func namedMaxBytes(w *world) {
	var jobs []job.Job
	for _, size := range []int{500, 60, 40, 1} {
		jobs = append(jobs, w.job(body(make([]byte, size))))
	}
	w.insert(jobs...)
	c := byName(w.session(), w.refsOf(jobs...)...)
	c.MaxBytes = 100
	for _, want := range [][]job.Job{jobs[:1], jobs[1:3], jobs[3:]} {
		w.wantIDs("within 100 bytes", idsOf(w.tryClaim(c)[0].Jobs), idsOf(want))
	}
}

// namedTwice names jobs twice: in one request, and in requests of one call, of
// which the first that may have it gets it.
func namedTwice(w *world) {
	jobs := w.many(4)
	w.insert(jobs...)
	refs := w.refsOf(jobs...)
	a, b, s := refs[0], refs[1], w.session()
	full := byName(s, refs[2], a)
	full.Max = 1
	elsewhere := byName(s, b)
	elsewhere.Queue = "elsewhere"
	got := w.tryClaim(full, byName(s, a, a, refs[3], a), elsewhere, byName(s, b, a, b), byName(s, a, b))
	for i, want := range [][]job.ID{{jobs[2].ID}, {jobs[0].ID, jobs[3].ID}, nil, {jobs[1].ID}, nil} {
		w.wantIDs(fmt.Sprint("request ", i), idsOf(got[i].Jobs), want)
	}
}

func namedLost(w *world) {
	j := w.job()
	w.insert(j)
	refs := w.refsOf(j)
	for _, state := range []ledger.SessionState{ledger.SessionDraining, ledger.SessionDead, ledger.SessionDrained, ledger.SessionAbsent} {
		s := w.session()
		w.move(s, state)
		got := w.tryClaim(byName(s, refs...))[0]
		if job.ReasonOf(got.Err) != job.ReasonSessionLost || len(got.Jobs) != 0 {
			w.Errorf("%s: %v, %v", state, idsOf(got.Jobs), got.Err)
		}
	}
	w.wantIDs("a live session", idsOf(w.take(w.session(), refs...)), []job.ID{j.ID})
}

func namedPaused(w *world) {
	j := w.job()
	w.insert(j)
	refs, s := w.refsOf(j), w.session()
	w.ok(w.l.SetPaused(w.ctx, w.now, "q", true))
	if got := w.take(s, refs...); len(got) != 0 {
		w.Errorf("a paused queue gave %v", idsOf(got))
	}
	w.ok(w.l.SetPaused(w.ctx, w.now, "q", false))
	w.wantIDs("resumed", idsOf(w.take(s, refs...)), []job.ID{j.ID})
}

func namedKeys(w *world) {
	while, until := w.job(unique("a", job.WhileQueued, 0)), w.job(unique("b", job.UntilDone, 0))
	w.insert(while, until)
	if got := w.take(w.session(), w.refsOf(until, while)...); len(got) != 2 {
		w.Fatalf("%d jobs", len(got))
	}
	again := w.tryInsert(items(w.job(unique("a", job.WhileQueued, 0)), w.job(unique("b", job.UntilDone, 0)))...)
	if again[0].Outcome != ledger.InsertedNew || again[1].Outcome != ledger.UniqueHeld || again[1].Holder != until.ID {
		w.Errorf("keys after the lease: %+v", again)
	}
}

// namedMany gives each of many sessions what it named, in one call.
func namedMany(w *world) {
	const sessions, each = 40, 7
	jobs := w.many(sessions*each, payload100)
	w.insert(jobs...)
	refs := w.refsOf(jobs...)
	lost := 3
	reqs := make([]ledger.Claim, sessions)
	for i := range reqs {
		s := w.session()
		if i == lost {
			w.move(s, ledger.SessionDead)
		}
		reqs[i] = byName(s, refs[i*each:(i+1)*each]...)
		reqs[i].Call, reqs[i].Max, reqs[i].MaxBytes = int64(i), 1+i%each, 100*(1+i%3)
	}
	for i, got := range w.tryClaim(reqs...) {
		n := min(reqs[i].Max, 1+i%3)
		if i == lost {
			if n = 0; job.ReasonOf(got.Err) != job.ReasonSessionLost {
				w.Errorf("request %d: %v", i, got.Err)
			}
		}
		w.wantIDs(fmt.Sprint("request ", i), idsOf(got.Jobs), idsOf(jobs[i*each:i*each+n]))
		for _, j := range got.Jobs {
			if kept := w.get(j.ID); kept.Session != reqs[i].Session || kept.Call != int64(i) {
				w.Errorf("request %d: held by %s, call %d", i, kept.Session, kept.Call)
			}
		}
	}
}

// namedMixed lets both ways of claiming share a call: what one request got, none
// behind it gets.
func namedMixed(w *world) {
	jobs := w.many(8)
	w.insert(jobs...)
	refs := w.refsOf(jobs...)
	s := w.session()
	plain := ledger.Claim{Session: s, Call: 1, Queue: "q", Max: 2, MaxBytes: 1 << 20}
	got := w.tryClaim(byName(s, refs[1], refs[6]), plain, byName(s, refs[0], refs[2], refs[3]), byName(s, refs[7]), plain)
	for i, want := range [][]job.Job{{jobs[1], jobs[6]}, {jobs[0], jobs[2]}, {jobs[3]}, {jobs[7]}, {jobs[4], jobs[5]}} {
		w.wantIDs(fmt.Sprint("request ", i), idsOf(got[i].Jobs), idsOf(want))
	}
}

// namedMarks looks for marks that run ahead with a job taken by name.
func namedMarks(w *world) {
	jobs := w.many(6)
	w.insert(jobs...)
	s := w.session()
	w.wantIDs("first", idsOf(w.claim(s, 1)), idsOf(jobs[:1]))
	w.wantIDs("by name", idsOf(w.take(s, w.refsOf(jobs[5], jobs[3])...)), []job.ID{jobs[5].ID, jobs[3].ID})
	w.wantIDs("the rest", idsOf(w.claim(s, 10)), []job.ID{jobs[1].ID, jobs[2].ID, jobs[4].ID})
}

// deliverTogether claims by name from many hands, each ref several times.
func deliverTogether(w *world, handles []ledger.Ledger) {
	const hands, total = 6, 120
	jobs := w.many(total)
	w.insert(jobs...)
	refs := w.refsOf(jobs...)
	var given sync.Map
	var n atomic.Int64
	sessions := make([]job.ID, hands)
	for i := range sessions {
		sessions[i] = w.session()
	}
	w.together(hands, func(i int) error {
		l := handles[i%len(handles)]
		for from := range total / 10 {
			at := (from*10 + i/2*40) % total
			got, err := l.Claim(w.ctx, w.now, []ledger.Claim{byName(sessions[i], refs[at:at+10]...), byName(sessions[0], refs[at:at+10]...)})
			if err != nil {
				return err
			}
			for _, j := range append(got[0].Jobs, got[1].Jobs...) {
				if by, twice := given.LoadOrStore(j.ID, i); twice {
					return fmt.Errorf("job %s was given to %v and to %d", j.ID, by, i)
				}
				n.Add(1)
			}
		}
		return nil
	})
	// A row that was locked was passed over: what is left is there for the next.
	n.Add(int64(len(w.take(w.session(), refs...))))
	if n.Load() != total {
		w.Errorf("%d of %d jobs were given", n.Load(), total)
	}
}

func namedLocked(w *world) {
	other := w.second()
	held, free := w.inState(job.Ready, kind("held")), w.job()
	w.insert(free)
	refs := w.refsOf(held, free)
	s := w.session()
	var once sync.Once
	got := w.apply(ledger.Pick{IDs: []job.ID{held.ID}, Wait: true}, func(*job.Job) error {
		once.Do(func() {
			claimed, err := other.Claim(w.ctx, w.now, []ledger.Claim{byName(s, refs...)})
			w.ok(err)
			w.wantIDs("claimed meanwhile", idsOf(claimed[0].Jobs), []job.ID{free.ID})
		})
		return job.ErrStale
	})
	if got[0].Err != job.ErrStale {
		w.Errorf("apply: %v", got[0].Err)
	}
	w.wantIDs("afterwards", idsOf(w.take(s, refs...)), []job.ID{held.ID})
}

func suspectsOnly(w *world) {
	suspects := w.crashed(3)
	other := w.job(kind("other"))
	w.insert(w.many(2)...)
	w.insert(other)
	s := w.session()
	c := ledger.Claim{Session: s, Call: 5, Queue: "q", Max: 10, MaxBytes: 1 << 20, SuspectsOnly: true}
	ofOther := c
	ofOther.Kinds = []string{"other"}
	got := w.tryClaim(ofOther, c, c)
	for i, want := range [][]job.ID{nil, {suspects[0].ID}, nil} {
		w.wantIDs(fmt.Sprint("request ", i), idsOf(got[i].Jobs), want)
	}
	if more := w.tryClaim(c)[0]; len(more.Jobs) != 0 {
		w.Errorf("a session with a suspect got %v", idsOf(more.Jobs))
	}
	w.done(got[1].Jobs...)
	c.Max = 0
	if none := w.tryClaim(c)[0]; len(none.Jobs) != 0 {
		w.Errorf("at most none: %v", idsOf(none.Jobs))
	}
	c.Max, c.Kinds = 1, []string{"k", "other"}
	w.wantIDs("when it holds none", idsOf(w.tryClaim(c)[0].Jobs), idsOf(suspects[1:2]))
	w.wantIDs("everything else is left", idsOf(w.claim(s, 1, "other")), []job.ID{other.ID})
}
