package sqlite_test

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/ledgertest"
	"github.com/errandhq/errand/ledger/sqlite"
)

var paths sync.Map // ledger -> path, for Reopen

func open(t testing.TB) ledger.Ledger {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "errand.db"))
}

func openAt(t testing.TB, path string) ledger.Ledger {
	t.Helper()
	l, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	paths.Store(l, path)
	t.Cleanup(func() { _ = l.Close() }) // Reopen may have closed it
	return l
}

func TestSQLite(t *testing.T) {
	ledgertest.Run(t, open, ledgertest.Features{
		Reopen: func(t testing.TB, l ledger.Ledger) ledger.Ledger {
			path, _ := paths.Load(l)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return openAt(t, path.(string))
		},
	})
}

func BenchmarkSQLite(b *testing.B) { ledgertest.Benchmark(b, open) }

func TestOneOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "errand.db")
	openAt(t, path)
	_, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if job.ReasonOf(err) != job.ReasonLedgerLocked {
		t.Fatalf("a second open: %v", err)
	}
}
