package postgres

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/ledgertest"
)

// bench remembers the address of each ledger of the suite.
type bench struct {
	mu  sync.Mutex
	dsn map[ledger.Ledger]string
	few int
}

func (b *bench) openAt(t testing.TB, dsn string, opts Options) ledger.Ledger {
	t.Helper()
	if opts.Pooler {
		opts.ListenDSN = dsn
	}
	l := openAt(t, dsn, opts)
	l.few = b.few
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dsn[l] = dsn
	return l
}

func (b *bench) of(l ledger.Ledger) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dsn[l]
}

func TestConformance(t *testing.T) { conform(t, Options{MaxConns: 6}, fewClaimed, "3") }

// TestConformanceBlocks runs the suite with claims by blocks wherever they may be.
func TestConformanceBlocks(t *testing.T) { conform(t, Options{MaxConns: 6}, -1, "3") }

// TestConformancePooler runs the suite with the statements that are sent
// behind a pooler.
func TestConformancePooler(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the suite runs once, without a pooler")
	}
	conform(t, Options{MaxConns: 6, Pooler: true}, fewClaimed, "1") // each statement is planned anew, over a partition for each hour that the model passes
}

// conform runs the suite; checks is how many random sequences it compares, where the environment does not say.
func conform(t *testing.T, opts Options, few int, checks string) {
	if _, given := os.LookupEnv("ERRAND_MODEL_CHECKS"); !given {
		t.Setenv("ERRAND_MODEL_CHECKS", checks)
	}
	b := &bench{dsn: map[ledger.Ledger]string{}, few: few}
	ledgertest.Run(t, func(t testing.TB) ledger.Ledger { return b.openAt(t, testenv.Postgres(t), opts) }, ledgertest.Features{
		Second: func(t testing.TB, l ledger.Ledger) ledger.Ledger { return b.openAt(t, b.of(l), opts) },
		Reopen: func(t testing.TB, l ledger.Ledger) ledger.Ledger {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return b.openAt(t, b.of(l), opts)
		},
		HoldInsert: func(t testing.TB, l ledger.Ledger, it ledger.Item) func() { return holdInsert(t, l.(*Ledger), it) },
	})
}

func BenchmarkPostgres(b *testing.B) {
	ledgertest.Benchmark(b, func(t testing.TB) ledger.Ledger { return openAt(t, testenv.Postgres(t), Options{}) })
}

// holdInsert stores a job in a transaction that has drawn its number, and
// commits it when asked.
func holdInsert(t testing.TB, l *Ledger, it ledger.Item) (commit func()) {
	t.Helper()
	drawn, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- l.inTx(context.Background(), "hold an insert", func(t *tx) error {
			ctx := context.Background()
			jobs := []*job.Job{&it.Job}
			seqs, err := t.drawSeqs(ctx, jobs)
			if err != nil {
				return err
			}
			d := deltas{}
			if err := t.copyJobs(ctx, liveTable, jobs, seqs, false, d); err != nil {
				return err
			}
			close(drawn)
			<-release
			return t.commit(ctx, d.steps()...)
		})
	}()
	select {
	case <-drawn:
	case err := <-done:
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		close(release)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}
