package ledgertest

import (
	"testing"

	"github.com/errandhq/errand/ledger"
)

// The suite is tested against the model: what the model cannot pass, no ledger
// could.
func TestSuiteAgainstModel(t *testing.T) {
	Run(t, func(testing.TB) ledger.Ledger { return newModel(fixedRules(), 1) }, Features{scans: true})
}

// BenchmarkModel is there to try the benchmarks themselves.
func BenchmarkModel(b *testing.B) {
	Benchmark(b, func(testing.TB) ledger.Ledger { return newModel(fixedRules(), 1) })
}
