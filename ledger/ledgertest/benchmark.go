package ledgertest

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Benchmark measures the hot paths of a ledger, each on a store of its own.
// Every benchmark's unit is one job, so that ns/op compare, and it reports
// jobs/s as well.
func Benchmark(b *testing.B, open func(t testing.TB) ledger.Ledger) {
	for _, c := range []struct {
		name string
		run  func(*bench)
	}{
		{"Insert1000", (*bench).insertBatches},
		{"Insert16Singles", (*bench).insertSingles},
		{"ClaimSucceed", (*bench).claimSucceed},
		{"CarriedSucceed", (*bench).carriedSucceed},
		{"Mixed", (*bench).mixed},
		{"ApplyFail", (*bench).applyFail},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b, suite{open: open})
			w.upkeep(ledger.DefaultKeep)
			c.run(&bench{world: w, b: b})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
		})
	}
}

// bench is a world with a clock that counts.
type bench struct {
	*world
	b *testing.B
}

// benchBatch is the size of a batch: as many as one call may have.
const benchBatch = job.MaxBatch

func payload100(j *job.Job) { j.Payload = make([]byte, 100) }

// fill inserts n jobs while the clock stands.
func (w *bench) fill(n int) {
	w.b.StopTimer()
	for ; n > 0; n -= benchBatch {
		w.insert(w.many(min(n, benchBatch), payload100)...)
	}
	w.b.StartTimer()
}

func (w *bench) insertBatches() {
	for n := w.b.N; n > 0; n -= benchBatch {
		w.b.StopTimer()
		jobs := w.many(min(n, benchBatch), payload100)
		w.b.StartTimer()
		w.insert(jobs...)
	}
}

// insertSingles are calls of one job each, from 16 goroutines at once.
func (w *bench) insertSingles() {
	const producers = 16
	var left atomic.Int64
	left.Store(int64(w.b.N))
	w.b.ResetTimer()
	w.together(producers, func(int) error {
		for left.Add(-1) >= 0 {
			if _, err := w.l.Insert(w.ctx, w.now, items(w.job(payload100))); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *bench) claimSucceed() {
	s := w.session()
	w.fill(w.b.N)
	for n := 0; n < w.b.N; {
		got := w.claim(s, benchBatch)
		if len(got) == 0 {
			w.b.Fatalf("%d of %d jobs were found", n, w.b.N)
		}
		w.done(got...)
		n += len(got)
	}
}

// carriedSucceed takes the way of jobs that a broker carries: the heads of a
// window, leased by name for many sessions at once.
func (w *bench) carriedSucceed() {
	sessions := make([]job.ID, 20)
	for i := range sessions {
		sessions[i] = w.session()
	}
	w.fill(w.b.N)
	for n := 0; n < w.b.N; {
		refs := w.heads(benchBatch, "k")
		if len(refs) == 0 {
			w.b.Fatalf("%d of %d jobs were found", n, w.b.N)
		}
		var reqs []ledger.Claim
		for share := range slices.Chunk(refs, benchBatch/len(sessions)) {
			reqs = append(reqs, byName(sessions[len(reqs)%len(sessions)], share...))
		}
		var jobs []job.Job
		for _, got := range w.tryClaim(reqs...) {
			w.ok(got.Err)
			jobs = append(jobs, got.Jobs...)
		}
		w.done(jobs...)
		n += len(jobs)
	}
}

// mixed lets a producer and two consumers share the ledger.
func (w *bench) mixed() {
	sessions := []job.ID{w.session(), w.session()}
	var given sync.Map
	var done atomic.Int64
	jobs := w.many(w.b.N, payload100, kind("k0"))
	w.b.ResetTimer()
	w.together(1+len(sessions), func(i int) error {
		if i == 0 {
			return insertAll(w.world, w.l, jobs, benchBatch)
		}
		return workAll(w.world, w.l, sessions[i-1], benchBatch, &given, &done, int64(len(jobs)))
	})
}

func (w *bench) applyFail() {
	s := w.session()
	for n := w.b.N; n > 0; n -= benchBatch {
		size := min(n, benchBatch)
		w.fill(size)
		w.b.StopTimer()
		ids := idsOf(w.claim(s, size))
		w.b.StartTimer()
		m := job.Move{Event: job.Fail, Now: w.now, Failure: job.Failure{Message: "no", Worker: "w"}}
		w.apply(ledger.Pick{IDs: ids, Wait: true}, func(j *job.Job) error { return w.rules.Step(j, m) })
	}
}
