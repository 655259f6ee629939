package ledgertest

import (
	"slices"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var headsTests = []test{
	{"AsClaimsWouldGive", nil, headsOrder},
	{"TakeNothing", nil, headsTakeNothing},
	{"SuspectsAndExpiredAreLeftOut", nil, headsLeftOut},
	{"Paused", nil, headsPaused},
	{"ManyRequestsInOneCall", nil, headsMany},
	{"FollowEveryMove", nil, headsFollow},
	{"AtMostMax", nil, headsMax},
	{"LateCommitIsFound", hasHoldInsert, headsLate},
	{"NobodyWaitsForALockedRow", hasSecond, headsLocked},
	{"WorkOfOthersIsSeen", hasSecond, headsOthers},
}

// heads asks for the refs of queue q.
func (w *world) heads(most int, kinds ...string) []ledger.Ref {
	w.Helper()
	got := w.tryHeads(ledger.Head{Queue: "q", Kinds: kinds, Max: most})[0]
	if got.Paused {
		w.Error("the queue is said to be paused")
	}
	return got.Refs
}

func (w *world) tryHeads(reqs ...ledger.Head) []ledger.Headed {
	w.Helper()
	out, err := w.l.Heads(w.ctx, w.now, reqs)
	w.ok(err)
	if len(out) != len(reqs) {
		w.Fatalf("%d answers to %d requests", len(out), len(reqs))
	}
	return out
}

func refIDs(refs []ledger.Ref) []job.ID {
	out := make([]job.ID, len(refs))
	for i, r := range refs {
		out[i] = r.ID
	}
	return out
}

// headsOrder compares refs with the jobs as they are, and their order with that of a claim.
func headsOrder(w *world) {
	var jobs []job.Job
	for i := range 90 {
		jobs = append(jobs, w.job(prio((i*7)%10), kind("k"+string(rune('0'+i%4)))))
	}
	w.insert(jobs...)
	s := w.session()
	for _, j := range w.claim(s, 5) { // into the front lane, with another token
		w.must(j.ID, job.Move{Event: job.Release})
	}
	for _, kinds := range [][]string{{"k2"}, {"k3", "k1", "k3", "nosuch"}, nil} {
		refs := w.heads(60, kinds...)
		if len(refs) == 0 {
			w.Fatalf("kinds %v: no refs", kinds)
		}
		for _, ref := range refs {
			if want := refOf(w.get(ref.ID)); ref != want {
				w.Errorf("ref %+v, want %+v", ref, want)
			}
		}
		w.wantIDs("the claim after it", idsOf(w.claim(s, 60, kinds...)), refIDs(refs))
	}
}

func headsTakeNothing(w *world) {
	jobs := w.many(3)
	w.insert(jobs...)
	first := w.heads(10)
	for range 3 {
		if again := w.heads(10); !slices.Equal(again, first) {
			w.Errorf("asked again: %+v, want %+v", again, first)
		}
	}
	for _, j := range jobs {
		w.wantJob("untouched", w.get(j.ID), j)
	}
	w.wantIDs("claimed by name", idsOf(w.take(w.session(), first...)), idsOf(jobs))
	if left := w.heads(10); len(left) != 0 {
		w.Errorf("refs of jobs that are taken: %+v", left)
	}
}

func headsLeftOut(w *world) {
	w.crashed(2)
	w.insert(w.job(at(w.now.Add(time.Hour))), w.job(expires(w.now.Add(time.Second))), w.job(expires(w.now.Add(2*time.Second))))
	still, last := w.job(expires(w.now.Add(2*time.Second+time.Microsecond))), w.job()
	w.insert(still, last)
	w.pass(2 * time.Second)
	w.wantIDs("refs", refIDs(w.heads(10)), []job.ID{still.ID, last.ID})
	w.wantIDs("the first", refIDs(w.heads(1)), []job.ID{still.ID})
}

func headsPaused(w *world) {
	j := w.job()
	w.insert(j)
	w.ok(w.l.SetPaused(w.ctx, w.now, "q", true))
	w.ok(w.l.SetPaused(w.ctx, w.now, "empty", true))
	for i, got := range w.tryHeads(ledger.Head{Queue: "q", Max: 5}, ledger.Head{Queue: "empty", Kinds: []string{"k"}, Max: 5}) {
		if !got.Paused || len(got.Refs) != 0 {
			w.Errorf("paused queue %d: %+v", i, got)
		}
	}
	w.ok(w.l.SetPaused(w.ctx, w.now, "q", false))
	w.wantIDs("resumed", refIDs(w.heads(5)), []job.ID{j.ID})
}

func headsMany(w *world) {
	a, b := w.many(6), w.many(3, queue("b"), kind("x"))
	w.insert(append(slices.Clone(a), b...)...)
	w.tryHeads()
	got := w.tryHeads(ledger.Head{Queue: "q", Max: 2}, ledger.Head{Queue: "nosuch", Max: 2}, ledger.Head{Queue: "b", Max: 10},
		ledger.Head{Queue: "q", Kinds: []string{"k"}, Max: 4}, ledger.Head{Queue: "b", Kinds: []string{"k"}, Max: 4})
	for i, want := range [][]job.Job{a[:2], nil, b, a[:4], nil} {
		w.wantIDs("request", refIDs(got[i].Refs), idsOf(want))
		if got[i].Paused {
			w.Errorf("request %d: paused", i)
		}
	}
}

// headsFollow asks after each move of one job that others are behind.
func headsFollow(w *world) {
	j, next := w.job(), w.job()
	w.insert(j, next)
	s := w.session()
	both, behind := []job.ID{j.ID, next.ID}, []job.ID{next.ID}
	expect := func(what string, want []job.ID) {
		w.Helper()
		w.wantIDs(what, refIDs(w.heads(5)), want)
	}
	expect("ready", both)
	w.claim(s, 1)
	expect("leased", behind)
	w.must(j.ID, job.Move{Event: job.Release})
	expect("released", both)
	w.claim(s, 1)
	w.must(j.ID, job.Move{Event: job.Fail, Delay: time.Second})
	expect("failed", behind)
	w.pass(time.Second)
	w.stepAll(ledger.Pick{Due: w.now, Limit: 5}, job.Due)
	expect("promoted: behind the other", []job.ID{next.ID, j.ID})
	w.must(next.ID, job.Move{Event: job.Cancel})
	expect("the other cancelled", both[:1])
	w.must(j.ID, job.Move{Event: job.Delete})
	expect("deleted", nil)
}

func headsMax(w *world) {
	jobs := w.many(7)
	w.insert(jobs...)
	for _, most := range []int{-1, 0, 1, 3, 7, 8, 1000} {
		w.wantIDs("at most", refIDs(w.heads(most)), idsOf(jobs[:min(max(most, 0), 7)]))
	}
}

// headsLate commits a job long after jobs with larger numbers were seen and claimed.
func headsLate(w *world) {
	s := w.session()
	late := w.job()
	commit := w.suite.features.HoldInsert(w.TB, w.l, ledger.Item{Job: late})
	for range 20 {
		j := w.job()
		w.insert(j)
		w.wantIDs("others pass", refIDs(w.heads(5)), []job.ID{j.ID})
		w.claim(s, 5)
	}
	commit()
	w.eventually("the late job is found", 2*time.Second, func() bool { return slices.Contains(refIDs(w.heads(50)), late.ID) })
}

// headsLocked asks another handle while Apply holds a job.
func headsLocked(w *world) {
	other := w.second()
	jobs := w.many(2)
	w.insert(jobs...)
	var once sync.Once
	w.apply(ledger.Pick{IDs: idsOf(jobs[:1]), Wait: true}, func(*job.Job) error {
		once.Do(func() {
			got, err := other.Heads(w.ctx, w.now, []ledger.Head{{Queue: "q", Max: 5}})
			w.ok(err)
			w.wantIDs("refs meanwhile", refIDs(got[0].Refs), idsOf(jobs))
		})
		return job.ErrStale
	})
}

// headsOthers lets one handle do all the work, and another one look.
func headsOthers(w *world) {
	other := w.second()
	s := w.session()
	for range 30 {
		jobs := w.many(5)
		w.insert(jobs...)
		got, err := other.Heads(w.ctx, w.now, []ledger.Head{{Queue: "q", Max: 3}})
		w.ok(err)
		w.wantIDs("seen by the other", refIDs(got[0].Refs), idsOf(jobs[:3]))
		w.done(w.claim(s, 5)...)
	}
}
