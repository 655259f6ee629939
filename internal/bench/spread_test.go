package bench

import (
	"math"
	"testing"
)

func TestSpreadOf(t *testing.T) {
	for _, c := range []struct {
		samples           []float64
		median, low, high float64
	}{
		{[]float64{3}, 3, 3, 3},
		{[]float64{2, 1}, 1.5, 1, 2},
		{[]float64{5, 1, 3}, 3, 1, 5},
		{[]float64{9, 8, 7, 6, 5, 4, 3, 2, 1}, 5, 2, 8},                // 96 %
		{[]float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 6.5, 3, 10}, // 96 %
	} {
		if got := SpreadOf(c.samples); got != (Spread{c.median, c.low, c.high}) {
			t.Errorf("spread of %v is %v", c.samples, got)
		}
	}
	if got := SpreadOf(nil); !math.IsNaN(got.Median) {
		t.Errorf("the spread of nothing is %v", got)
	}
}
