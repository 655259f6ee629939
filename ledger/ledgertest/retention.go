package ledgertest

import (
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var retentionTests = []test{
	{"ArchiveIsKeptForItsTime", nil, retentionKept},
	{"ArchiveIsDroppedWhole", nil, retentionDropped},
	{"DeadLettersStay", nil, retentionDead},
	{"UpkeepTwiceDoesNothingMore", nil, retentionTwice},
	{"UpkeepAtOnce", nil, retentionAtOnce},
	{"SlicesAreMadeAhead", nil, retentionAhead},
	{"ACancelledLetterIsAsOldAsItsCancel", nil, retentionCancelledDead},
}

func (w *world) upkeep(keep ledger.Keep) ledger.Upkept {
	w.Helper()
	did, err := w.l.Upkeep(w.ctx, w.now, keep)
	w.ok(err)
	return did
}

// finished makes a succeeded and a cancelled job.
func (w *world) finished() []job.ID {
	w.Helper()
	a, b := w.job(), w.job()
	w.insert(a)
	w.done(w.lease(a))
	w.insert(b)
	w.must(b.ID, job.Move{Event: job.Cancel})
	return []job.ID{a.ID, b.ID}
}

func retentionKept(w *world) {
	var ids []job.ID
	for range 24 {
		w.upkeep(ledger.DefaultKeep)
		ids = append(w.finished(), ids...)
		w.pass(time.Hour - time.Second)
	}
	w.upkeep(ledger.DefaultKeep)
	w.wantSet("not one is older than a day", idsOf(w.all()), ids)
	w.audit()
}

func retentionDropped(w *world) {
	w.upkeep(ledger.DefaultKeep)
	old := w.finished()
	live := w.inState(job.Ready, kind("live"))
	dead := w.inState(job.Dead, kind("dead"))
	w.pass(71 * time.Hour)
	w.upkeep(ledger.Keep{Archive: 1000 * time.Hour, Idempotency: time.Hour})
	young := w.finished()
	w.pass(time.Hour)
	did := w.upkeep(ledger.DefaultKeep)
	if did.SlicesDropped == 0 {
		w.Error("no slice was dropped")
	}
	for _, id := range old {
		w.gone(id)
	}
	w.wantSet("kept", idsOf(w.all()), append(young, live.ID, dead.ID))
	if n := w.counts()[countKey{"q", "k", job.Succeeded}]; n != 1 {
		w.Errorf("the counter says %d", n)
	}
	again := w.job()
	again.ID = old[0]
	w.wantOutcome("its id is free again", w.tryInsert(ledger.Item{Job: again})[0], ledger.InsertedNew, old[0])
}

func retentionDead(w *world) {
	a := w.inState(job.Dead, kind("a"))
	w.pass(100 * 24 * time.Hour)
	if did := w.upkeep(ledger.DefaultKeep); did.DeadRemoved != 0 {
		w.Errorf("%d removed without a rule", did.DeadRemoved)
	}
	b := w.inState(job.Dead, kind("b"))
	w.pass(time.Hour)
	keep := ledger.DefaultKeep
	keep.Dead = 24 * time.Hour
	if did := w.upkeep(keep); did.DeadRemoved != 1 {
		w.Errorf("%d removed, want 1", did.DeadRemoved)
	}
	w.gone(a.ID)
	w.wantSet("kept", idsOf(w.all()), []job.ID{b.ID})
}

func retentionTwice(w *world) {
	w.upkeep(ledger.DefaultKeep)
	w.finished()
	w.pass(80 * time.Hour)
	w.upkeep(ledger.DefaultKeep)
	if did := w.upkeep(ledger.DefaultKeep); did.SlicesDropped != 0 || did.DeadRemoved != 0 || did.KeysRemoved != 0 || did.SessionsGone != 0 || did.SlicesMade != 0 {
		w.Errorf("the second time at one moment: %+v", did)
	}
}

func retentionAtOnce(w *world) {
	w.upkeep(ledger.DefaultKeep)
	w.finished()
	keep := ledger.DefaultKeep
	keep.Dead = time.Hour
	w.inState(job.Dead)
	w.pass(80 * time.Hour)
	w.together(8, func(i int) error {
		if i%2 == 0 {
			_, err := w.l.Insert(w.ctx, w.now, items(w.job()))
			return err
		}
		_, err := w.l.Upkeep(w.ctx, w.now, keep)
		return err
	})
	if n := len(w.all()); n != 4 {
		w.Errorf("%d jobs are left, want the 4 new ones", n)
	}
}

// retentionAhead finishes a job an hour after the last upkeep: its slice is there.
func retentionAhead(w *world) {
	for range 4 {
		w.upkeep(ledger.DefaultKeep)
		w.pass(61 * time.Minute)
		w.finished()
	}
}

func retentionCancelledDead(w *world) {
	j := w.inState(job.Dead)
	w.pass(48 * time.Hour)
	w.upkeep(ledger.DefaultKeep)
	w.must(j.ID, job.Move{Event: job.Cancel})
	w.pass(23 * time.Hour)
	w.upkeep(ledger.DefaultKeep)
	if got := w.get(j.ID); got.State != job.Cancelled {
		w.Errorf("%s", got.State)
	}
}
