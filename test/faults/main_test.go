// Package faults holds the promises of docs/guarantees.md against real
// processes that are killed, frozen, cut off and starved while they work. All
// that is random is drawn from a seed, which a failure names.
//
// ERRAND_SEEDS is the number of seeds for each scenario (default 1), ERRAND_SEED
// the first of them (default 1), ERRAND_JOBS the number of jobs for each run
// (default 2000).
package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/errandhq/errand/test/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a number above 0", name, v)
	}
	return n
}

func jobs(t *testing.T) int { return number(t, "ERRAND_JOBS", 2000) }

// seeds runs f for each seed, with its own source of chance.
func seeds(t *testing.T, f func(t *testing.T, seed uint64, rng *rand.Rand)) {
	t.Helper()
	first := number(t, "ERRAND_SEED", 1)
	for i := range number(t, "ERRAND_SEEDS", 1) {
		seed := uint64(first + i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { f(t, seed, rand.New(rand.NewPCG(seed, 0xe44a))) })
	}
}
