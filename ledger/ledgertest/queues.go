package ledgertest

import (
	"slices"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var queueTests = []test{
	{"PausedGivesNothing", nil, queuePaused},
	{"Routes", nil, queueRoutes},
	{"CountsFollowEveryMove", nil, queueCounts},
	{"OldestReady", nil, queueOldest},
	{"Clock", nil, queueClock},
	{"Vitals", nil, queueVitals},
	{"ListenEndsWithItsContext", nil, queueListen},
}

func queuePaused(w *world) {
	j := w.job()
	w.insert(j, w.job(queue("other")))
	s := w.session()
	pause := func(q string, on bool, want ...string) {
		w.Helper()
		w.ok(w.l.SetPaused(w.ctx, w.now, q, on))
		got, err := w.l.Paused(w.ctx)
		w.ok(err)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			w.Errorf("paused %q, want %q", got, want)
		}
	}
	pause("q", true, "q")
	pause("q", true, "q")
	pause("never seen", true, "never seen", "q")
	if got := w.claim(s, 5); len(got) != 0 {
		w.Errorf("a paused queue gave %v", idsOf(got))
	}
	if got := w.claimOf("other", s, 5); len(got) != 1 {
		w.Error("another queue is not paused")
	}
	w.insert(w.job())
	pause("never seen", false, "q")
	pause("q", false)
	pause("q", false)
	if got := w.claim(s, 5); len(got) != 2 || got[0].ID != j.ID {
		w.Errorf("resumed: %v", idsOf(got))
	}
}

func queueCounts(w *world) {
	if got := w.counts(); len(got) != 0 {
		w.Errorf("an empty ledger counts %v", got)
	}
	for s := job.Scheduled; s <= job.Cancelled; s++ {
		j := w.inState(s, queue("q"+s.String()), kind("k"+s.String()))
		if got := w.counts()[countKey{j.Queue, j.Kind, s}]; got != 1 {
			w.Errorf("%s: %d", s, got)
		}
		w.audit()
		_, err := w.l.Upkeep(w.ctx, w.now, ledger.DefaultKeep)
		w.ok(err)
		w.audit()
		if s != job.Running {
			w.must(j.ID, job.Move{Event: job.Delete})
			if got := w.counts()[countKey{j.Queue, j.Kind, s}]; got != 0 {
				w.Errorf("%s after the delete: %d", s, got)
			}
		}
	}
}

func queueOldest(w *world) {
	oldest := func(want map[string]time.Time) {
		w.Helper()
		got, err := w.l.OldestReady(w.ctx)
		w.ok(err)
		if len(got) != len(want) {
			w.Errorf("%d answers, want %d: %v", len(got), len(want), got)
		}
		for _, o := range got {
			if !o.Since.Equal(want[o.Queue+"/"+o.Kind]) {
				w.Errorf("%s/%s since %s, want %s", o.Queue, o.Kind, o.Since, want[o.Queue+"/"+o.Kind])
			}
		}
	}
	oldest(nil)
	start := w.now
	w.insert(w.job(prio(5)), w.job(kind("other"), queue("r")))
	w.pass(time.Minute)
	w.insert(w.job(prio(0)), w.job(at(start)), w.job(kind("other"), queue("r"), prio(1)))
	oldest(map[string]time.Time{"q/k": start, "r/other": start})
	s := w.session()
	w.done(w.claimOf("r", s, 5)...)
	w.done(w.claim(s, 5)...)
	oldest(nil)
	w.insert(w.job(prio(3)))
	oldest(map[string]time.Time{"q/k": w.now})
}

func queueClock(w *world) {
	first, err := w.l.Now(w.ctx)
	w.ok(err)
	second, err := w.l.Now(w.ctx)
	w.ok(err)
	if second.Before(first) || first.Year() < 2020 {
		w.Errorf("%s, then %s", first, second)
	}
}

func queueListen(w *world) {
	w.ok(w.l.Wake(w.ctx, nil))
	w.ok(w.l.Wake(w.ctx, []string{"q", "", "O'Brien", strings.Repeat("q", job.MaxName)}))
	ctx, cancel := contextOf(w)
	ended := make(chan error, 1)
	go func() { ended <- w.l.Listen(ctx, func(string) {}) }()
	cancel()
	select {
	case err := <-ended:
		w.ok(err)
	case <-w.ctx.Done():
		w.Fatal("Listen does not end with its context")
	}
}

// queueVitals: of a ledger that can be examined, the signs follow what is there.
func queueVitals(w *world) {
	x, ok := w.l.(ledger.Examined)
	if !ok {
		return
	}
	v, err := x.Vitals(w.ctx)
	w.ok(err)
	if v.Bytes <= 0 || !v.OldestDead.IsZero() {
		w.Errorf("an empty ledger has %d bytes and a dead letter of %s", v.Bytes, v.OldestDead)
	}
	first := w.inState(job.Dead)
	w.pass(time.Hour)
	w.inState(job.Dead)
	v, err = x.Vitals(w.ctx)
	w.ok(err)
	if at := w.get(first.ID).DoneAt; !v.OldestDead.Equal(at) {
		w.Errorf("the oldest letter is said to be of %s, and is of %s", v.OldestDead, at)
	}
}
