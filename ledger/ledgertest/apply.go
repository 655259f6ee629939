package ledgertest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var succeedTests = []test{
	{"AsSettleDoes", nil, succeedAsSettle},
	{"TellsWhatEnded", nil, succeedTells},
	{"EverythingElseIsFalse", nil, succeedFalse},
	{"TwiceInOneCall", nil, succeedTwice},
	{"MixedBatch", nil, succeedMixed},
}

var applyTests = []test{
	{"EveryPairOfStateAndEvent", nil, applyEveryPair},
	{"VariantsOfEachEnd", nil, applyVariants},
	{"ErrorLeavesTheJob", nil, applyError},
	{"UnknownIDs", nil, applyUnknown},
	{"AnswersInOrder", nil, applyOrder},
	{"Progress", nil, applyProgress},
	{"LongHistory", nil, applyHistory},
	{"AnyTextInErrors", nil, applyText},
	{"OneCallManyFates", nil, applyMany},
}

func succeedAsSettle(w *world) {
	j := w.inState(job.Running, unique("k", job.UntilDone, 0))
	want := j
	w.pass(time.Second)
	if _, err := w.rules.Settle(&want, j.Token, job.Move{Event: job.Succeed, Now: w.now, Result: []byte(`{"a":1}`)}); err != nil {
		w.Fatal(err)
	}
	if got := w.succeed(ledger.Success{ID: j.ID, Token: j.Token, Result: []byte(`{"a":1}`)}); !got[0] {
		w.Fatal("refused")
	}
	w.wantJob("stored", w.get(j.ID), want)
	w.insert(w.job(unique("k", job.UntilDone, 0))) // the key is free
	repeated, err := w.settle(j.ID, j.Token, job.Move{Event: job.Succeed})
	if !repeated || err != nil {
		w.Errorf("repeated settle: %v, %v", repeated, err)
	}
}

// succeedTells ends two runs of jobs with different histories in one call.
func succeedTells(w *world) {
	first := w.job(kind("a"), queue("q1"))
	w.insert(first)
	w.pass(time.Second)
	w.must(w.lease(first).ID, job.Move{Event: job.Fail, Delay: time.Second})
	w.pass(time.Second)
	w.stepAll(ledger.Pick{Due: w.now, Limit: 5}, job.Due)
	second := w.job(kind("b"), queue("q2"))
	w.insert(second)
	w.pass(time.Second)
	var its []ledger.Success
	var want []ledger.Succeeded
	for _, j := range []job.Job{w.lease(first), w.lease(second)} {
		its = append(its, ledger.Success{ID: j.ID, Token: j.Token}, ledger.Success{ID: j.ID, Token: j.Token + 1})
		j.Version++
		want = append(want, succeeded(j), ledger.Succeeded{})
	}
	w.pass(time.Second)
	got, err := w.l.Succeed(w.ctx, w.now, its)
	w.ok(err)
	for i := range want {
		if !sameSucceeded(got[i], want[i]) {
			w.Errorf("item %d: %+v, want %+v", i, got[i], want[i])
		}
	}
	if want[0].Attempt != 2 || want[0].RunAt.Equal(want[0].CreatedAt) {
		w.Fatalf("the test's first job has no history: %+v", want[0])
	}
}

func succeedFalse(w *world) {
	for s := job.Scheduled; s <= job.Cancelled; s++ {
		j := w.inState(s, kind(s.String()))
		for _, token := range []int64{-1, 0, j.Token - 1, j.Token + 1, 1 << 62} {
			if w.succeed(ledger.Success{ID: j.ID, Token: token, Result: []byte("x")})[0] {
				w.Errorf("%s: token %d was accepted", s, token)
			}
		}
		if s != job.Running && w.succeed(ledger.Success{ID: j.ID, Token: j.Token})[0] {
			w.Errorf("a %s job was settled", s)
		}
		w.wantJob("after refusals: "+s.String(), w.get(j.ID), j)
	}
	if w.succeed(ledger.Success{ID: newID(), Token: 1})[0] {
		w.Error("a job that is nowhere was settled")
	}
	w.succeed()
}

func succeedTwice(w *world) {
	j := w.inState(job.Running)
	it := ledger.Success{ID: j.ID, Token: j.Token}
	if got := w.succeed(it, it); got[0] == got[1] {
		w.Errorf("two settles of one lease in one call: %v", got)
	}
	if got := w.succeed(it); got[0] {
		w.Error("settled a second time")
	}
}

