package chaos

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// step is one fault of a schedule.
type step struct {
	lane string        // what it happens to; steps of a lane follow each other
	what string        // what is done
	at   time.Duration // after the beginning of the load, or later if the lane is busy
	last time.Duration // how long it goes on
	lot  int           // chooses one of several victims
}

// name is the fault, whichever victim and however long.
func (s step) name() string { return s.what + " " + s.lane }

func (s step) String() string {
	return fmt.Sprintf("%6.2fs %s (lot %d) for %s", s.at.Seconds(), s.name(), s.lot, s.last.Round(time.Millisecond))
}

// deck is what may happen to a part. Its cards are drawn in a random order, each once
// before any comes again, so that a schedule of a minute has them all.
type deck struct {
	lane        string
	cards       []card
	least, most time.Duration // between two steps
}

type card struct {
	what        string
	least, most time.Duration
}

var decks = []deck{
	{"server", []card{{"kill", 0, 1500 * time.Millisecond}}, 2 * time.Second, 6 * time.Second},
	{"worker", []card{{"kill", 0, time.Second}}, 2 * time.Second, 5 * time.Second},
	{"postgres", []card{{"kill", 0, time.Second}}, 12 * time.Second, 25 * time.Second},
	{"rabbitmq", carrier, 2 * time.Second, 5 * time.Second},
	{"kafka", carrier, 2 * time.Second, 5 * time.Second},
	{"redis", []card{{"kill", 0, 2 * time.Second}, {"flush", 0, 0}, {"flush", 0, 0}}, 3 * time.Second, 7 * time.Second},
	{"line", []card{
		{"delay", time.Second, 4 * time.Second}, {"swallow", time.Second, 7 * time.Second}, {"cut", 0, time.Second},
	}, time.Second, 3 * time.Second},
	{"bridge", []card{{"cut", 2 * time.Second, 9 * time.Second}}, 6 * time.Second, 12 * time.Second},
	{"jobs", []card{{"burst", 0, 0}}, 6 * time.Second, 10 * time.Second},
}

// carrier is what may happen to the messages of a broker, and to the broker itself.
var carrier = []card{
	{"purge", 0, 0}, {"double", 0, 0}, {"drop", 0, 0}, {"delay", time.Second, 3 * time.Second}, {"kill", 0, time.Second},
}

// plan draws the schedule of a seed: the same for the same seed.
func plan(seed uint64, over time.Duration) []step {
	var steps []step
	for n, d := range decks {
		rng := rand.New(rand.NewPCG(seed, uint64(n)))
		between := func(least, most time.Duration) time.Duration {
			if most <= least {
				return least
			}
			return least + time.Duration(rng.Int64N(int64(most-least)))
		}
		cards := slices.Clone(d.cards)
		for at, i := between(0, d.most), 0; at < over; i++ {
			if i%len(cards) == 0 {
				rng.Shuffle(len(cards), func(a, b int) { cards[a], cards[b] = cards[b], cards[a] })
			}
			c := cards[i%len(cards)]
			s := step{lane: d.lane, what: c.what, at: at, last: between(c.least, c.most), lot: rng.IntN(1 << 16)}
			steps = append(steps, s)
			at += s.last + between(d.least, d.most)
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	return steps
}

// kinds are the names of all faults of a schedule.
func kinds() (names []string) {
	for _, d := range decks {
		for _, c := range d.cards {
			if name := c.what + " " + d.lane; !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// A seed gives one schedule, another seed another, and each has every fault.
func TestPlan(t *testing.T) {
	for seed := uint64(1); seed <= 200; seed++ {
		steps := plan(seed, load)
		if !slices.Equal(steps, plan(seed, load)) {
			t.Fatalf("seed %d gives two schedules", seed)
		}
		if slices.Equal(steps, plan(seed+1, load)) {
			t.Errorf("seeds %d and %d give the same schedule", seed, seed+1)
		}
		for _, name := range kinds() {
			if !slices.ContainsFunc(steps, func(s step) bool { return s.name() == name }) {
				t.Errorf("seed %d: no step is %q", seed, name)
			}
		}
	}
}
