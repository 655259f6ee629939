package ledgertest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var insertTests = []test{
	{"EveryFieldComesBack", nil, insertEveryField},
	{"AnyBytesComeBack", nil, insertAnyBytes},
	{"TracesComeBack", nil, insertTraces},
	{"LargePayload", nil, insertLarge},
	{"EmptyCall", nil, func(w *world) { w.tryInsert() }},
	{"RepeatedIDs", nil, insertRepeated},
	{"RepeatedWithinOneCall", nil, insertRepeatedInCall},
	{"ManyInOneCall", nil, insertMany},
	{"SeqGrows", nil, insertSeqGrows},
	{"DeletedIDIsFree", nil, insertAfterDelete},
}

// fullJob sets every field that a producer can.
func fullJob(w *world) job.Job {
	return w.job(queue("mail"), kind("send"), prio(3), tags("a", "b c", `"quoted"`, "ü"), expires(w.now.Add(time.Hour)),
		at(w.now.Add(1500*time.Microsecond)), unique("key-1", job.ForWindow, 90*time.Minute), func(j *job.Job) {
			j.ContentType, j.Trace, j.Timeout = "text/plain", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 30*time.Second
			j.Digest, j.MaxAttempts, j.Progress = -77, 10000, []byte(`"half"`)
			j.CreatedAt = w.now.Add(-7 * time.Microsecond)
		})
}

func insertEveryField(w *world) {
	j := fullJob(w)
	w.insert(j)
	w.wantJob("scheduled", w.get(j.ID), j)
	plain := w.job()
	w.insert(plain)
	w.wantJob("plain", w.get(plain.ID), plain)
}

func insertAnyBytes(w *world) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	jobs := []job.Job{w.job(body(all)), w.job(body(nil)), w.job(body([]byte{0})), w.job(body([]byte("\\x00'\"`$1?%;--")))}
	jobs[0].Progress = all
	w.insert(jobs...)
	for _, j := range jobs {
		w.wantJob("stored", w.get(j.ID), j)
	}
	s := w.session()
	for i, j := range w.claim(s, 10) {
		if !bytes.Equal(j.Payload, jobs[i].Payload) {
			w.Errorf("leased payload %q, want %q", j.Payload, jobs[i].Payload)
		}
		if !w.succeed(ledger.Success{ID: j.ID, Token: j.Token, Result: all})[0] || !bytes.Equal(w.get(j.ID).Result, all) {
			w.Errorf("result %q", w.get(j.ID).Result)
		}
	}
}

// insertTraces: a ledger may keep a trace in whatever form, but gives it out as it came,
// of neighbours to each its own.
func insertTraces(w *world) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	traces := []string{
		parent, parent, parent[:54] + "0", "", parent + " rojo=00f067aa0ba902b7,congo=t61", parent, parent[:53] + "ff",
		"01" + parent[2:], strings.ToUpper(parent), parent + "-more", parent[:54], "mine", "~", "~~" + parent, strings.Repeat("~", 34), parent,
	}
	with := func(trace string) func(*job.Job) { return func(j *job.Job) { j.Trace = trace } }
	s := w.session()
	for _, times := range []int{1, 10} { // a few go another way than many
		want := map[job.ID]string{}
		var jobs []job.Job
		for range times {
			for _, trace := range traces {
				j := w.job(with(trace))
				want[j.ID] = j.Trace
				jobs = append(jobs, j)
			}
		}
		w.insert(jobs...)
		claimed := w.claim(s, len(jobs))
		if len(claimed) != len(jobs) {
			w.Fatalf("%d of %d jobs were leased", len(claimed), len(jobs))
		}
		for _, j := range claimed {
			if j.Trace != want[j.ID] {
				w.Errorf("leased trace %q, want %q", j.Trace, want[j.ID])
			}
		}
		w.done(claimed...)
		for id, trace := range want {
			if got := w.get(id).Trace; got != trace {
				w.Errorf("trace of a success %q, want %q", got, trace)
			}
		}
	}
	for _, state := range []job.State{job.Scheduled, job.Dead, job.Cancelled} {
		for _, trace := range traces {
			if got := w.get(w.inState(state, with(trace)).ID).Trace; got != trace {
				w.Errorf("trace of a job that is %s: %q, want %q", state, got, trace)
			}
		}
	}
}

