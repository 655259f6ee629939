package insight

import (
	"math"
	"time"
)

// Sure is the share of attempts that is to begin within the target.
const Sure = 0.99

// mostSlots bounds the search; nobody has more.
const mostSlots = 1_000_000

// Slots returns how many hands a queue needs so that the share Sure of
// its attempts waits no longer than target, and how many are busy on average.
//
// The busy ones are the load, rate × run, by Little's law (J. D. C. Little, "A
// Proof for the Queuing Formula L = λW", Operations Research 9(3), 1961). With c
// of them the share that waits longer than t is C(c, load) × exp(-(c-load) × t/run),
// where C is Erlang's formula for a queue with random arrivals and run times
// (A. K. Erlang, 1917). Steadier run times wait less; arrivals in bursts, more.
func Slots(rate float64, run, target time.Duration) (slots int, load float64) {
	if rate <= 0 || run <= 0 {
		return 0, 0
	}
	load = rate * run.Seconds()
	blocked := 1.0 // Erlang B, of c so far
	for c := 1; c <= mostSlots; c++ {
		blocked = load * blocked / (float64(c) + load*blocked)
		spare := float64(c) - load
		if spare <= 0 {
			continue
		}
		waits := blocked / (1 - load/float64(c)*(1-blocked)) // Erlang C
		if waits*math.Exp(-spare*target.Seconds()/run.Seconds()) <= 1-Sure {
			return c, load
		}
	}
	return mostSlots, load
}
