package ledgertest

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

var idempotencyTests = []test{
	{"SameContentIsADuplicate", nil, idemSame},
	{"ScopedToTheCaller", nil, idemCaller},
	{"OutlivesTheJob", nil, idemOutlives},
	{"EndsWithItsTime", nil, idemEnds},
	{"WithinOneCall", nil, idemInCall},
	{"OneOf32Wins", nil, idemRace},
}

func (w *world) idem(caller, key string, digest int64, with ...func(*job.Job)) ledger.Item {
	it := ledger.Item{Job: w.job(with...), Caller: caller, IdempotencyKey: key, Fresh: true}
	it.Job.Digest = digest
	return it
}

func idemSame(w *world) {
	a := w.idem("c", "key", 1)
	w.wantOutcome("first", w.tryInsert(a)[0], ledger.InsertedNew, a.Job.ID)
	got := w.tryInsert(w.idem("c", "key", 1))[0]
	w.wantOutcome("same content", got, ledger.Duplicate, a.Job.ID)
	if got.State != job.Ready {
		w.Errorf("state %s", got.State)
	}
	w.wantOutcome("other content", w.tryInsert(w.idem("c", "key", 2))[0], ledger.KeyReused, a.Job.ID)
	w.wantOutcome("the very item", w.tryInsert(a)[0], ledger.Duplicate, a.Job.ID)
	w.wantSet("kept", idsOf(w.all()), []job.ID{a.Job.ID})
}

func idemCaller(w *world) {
	for _, it := range []ledger.Item{w.idem("c", "key", 1), w.idem("d", "key", 1), w.idem("", "key", 2), w.idem("c", "KEY", 3)} {
		w.wantOutcome(it.Caller+"/"+it.IdempotencyKey, w.tryInsert(it)[0], ledger.InsertedNew, it.Job.ID)
	}
}

func idemOutlives(w *world) {
	a := w.idem("c", "key", 1)
	w.tryInsert(a)
	w.done(w.lease(a.Job))
	got := w.tryInsert(w.idem("c", "key", 1))[0]
	w.wantOutcome("of a finished job", got, ledger.Duplicate, a.Job.ID)
	w.must(a.Job.ID, job.Move{Event: job.Delete})
	got = w.tryInsert(w.idem("c", "key", 1))[0]
	w.wantOutcome("of a deleted job", got, ledger.Duplicate, a.Job.ID)
	if got.State != 0 {
		w.Errorf("a deleted job is said to be %s", got.State)
	}
	w.wantOutcome("the very item, which was deleted", w.tryInsert(a)[0], ledger.Duplicate, a.Job.ID)
	a.Job.Digest++
	w.wantOutcome("its id with other content", w.tryInsert(a)[0], ledger.KeyReused, a.Job.ID)
	w.gone(a.Job.ID)
}

func idemEnds(w *world) {
	a := w.idem("c", "key", 1)
	w.tryInsert(a)
	w.pass(23 * time.Hour)
	_, err := w.l.Upkeep(w.ctx, w.now, ledger.DefaultKeep)
	w.ok(err)
	w.wantOutcome("after 23 hours", w.tryInsert(w.idem("c", "key", 2))[0], ledger.KeyReused, a.Job.ID)
	w.pass(2 * time.Hour)
	did, err := w.l.Upkeep(w.ctx, w.now, ledger.DefaultKeep)
	w.ok(err)
	if did.KeysRemoved != 1 {
		w.Errorf("%d keys removed", did.KeysRemoved)
	}
	b := w.idem("c", "key", 2)
	w.wantOutcome("after 25 hours", w.tryInsert(b)[0], ledger.InsertedNew, b.Job.ID)
}

func idemInCall(w *world) {
	a, b, c := w.idem("c", "key", 1), w.idem("c", "key", 1), w.idem("c", "key", 2)
	got := w.tryInsert(a, b, c)
	w.wantOutcome("first", got[0], ledger.InsertedNew, a.Job.ID)
	w.wantOutcome("same", got[1], ledger.Duplicate, a.Job.ID)
	w.wantOutcome("other", got[2], ledger.KeyReused, a.Job.ID)
}

func idemRace(w *world) {
	var its []ledger.Item
	for range 32 {
		its = append(its, w.idem("c", "key", 1))
	}
	var wins atomic.Int32
	w.together(len(its), func(i int) error {
		got, err := w.l.Insert(w.ctx, w.now, its[i:i+1])
		switch {
		case err != nil:
			return err
		case got[0].Outcome == ledger.InsertedNew:
			wins.Add(1)
		case got[0].Outcome != ledger.Duplicate:
			return errors.New("neither new nor a duplicate")
		}
		return nil
	})
	if wins.Load() != 1 || len(w.all()) != 1 {
		w.Errorf("%d inserts won, %d jobs are kept", wins.Load(), len(w.all()))
	}
}
