package engine

import (
	"testing"

	"github.com/errandhq/errand/job"
)

// TestAPollAsksOnce: nothing is known of work then, so one request of those that
// want the same shows whether there is any. If there is, the others ask as always.
func TestAPollAsksOnce(t *testing.T) {
	d := newDispatcher()
	for n := range byte(10) {
		w := &waiter{session: job.ID{n + 1}, queues: []string{"q"}, max: 1, marks: make([]uint64, 1), answer: make(chan leased, 1)}
		if err := d.join(w, func(string) bool { return false }); err != nil {
			t.Fatal(err)
		}
	}
	asks := func(want int, found bool) {
		t.Helper()
		tries, gen := d.round()
		if len(tries) != want {
			t.Errorf("%d requests, want %d", len(tries), want)
		}
		answers := make([]leased, len(tries))
		for i := range answers {
			if found {
				answers[i].jobs = make([]job.Job, 1)
			}
		}
		d.land(tries, gen, answers)
	}
	asks(roundAlike, false) // they have just come
	asks(0, false)
	d.poll([]string{"q"})
	asks(1, false)
	asks(0, false)
	d.poll([]string{"q"})
	asks(1, true)
	asks(roundAlike, false)
	asks(0, false)
}
