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

// TestWhoHearsOfACanary: a queue's work makes nobody ask for canaries, and a canary
// nobody for work; a poll and a queue that goes on make both ask.
func TestWhoHearsOfACanary(t *testing.T) {
	e := New(nil, Config{})
	wait := func(kind string) *waiter {
		return &waiter{queues: []string{"p", "q"}, kinds: []string{kind}, max: 1, marks: make([]uint64, 2)}
	}
	canaries, worker := wait(job.KindCanary), wait("k")
	e.dispatch.waiters = []*waiter{canaries, worker}
	became := func(kind string) func() {
		return func() {
			var w work
			w.add(&job.Job{Queue: "q", Kind: kind})
			e.wakeFor(w)
		}
	}
	for name, tt := range map[string]struct {
		wake             func()
		canaries, worker bool
		others           int // queues that other processes are told of
	}{
		"a job":          {became("k"), false, true, 1},
		"a canary":       {became(job.KindCanary), true, false, 0},
		"another server": {func() { e.rouse([]string{"q"}) }, false, true, 0},
		"a poll":         {func() { e.dispatch.poll([]string{"q"}) }, true, true, 0},
	} {
		clear(canaries.marks)
		clear(worker.marks)
		tt.wake()
		if c, w := canaries.marks[1] > 0, worker.marks[1] > 0; c != tt.canaries || w != tt.worker {
			t.Errorf("%s: asked for canaries: %t, for work: %t", name, c, w)
		}
		if n := len(e.waker.take()); n != tt.others {
			t.Errorf("%s: other processes are told of %d queues, want %d", name, n, tt.others)
		}
	}
}
