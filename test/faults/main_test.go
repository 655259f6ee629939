// Package faults holds the promises of docs/guarantees.md against real
// processes that are killed, frozen, cut off and starved while they work. All
// that is random is drawn from a seed, which a failure names.
//
// ERRAND_SEEDS is the number of seeds for each scenario (default 1), ERRAND_SEED
// the first of them (default 1), ERRAND_JOBS the number of jobs for each run
// (default 2000).
package faults

import (
	"testing"

	"github.com/errandhq/errand/test/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

func jobs(t *testing.T) int { return cluster.Number(t, "ERRAND_JOBS", 2000) }
