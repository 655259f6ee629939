package ledgertest

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// compare holds everything that the ledger keeps against the model.
func (r *random) compare() {
	r.Helper()
	listed := r.all()
	want := r.m.where(func(*job.Job) bool { return true })
	slices.Reverse(want)
	r.wantIDs("jobs kept", idsOf(listed), idsOf(want))
	if r.Failed() {
		r.FailNow()
	}
	r.compareJobs(want)
	if got, n := r.counts(), tally(want); !maps.Equal(got, n) {
		r.Fatalf("counters %v, want %v", got, n)
	}
	r.compareSessions()
	r.compareOldest()
	r.comparePulse()
}

// comparePulse leaves it to the ledger whether it tells of jobs that have expired.
func (r *random) comparePulse() {
	r.Helper()
	for _, queues := range [][]ledger.Head{{{Queue: "q"}, {Queue: "r", Kinds: []string{"k2", "k1"}}}, {{Queue: "r"}, {Queue: "q", Kinds: []string{"k0"}}}} {
		ask := ledger.Ask{Due: true, Orphans: true, Cancels: true, Queues: queues}
		got := r.pulse(ask)
		want, _ := r.m.Pulse(r.ctx, r.now, ask)
		most, _ := r.m.Pulse(r.ctx, time.Time{}, ask)
		missing := slices.ContainsFunc(want.Ready, func(q string) bool { return !slices.Contains(got.Ready, q) })
		tooMuch := slices.ContainsFunc(got.Ready, func(q string) bool { return !slices.Contains(most.Ready, q) })
		if got.Due != want.Due || got.Orphans != want.Orphans || got.Cancels != want.Cancels || missing || tooMuch {
			r.Fatalf("pulse for %v: %+v, want %+v", queues, got, want)
		}
	}
}

// compareJobs also makes the ledger's fresh Seqs the model's, so that the two
// stay comparable; they must lie beyond all that were drawn before.
func (r *random) compareJobs(want []job.Job) {
	r.Helper()
	got, err := r.l.Get(r.ctx, idsOf(want))
	r.ok(err)
	stored := map[job.ID]job.Job{}
	for _, j := range got {
		stored[j.ID] = j
	}
	highest := r.lastSeq
	for _, j := range want {
		g := stored[j.ID]
		if j.Seq >= fresh {
			if g.Seq <= r.lastSeq {
				r.Fatalf("job %s drew seq %d, after %d", j.ID, g.Seq, r.lastSeq)
			}
			j.Seq = g.Seq
			r.m.jobs[j.ID] = j
		}
		if !j.State.Final() {
			highest = max(highest, j.Seq)
		}
		r.wantJob(fmt.Sprintf("%s job %s", j.State, j.ID), g, j)
	}
	r.lastSeq = highest
}

func (r *random) compareSessions() {
	r.Helper()
	got, err := r.l.ListSessions(r.ctx, true)
	r.ok(err)
	want, _ := r.m.ListSessions(r.ctx, true)
	text := func(ss []ledger.Session) (out []string) {
		for _, s := range ss {
			out = append(out, fmt.Sprintf("%s %s beat %d at %s ended %s running %d", s.ID, s.State, s.Beat, stamp(s.BeatAt), stamp(s.EndedAt), s.Running))
		}
		return out
	}
	if g, w := text(got), text(want); !slices.Equal(g, w) {
		r.Fatalf("sessions:\n got  %q\n want %q", g, w)
	}
}

func (r *random) compareOldest() {
	r.Helper()
	got, err := r.l.OldestReady(r.ctx)
	r.ok(err)
	want, _ := r.m.OldestReady(r.ctx)
	text := func(os []ledger.Oldest) (out []string) {
		for _, o := range os {
			out = append(out, o.Queue+"/"+o.Kind+" "+stamp(o.Since))
		}
		slices.Sort(out)
		return out
	}
	if g, w := text(got), text(want); !slices.Equal(g, w) {
		r.Fatalf("oldest ready: %q, want %q", g, w)
	}
}