func succeedMixed(w *world) {
	w.insert(w.many(20)...)
	held := w.claim(w.session(), 20)
	its := make([]ledger.Success, len(held))
	for i, j := range held {
		its[i] = ledger.Success{ID: j.ID, Token: j.Token + int64(i%2)}
	}
	for i, got := range w.succeed(its...) {
		if got != (i%2 == 0) {
			w.Errorf("item %d: %v", i, got)
		}
	}
}

var events = []job.Event{job.Due, job.Lease, job.Succeed, job.Fail, job.Discard, job.Snooze, job.Release, job.Crash,
	job.Cancel, job.Expire, job.Redrive, job.Delete}

func applyEveryPair(w *world) {
	for s := job.Scheduled; s <= job.Cancelled; s++ {
		for _, e := range events {
			for _, mode := range []job.UniqueMode{job.NotUnique, job.WhileQueued, job.UntilDone} {
				what := fmt.Sprintf("%s/%s/unique %d", s, e, mode)
				with := kind(what)
				if mode != job.NotUnique {
					with = func(j *job.Job) { kind(what)(j); unique("key", mode, 0)(j) }
				}
				w.pass(time.Second)
				w.checkMove(what, w.inState(s, with), job.Move{Event: e, Session: newID(), Call: 3, Result: []byte("r"),
					Failure: job.Failure{Message: "m", Stack: "s", Worker: "w"}})
			}
		}
	}
}

// checkMove moves j by the ledger and by the rules, and compares the two.
func (w *world) checkMove(what string, j job.Job, m job.Move) {
	w.Helper()
	w.pass(time.Second)
	m.Now = w.now
	want := clone(j)
	refusal := w.rules.Step(&want, m)
	got := w.step(j.ID, m)
	if got.From != j.State {
		w.Errorf("%s: from %s", what, got.From)
	}
	if refusal != nil {
		if job.ReasonOf(got.Err) != job.ReasonBadTransition {
			w.Errorf("%s: err = %v, want a refusal", what, got.Err)
		}
		w.wantJob(what+": answer of a refusal", got.Job, j)
		w.wantJob(what+": after a refusal", w.get(j.ID), j)
		return
	}
	w.ok(got.Err)
	if want.State == job.Deleted {
		w.gone(j.ID)
		return
	}
	w.wantJob(what+": answer", got.Job, want)
	w.wantJob(what+": stored", w.get(j.ID), want)
	if want.State == job.Ready && want.Seq == 0 && got.Job.Seq <= j.Seq {
		w.Errorf("%s: seq %d was not drawn anew", what, got.Job.Seq)
	}
	w.checkKey(what, want)
}

// checkKey finds out who holds the unique key that j had.
func (w *world) checkKey(what string, j job.Job) {
	w.Helper()
	if j.UniqueMode == job.NotUnique {
		return
	}
	twin := w.job(kind(j.Kind), unique(j.UniqueKey, j.UniqueMode, 0))
	got := w.tryInsert(ledger.Item{Job: twin})[0]
	if j.HoldsKey() && (got.Outcome != ledger.UniqueHeld || got.Holder != j.ID || got.State != j.State) {
		w.Errorf("%s: the key should be held: %+v", what, got)
	}
	if !j.HoldsKey() && got.Outcome != ledger.InsertedNew {
		w.Errorf("%s: the key should be free: %+v", what, got)
	}
}

func applyVariants(w *world) {
	type variant struct {
		name string
		prep func(j job.Job) job.Job
	}
	set := func(change func(*job.Job)) func(job.Job) job.Job {
		return func(j job.Job) job.Job {
			a := w.apply(ledger.Pick{IDs: []job.ID{j.ID}}, func(j *job.Job) error { change(j); return nil })
			w.ok(a[0].Err)
			return w.get(j.ID)
		}
	}
	for _, v := range []variant{
		{"cancel requested", func(j job.Job) job.Job { return w.must(j.ID, job.Move{Event: job.Cancel}) }},
		{"two crashes", set(func(j *job.Job) { j.Crashes = 2 })},
		{"last attempt", set(func(j *job.Job) { j.MaxAttempts = j.Attempt })},
	} {
		for _, e := range events[2:8] {
			j := v.prep(w.inState(job.Running, kind(v.name+e.String())))
			w.checkMove(v.name+"/"+e.String(), j, job.Move{Event: e, Delay: time.Minute, Failure: job.Failure{Message: "m"}})
		}
	}
	j := w.inState(job.Dead, kind("paced"))
	w.checkMove("paced redrive", j, job.Move{Event: job.Redrive, Delay: time.Minute})
}

