package main

// ratios divides what two systems reached in the same rounds.
func ratios(a, b map[int]float64) []float64 {
	var out []float64
	for round, v := range a {
		if w, ok := b[round]; ok && w > 0 {
			out = append(out, v/w)
		}
	}
	return out
}
