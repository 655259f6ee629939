package main

import "testing"

func TestRatiosPairRounds(t *testing.T) {
	got := ratios(map[int]float64{0: 10, 1: 20, 2: 30}, map[int]float64{0: 5, 2: 10, 3: 1})
	if len(got) != 2 || got[0]+got[1] != 5 {
		t.Errorf("ratios %v, want 2 and 3", got)
	}
}