func applyError(w *world) {
	boom := errors.New("boom")
	a, b := w.inState(job.Ready), w.inState(job.Dead, kind("dead"))
	got := w.apply(ledger.Pick{IDs: []job.ID{a.ID, b.ID}}, func(j *job.Job) error {
		if j.ID == b.ID {
			return w.rules.Step(j, job.Move{Event: job.Redrive, Now: w.now})
		}
		j.State, j.Version, j.Tags = job.Deleted, 99, []string{"scribbled"}
		return boom
	})
	if !errors.Is(got[0].Err, boom) || got[1].Err != nil {
		w.Errorf("%v, %v", got[0].Err, got[1].Err)
	}
	w.wantJob("left as it was", w.get(a.ID), a)
	w.wantJob("its answer", got[0].Job, a)
	if w.get(b.ID).State != job.Ready {
		w.Error("the error of one job held up another")
	}
}

func applyUnknown(w *world) {
	j := w.inState(job.Ready)
	got := w.apply(ledger.Pick{IDs: []job.ID{newID(), j.ID, {}}}, func(j *job.Job) error {
		return w.rules.Step(j, job.Move{Event: job.Cancel, Now: w.now})
	})
	if !errors.Is(got[0].Err, job.ErrNotFound) || got[1].Err != nil || !errors.Is(got[2].Err, job.ErrNotFound) {
		w.Errorf("%v, %v, %v", got[0].Err, got[1].Err, got[2].Err)
	}
}

func applyOrder(w *world) {
	var ids []job.ID
	for i := range 30 {
		ids = append([]job.ID{w.inState(job.State(1+i%6), kind(fmt.Sprint(i))).ID}, ids...)
	}
	for i, a := range w.apply(ledger.Pick{IDs: ids}, func(*job.Job) error { return errors.New("look only") }) {
		if a.Job.ID != ids[i] {
			w.Errorf("answer %d is of %s, want %s", i, a.Job.ID, ids[i])
		}
	}
}

func applyProgress(w *world) {
	j := w.inState(job.Running)
	want := j
	want.Progress, want.Version = []byte("\x00half"), j.Version+1
	w.apply(ledger.Pick{IDs: []job.ID{j.ID}}, func(j *job.Job) error { j.Progress = want.Progress; j.Version++; return nil })
	w.wantJob("noted", w.get(j.ID), want)
	w.done(w.get(j.ID))
	if got := w.get(j.ID); string(got.Progress) != "\x00half" {
		w.Errorf("progress of a finished job: %q", got.Progress)
	}
}

// applyHistory gives a job more failures than are kept, with every size.
func applyHistory(w *world) {
	j := w.job(func(j *job.Job) { j.MaxAttempts = 40 })
	w.insert(j)
	s := w.session()
	for i := range 30 {
		got := w.claim(s, 1)
		if len(got) != 1 || got[0].Attempt != i+1 || got[0].Token != int64(i+1) {
			w.Fatalf("run %d: %+v", i, got)
		}
		if want := min(i, job.KeepErrors); len(got[0].Errors) != want {
			w.Fatalf("run %d sees %d errors, want %d", i, len(got[0].Errors), want)
		}
		m := job.Move{Event: job.Fail, Failure: job.Failure{Message: strings.Repeat("é", 3000), Stack: strings.Repeat("x", 9000), Worker: "w"}}
		w.checkMove(fmt.Sprint("failure ", i), got[0], m)
		w.pass(2 * time.Hour)
		w.stepAll(ledger.Pick{Due: w.now, Limit: 1}, job.Due)
	}
}

func applyText(w *world) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, s := range []string{"a\x00b", string(all), "\xff\xfe", "\u2028\u2029<&>\\u0000", "'; drop table job; --", `{"json":true}`, "", strings.Repeat("\x00", 5000)} {
		j := w.inState(job.Running)
		w.checkMove(fmt.Sprintf("error %.20q", s), j, job.Move{Event: job.Discard, Failure: job.Failure{Message: s, Stack: s, Worker: s}})
	}
}

func applyMany(w *world) {
	w.insert(w.many(100)...)
	w.claim(w.session(), 100)
	var ids []job.ID
	for _, j := range w.all() {
		ids = append(ids, j.ID)
	}
	n := 0
	ends := events[2:8]
	got := w.apply(ledger.Pick{IDs: ids}, func(j *job.Job) error {
		e := ends[int(j.ID[15]+j.ID[14])%len(ends)] // pure: fn may be called again
		n++
		return w.rules.Step(j, job.Move{Event: e, Now: w.now})
	})
	if n < 100 {
		w.Errorf("fn was called %d times for 100 jobs", n)
	}
	for _, a := range got {
		w.ok(a.Err)
		w.wantJob("stored", w.get(a.Job.ID), a.Job)
	}
}
