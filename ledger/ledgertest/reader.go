package ledgertest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var readerTests = []test{
	{"PagesThroughThousands", nil, readerPages},
	{"Filters", nil, readerFilters},
	{"LeavesOutWhatIsLarge", nil, readerLeavesOut},
	{"GetIsForgiving", nil, readerGet},
}

func (w *world) list(q ledger.Query) []job.Job {
	w.Helper()
	jobs, err := w.l.List(w.ctx, q)
	w.ok(err)
	return jobs
}

func readerPages(w *world) {
	var want []job.ID
	for range 3 {
		jobs := w.many(1000, body([]byte("1")))
		w.insert(jobs...)
		want = append(want, idsOf(jobs)...)
	}
	held := w.claim(w.session(), 900)
	w.done(held[:600]...)
	w.apply(ledger.Pick{IDs: idsOf(held[600:700])}, func(j *job.Job) error {
		return w.rules.Step(j, job.Move{Event: job.Discard, Now: w.now})
	})
	slices.Reverse(want)
	for _, limit := range []int{1000, 777} {
		var got []job.ID
		q := ledger.Query{Limit: limit}
		for {
			page := w.list(q)
			got = append(got, idsOf(page)...)
			if len(page) > limit {
				w.Fatalf("a page of %d jobs", len(page))
			}
			if len(page) < limit {
				break
			}
			q.After = page[len(page)-1].ID
		}
		if !slices.Equal(got, want) {
			w.Errorf("pages of %d: %d jobs, want %d, newest first", limit, len(got), len(want))
		}
	}
	for s, n := range map[job.State]int{job.Ready: 2100, job.Running: 200, job.Succeeded: 600, job.Dead: 100, job.Cancelled: 0} {
		got := 0
		q := ledger.Query{State: s, Limit: 500}
		for {
			page := w.list(q)
			got += len(page)
			if len(page) < q.Limit {
				break
			}
			q.After = page[len(page)-1].ID
		}
		if got != n {
			w.Errorf("%s: %d jobs, want %d", s, got, n)
		}
	}
}

func readerFilters(w *world) {
	type made struct {
		id          job.ID
		queue, kind string
		state       job.State
		tag         string
	}
	var all []made
	for i := range 48 {
		m := made{queue: fmt.Sprint("q", i%2), kind: fmt.Sprintf("k%d", i), state: job.State(1 + i%6), tag: []string{"a", "ab", "a,b", `"`}[i%4]}
		m.id = w.inState(m.state, queue(m.queue), kind(m.kind), tags("x", m.tag)).ID
		all = append([]made{m}, all...)
	}
	check := func(q ledger.Query, match func(made) bool) {
		w.Helper()
		var want []job.ID
		for _, m := range all {
			if match(m) {
				want = append(want, m.id)
			}
		}
		q.Limit = 100
		w.wantIDs(fmt.Sprintf("%+v", q), idsOf(w.list(q)), want)
	}
	check(ledger.Query{Queue: "q1"}, func(m made) bool { return m.queue == "q1" })
	check(ledger.Query{Kind: "k7"}, func(m made) bool { return m.kind == "k7" })
	check(ledger.Query{Kind: "nosuch"}, func(made) bool { return false })
	for s := job.Scheduled; s <= job.Cancelled; s++ {
		check(ledger.Query{State: s}, func(m made) bool { return m.state == s })
		check(ledger.Query{State: s, Queue: "q0", Tag: "a"}, func(m made) bool { return m.state == s && m.queue == "q0" && m.tag == "a" })
	}
	for _, tag := range []string{"a", "ab", "a,b", `"`, "b", "", "%", "x"} {
		check(ledger.Query{Tag: tag}, func(m made) bool { return tag == "" || m.tag == tag || tag == "x" })
	}
	check(ledger.Query{State: job.Dead, Error: "no good"}, func(m made) bool { return m.state == job.Dead })
	check(ledger.Query{State: job.Dead, Error: "No"}, func(made) bool { return false })
	check(ledger.Query{After: all[20].id}, func(m made) bool { return slices.Compare(m.id[:], all[20].id[:]) < 0 })
}

func readerLeavesOut(w *world) {
	j := w.job(tags("t"), func(j *job.Job) { j.Payload = make([]byte, 100_000) })
	w.insert(j)
	s := w.session()
	for i := range 3 {
		held := w.claim(s, 1)[0]
		w.must(held.ID, job.Move{Event: job.Release})
		held = w.claim(s, 1)[0]
		e := []job.Event{job.Crash, job.Crash, job.Succeed}[i]
		w.must(held.ID, job.Move{Event: e, Result: []byte("r"), Failure: job.Failure{Message: fmt.Sprint("failure ", i), Stack: "s", Worker: "w"}})
	}
	got := w.list(ledger.Query{Limit: 1})[0]
	whole := w.get(j.ID)
	if len(whole.Errors) != 2 || len(whole.Payload) != 100_000 || string(whole.Result) != "r" {
		w.Fatalf("get: %d errors, %d bytes, result %q", len(whole.Errors), len(whole.Payload), whole.Result)
	}
	if got.Payload != nil || got.Result != nil || len(got.Errors) != 1 || got.LastError() != "failure 1" {
		w.Errorf("list: %d bytes, result %q, %d errors, the last %q", len(got.Payload), got.Result, len(got.Errors), got.LastError())
	}
	whole.Payload, whole.Result, whole.Errors = nil, nil, whole.Errors[1:]
	w.wantJob("list: all else", got, whole)
}

func readerGet(w *world) {
	j := w.inState(job.Ready)
	for _, ids := range [][]job.ID{nil, {}, {newID()}, {{}}} {
		if got, err := w.l.Get(w.ctx, ids); err != nil || len(got) != 0 {
			w.Errorf("get %v: %v, %v", ids, idsOf(got), err)
		}
	}
	got, err := w.l.Get(w.ctx, []job.ID{newID(), j.ID, {}})
	w.ok(err)
	w.wantIDs("one of three", idsOf(got), []job.ID{j.ID})
	jobs := w.many(1000)
	w.insert(jobs...)
	got, err = w.l.Get(w.ctx, idsOf(jobs))
	w.ok(err)
	w.wantSet("a thousand", idsOf(got), idsOf(jobs))
	for _, text := range []string{"\x00", "\xff", strings.Repeat("x", 1<<20)} {
		for _, q := range []ledger.Query{{Queue: text}, {Kind: text}, {Tag: text}, {State: job.Dead, Error: text}} {
			q.Limit = 10
			if got, err := w.l.List(w.ctx, q); err == nil && len(got) != 0 {
				w.Errorf("list by %.10q: %v", text, idsOf(got))
			}
		}
	}
}
