package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Number is the environment variable's value, a number above 0, or otherwise.
func Number(t *testing.T, name string, otherwise int) int {
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

// Seeds runs f for each seed, with its own source of chance: ERRAND_SEEDS of them
// (default 1), from ERRAND_SEED up (default 1).
func Seeds(t *testing.T, f func(t *testing.T, seed uint64, rng *rand.Rand)) {
	t.Helper()
	first := Number(t, "ERRAND_SEED", 1)
	for i := range Number(t, "ERRAND_SEEDS", 1) {
		seed := uint64(first + i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { f(t, seed, rand.New(rand.NewPCG(seed, 0xe44a))) })
	}
}
