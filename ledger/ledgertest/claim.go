package ledgertest

import (
	"fmt"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var claimTests = []test{
	{"LeasesByTheRules", nil, claimByRules},
	{"OrderIsLaneThenSeq", nil, claimOrder},
	{"OrderHoldsOverSmallClaims", nil, claimSmall},
	{"MergesKinds", nil, claimKinds},
	{"UnknownKindsAreLeftAlone", nil, claimUnknownKinds},
	{"OneQueueOnly", nil, claimQueues},
	{"FrontLaneFirst", nil, claimFront},
	{"PromotedDrawANewSeq", nil, claimPromoted},
	{"ManyRequestsInOneCall", nil, claimMany},
	{"AtMostOneSuspectPerSession", nil, claimSuspects},
	{"SuspectFreesItsPlace", nil, claimSuspectAgain},
	{"ExpiredAreNotGiven", nil, claimExpired},
	{"MaxBytes", nil, claimMaxBytes},
	{"MaxBytesOfManyRequests", nil, claimMaxBytesMany},
	{"LostSessions", nil, claimLost},
	{"AfterEmptyClaims", nil, claimAfterEmpty},
}

func claimByRules(w *world) {
	j := fullJob(w)
	j.State, j.RunAt = job.Ready, w.now
	w.insert(j)
	w.pass(3 * time.Microsecond)
	s := w.session()
	got := w.tryClaim(ledger.Claim{Session: s, Call: 42, Queue: "mail", Kinds: []string{"send"}, Max: 5, MaxBytes: 1 << 20})[0]
	w.ok(got.Err)
	if len(got.Jobs) != 1 {
		w.Fatalf("%d jobs", len(got.Jobs))
	}
	want := j
	want.Seq = w.get(j.ID).Seq
	w.ok(w.rules.Step(&want, job.Move{Event: job.Lease, Now: w.now, Session: s, Call: 42}))
	w.wantJob("answer", got.Jobs[0], want)
	w.wantJob("stored", w.get(j.ID), want)
	if again := w.claimOf("mail", s, 5); len(again) != 0 {
		w.Errorf("leased twice: %v", idsOf(again))
	}
}

func claimOrder(w *world) {
	var jobs []job.Job
	for i := range 60 {
		jobs = append(jobs, w.job(prio((i*7)%10)))
	}
	w.insert(jobs[:20]...)
	w.insert(jobs[20:]...)
	slices.SortStableFunc(jobs, func(a, b job.Job) int { return a.Priority - b.Priority })
	got := w.claim(w.session(), 100)
	w.wantIDs("order", idsOf(got), idsOf(jobs))
}

func claimSmall(w *world) {
	var jobs []job.Job
	for i := range 50 {
		jobs = append(jobs, w.job(prio(i%3), kind(fmt.Sprintf("k%d", i%4))))
	}
	w.insert(jobs...)
	slices.SortStableFunc(jobs, func(a, b job.Job) int { return a.Priority - b.Priority })
	w.wantIDs("order", w.claimAll(w.session()), idsOf(jobs))
}

func claimKinds(w *world) {
	var jobs, wanted []job.Job
	for i := range 40 {
		j := w.job(kind(fmt.Sprintf("k%d", i%5)), prio(9-i/20))
		jobs = append(jobs, j)
		if i%5 == 1 || i%5 == 3 {
			wanted = append(wanted, j)
		}
	}
	w.insert(jobs...)
	slices.SortStableFunc(wanted, func(a, b job.Job) int { return a.Priority - b.Priority })
	s := w.session()
	w.wantIDs("two kinds", idsOf(w.claim(s, 100, "k3", "k1", "nosuch")), idsOf(wanted))
	if rest := w.claim(s, 100, "k1", "k3"); len(rest) != 0 {
		w.Errorf("given twice: %v", idsOf(rest))
	}
	if rest := w.claim(s, 100); len(rest) != 24 {
		w.Errorf("%d of the other kinds", len(rest))
	}
}

func claimUnknownKinds(w *world) {
	unknown := w.many(50, kind("unknown"), prio(0))
	w.insert(unknown...)
	known := w.job(kind("known"), prio(9))
	w.insert(known)
	w.wantIDs("known", idsOf(w.claim(w.session(), 10, "known")), []job.ID{known.ID})
	for _, j := range unknown {
		w.wantJob("unknown", w.get(j.ID), j)
	}
}

func claimQueues(w *world) {
	a, b := w.job(queue("a")), w.job(queue("b"))
	w.insert(a, b)
	s := w.session()
	if got := w.claim(s, 5); len(got) != 0 {
		w.Errorf("queue q gave %v", idsOf(got))
	}
	w.wantIDs("queue b", idsOf(w.claimOf("b", s, 5)), []job.ID{b.ID})
	w.wantIDs("queue a", idsOf(w.claimOf("a", s, 5)), []job.ID{a.ID})
}

// claimFront releases jobs of low priority: they come before everything else,
// in their old order.
func claimFront(w *world) {
	late := w.many(4, prio(9))
	w.insert(late...)
	held := w.claim(w.session(), 4)
	w.insert(w.many(5, prio(0))...)
	for _, i := range []int{2, 0, 3, 1} {
		w.must(held[i].ID, job.Move{Event: job.Release})
	}
	got := w.claim(w.session(), 6)
	w.wantIDs("released first", idsOf(got[:4]), idsOf(late))
	if got[4].Priority != 0 {
		w.Errorf("then priority %d", got[4].Priority)
	}
}

func claimPromoted(w *world) {
	early := w.job(at(w.now.Add(time.Second)))
	w.insert(early)
	ready := w.job()
	w.insert(ready)
	w.pass(2 * time.Second)
	if got := w.claim(w.session(), 1); len(got) != 1 || got[0].ID != ready.ID {
		w.Fatalf("a scheduled job is not claimable before it was promoted: %v", idsOf(got))
	}
	other := w.job()
	w.insert(other)
	w.wantIDs("promoted", w.stepAll(ledger.Pick{Due: w.now, Limit: 10}, job.Due), []job.ID{early.ID})
	w.wantIDs("a promoted job queues up behind", w.claimAll(w.session()), []job.ID{other.ID, early.ID})
}

func claimMany(w *world) {
	a, b := w.many(6), w.many(3, queue("b"))
	w.insert(append(slices.Clone(a), b...)...)
	s1, s2, lost := w.session(), w.session(), newID()
	got := w.tryClaim(
		ledger.Claim{Session: s1, Call: 1, Queue: "q", Max: 2, MaxBytes: 1 << 20},
		ledger.Claim{Session: lost, Call: 1, Queue: "q", Max: 2, MaxBytes: 1 << 20},
		ledger.Claim{Session: s2, Call: 9, Queue: "q", Max: 3, MaxBytes: 1 << 20},
		ledger.Claim{Session: s1, Call: 1, Queue: "b", Max: 10, MaxBytes: 1 << 20},
		ledger.Claim{Session: s2, Call: 9, Queue: "q", Max: 10, MaxBytes: 1 << 20},
	)
	for i, want := range [][]job.Job{a[:2], nil, a[2:5], b, a[5:]} {
		w.wantIDs(fmt.Sprint("request ", i), idsOf(got[i].Jobs), idsOf(want))
		if i == 1 != (job.ReasonOf(got[i].Err) == job.ReasonSessionLost) {
			w.Errorf("request %d: %v", i, got[i].Err)
		}
	}
	if j := w.get(a[4].ID); j.Session != s2 || j.Call != 9 {
		w.Errorf("held by %s, call %d", j.Session, j.Call)
	}
}

// crashed makes n suspects, in their order.
func (w *world) crashed(n int) []job.Job {
	w.Helper()
	jobs := w.many(n)
	w.insert(jobs...)
	for _, j := range w.claim(w.session(), n) {
		w.must(j.ID, job.Move{Event: job.Crash, Failure: job.Failure{Message: "session died"}})
	}
	return jobs
}

func claimSuspects(w *world) {
	suspects := w.crashed(3)
	good := w.many(5)
	w.insert(good...)
	s := w.session()
	c := ledger.Claim{Session: s, Call: 1, Queue: "q", Max: 4, MaxBytes: 1 << 20}
	got := w.tryClaim(c, c)
	w.wantIDs("first claim", idsOf(got[0].Jobs), append(idsOf(suspects[:1]), idsOf(good[:3])...))
	w.wantIDs("second claim of one call", idsOf(got[1].Jobs), idsOf(good[3:]))
	if more := w.claim(s, 10); len(more) != 0 {
		w.Errorf("a session with a suspect got %v", idsOf(more))
	}
	w.wantIDs("another session", idsOf(w.claim(w.session(), 10)), idsOf(suspects[1:2]))
}

func claimSuspectAgain(w *world) {
	suspects := w.crashed(2)
	s := w.session()
	first := w.claim(s, 10)
	w.wantIDs("first", idsOf(first), idsOf(suspects[:1]))
	w.done(first...)
	second := w.claim(s, 10)
	w.wantIDs("second", idsOf(second), idsOf(suspects[1:]))
	w.must(second[0].ID, job.Move{Event: job.Release})
	w.wantIDs("released", idsOf(w.claim(s, 10)), idsOf(suspects[1:]))
}

func claimExpired(w *world) {
	gone, edge := w.job(expires(w.now.Add(time.Second))), w.job(expires(w.now.Add(2*time.Second)))
	still := w.job(expires(w.now.Add(2*time.Second + time.Microsecond)))
	w.insert(gone, edge, still)
	w.pass(2 * time.Second)
	w.wantIDs("given", idsOf(w.claim(w.session(), 10)), []job.ID{still.ID})
	w.wantSet("expired", w.stepAll(ledger.Pick{Expired: w.now, Limit: 10}, job.Expire), []job.ID{gone.ID, edge.ID})
}

func claimMaxBytes(w *world) {
	jobs := []job.Job{w.job(body(make([]byte, 500))), w.job(body(make([]byte, 60))), w.job(body(make([]byte, 40))), w.job(body(make([]byte, 1)))}
	w.insert(jobs...)
	s := w.session()
	for _, want := range [][]job.Job{jobs[:1], jobs[1:3], jobs[3:]} {
		got := w.tryClaim(ledger.Claim{Session: s, Call: 1, Queue: "q", Max: 10, MaxBytes: 100})[0]
		w.wantIDs("within 100 bytes", idsOf(got.Jobs), idsOf(want))
		if last := want[0].ID == jobs[3].ID; got.More == last {
			w.Errorf("%d of the jobs: there may be more: %t", len(got.Jobs), got.More)
		}
	}
	if got := w.tryClaim(ledger.Claim{Session: s, Call: 1, Queue: "q", Max: 10, MaxBytes: 100})[0]; got.More || len(got.Jobs) > 0 {
		w.Errorf("an empty queue gave %d jobs, and there may be more: %t", len(got.Jobs), got.More)
	}
}

// claimMaxBytesMany ends one request by its bytes where the next one goes on:
// the first does not come back for more.
func claimMaxBytesMany(w *world) {
	var jobs []job.Job
	for _, size := range []int{100, 150, 10, 20, 30} {
		jobs = append(jobs, w.job(body(make([]byte, size))))
	}
	w.insert(jobs...)
	got := w.tryClaim(
		ledger.Claim{Session: w.session(), Call: 1, Queue: "q", Max: 2, MaxBytes: 200},
		ledger.Claim{Session: w.session(), Call: 1, Queue: "q", Max: 1, MaxBytes: 1},
		ledger.Claim{Session: w.session(), Call: 1, Queue: "q", Max: 9, MaxBytes: 59},
	)
	for i, want := range [][]job.Job{jobs[:1], jobs[1:2], jobs[2:4]} {
		w.wantIDs(fmt.Sprint("request ", i), idsOf(got[i].Jobs), idsOf(want))
	}
}

func claimLost(w *world) {
	w.insert(w.job())
	for _, state := range []ledger.SessionState{ledger.SessionDraining, ledger.SessionDead, ledger.SessionDrained, ledger.SessionAbsent} {
		s := w.session()
		w.move(s, state)
		got := w.tryClaim(ledger.Claim{Session: s, Call: 1, Queue: "q", Max: 1, MaxBytes: 1 << 20})[0]
		if job.ReasonOf(got.Err) != job.ReasonSessionLost || len(got.Jobs) != 0 {
			w.Errorf("%s: %v, %v", state, idsOf(got.Jobs), got.Err)
		}
	}
	if got := w.claim(w.session(), 1); len(got) != 1 {
		w.Error("the job is no longer there for a live session")
	}
}

// claimAfterEmpty looks for marks that run ahead of the jobs.
func claimAfterEmpty(w *world) {
	s := w.session()
	for range 20 {
		if got := w.claim(s, 5); len(got) != 0 {
			w.Fatalf("an empty queue gave %v", idsOf(got))
		}
		j := w.job(prio(2))
		w.insert(j)
		w.wantIDs("claimed", idsOf(w.claim(s, 5)), []job.ID{j.ID})
		w.must(j.ID, job.Move{Event: job.Release})
		w.wantIDs("claimed again", idsOf(w.claim(s, 5)), []job.ID{j.ID})
		w.must(j.ID, job.Move{Event: job.Fail, Delay: time.Second})
		w.pass(time.Second)
		w.stepAll(ledger.Pick{Due: w.now, Limit: 5}, job.Due)
		w.wantIDs("claimed once more", idsOf(w.claim(s, 5)), []job.ID{j.ID})
	}
}