func insertLarge(w *world) {
	jobs := []job.Job{w.job(body(bytes.Repeat([]byte("0123456789abcdef"), 1<<16))), w.job(body(bytes.Repeat([]byte{0xff}, 4<<20)))}
	w.insert(jobs...)
	for _, j := range jobs {
		if got := w.get(j.ID); !bytes.Equal(got.Payload, j.Payload) {
			w.Errorf("payload of %d bytes came back with %d", len(j.Payload), len(got.Payload))
		}
	}
}

// insertRepeated repeats an insert in every state the job can be in.
func insertRepeated(w *world) {
	for s := job.Scheduled; s <= job.Cancelled; s++ {
		j := w.inState(s, kind(s.String()))
		again := w.job(kind("other"))
		again.ID, again.Digest = j.ID, j.Digest
		other := again
		other.Digest++
		for _, c := range []struct {
			j    job.Job
			want ledger.InsertOutcome
		}{{again, ledger.Duplicate}, {other, ledger.IDTaken}} {
			got := w.tryInsert(ledger.Item{Job: c.j})[0]
			if got.Outcome != c.want || got.Holder != j.ID || got.State != s {
				w.Errorf("%s: %+v, want outcome %d of %s", s, got, c.want, j.ID)
			}
		}
		w.wantJob("after repeats of a "+s.String()+" job", w.get(j.ID), j)
	}
}

func insertRepeatedInCall(w *world) {
	a, b := w.job(), w.job()
	twin := b
	twin.Digest++
	got := w.tryInsert(ledger.Item{Job: a}, ledger.Item{Job: b}, ledger.Item{Job: a}, ledger.Item{Job: twin})
	want := []ledger.InsertOutcome{ledger.InsertedNew, ledger.InsertedNew, ledger.Duplicate, ledger.IDTaken}
	for i, g := range got {
		if g.Outcome != want[i] {
			w.Errorf("item %d: outcome %d, want %d", i, g.Outcome, want[i])
		}
	}
	w.wantSet("kept", idsOf(w.all()), []job.ID{a.ID, b.ID})
}

func insertMany(w *world) {
	jobs := w.many(job.MaxBatch)
	for i := range jobs {
		jobs[i].Queue = fmt.Sprintf("q%d", i%7)
		jobs[i].Kind = strings.Repeat("k", 1+i%128)
	}
	w.insert(jobs...)
	if n := len(w.all()); n != len(jobs) {
		w.Errorf("%d jobs kept", n)
	}
}

func insertSeqGrows(w *world) {
	last := int64(0)
	for range 30 {
		jobs := w.many(3)
		w.insert(jobs...)
		for _, j := range jobs {
			if seq := w.get(j.ID).Seq; seq <= last {
				w.Fatalf("seq %d after %d", seq, last)
			} else {
				last = seq
			}
		}
	}
	var bursts [][]job.ID
	for range 5 {
		bursts = append(bursts, w.burst(16))
	}
	for _, ids := range bursts {
		low, high := int64(1)<<62, last
		for _, id := range ids {
			seq := w.get(id).Seq
			low, high = min(low, seq), max(high, seq)
		}
		if low <= last {
			w.Errorf("seq %d was drawn after a job with seq %d was committed", low, last)
		}
		last = high
	}
}

// burst inserts n jobs from n goroutines.
func (w *world) burst(n int) []job.ID {
	jobs := w.many(n)
	w.together(n, func(i int) error {
		_, err := w.l.Insert(w.ctx, w.now, items(jobs[i]))
		return err
	})
	return idsOf(jobs)
}

func insertAfterDelete(w *world) {
	for _, s := range []job.State{job.Scheduled, job.Ready, job.Dead, job.Succeeded, job.Cancelled} {
		j := w.inState(s, unique("key-"+s.String(), job.UntilDone, 0))
		w.must(j.ID, job.Move{Event: job.Delete})
		w.gone(j.ID)
		again := w.job(unique("key-"+s.String(), job.UntilDone, 0), kind("again"))
		again.ID = j.ID
		if got := w.tryInsert(ledger.Item{Job: again})[0]; got.Outcome != ledger.InsertedNew {
			w.Errorf("after the delete of a %s job: %+v", s, got)
		}
		w.wantJob("again", w.get(j.ID), again)
	}
	if ids := idsOf(w.all()); len(ids) != 5 || !slices.IsSortedFunc(ids, func(a, b job.ID) int { return slices.Compare(b[:], a[:]) }) {
		w.Errorf("kept %v", ids)
	}
}
