package bench

import (
	"math"
	"slices"
)

// Spread is a median with its interval.
type Spread struct{ Median, Low, High float64 }

// SpreadOf takes the interval from the order of the samples, which supposes
// nothing of their distribution: that which holds the true median with at least
// 95 % confidence, or from the least to the greatest where there are fewer than
// six. Of nine it goes from the second to the eighth.
func SpreadOf(samples []float64) Spread {
	if len(samples) == 0 {
		return Spread{math.NaN(), math.NaN(), math.NaN()}
	}
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	median := s[n/2]
	if n%2 == 0 {
		median = (s[n/2-1] + s[n/2]) / 2
	}
	k := cut(n)
	return Spread{median, s[k], s[n-1-k]}
}

// cut is how many samples lie outside of the interval at each end: the interval
// misses the median if at most so many of n fair coins show heads, or tails.
func cut(n int) int {
	best, tail, chance := 0, 0.0, math.Pow(0.5, float64(n))
	for k := range n / 2 {
		if tail += chance; 2*tail > 0.05 {
			break
		}
		best = k
		chance *= float64(n-k) / float64(k+1)
	}
	return best
}
