package engine_test

import (
	"testing"
	"time"

	"github.com/errandhq/errand/broker/brokertest"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// sources are what makes a job ready: each prepares something, and returns what
// then does it.
var sources = map[string]func(w *world, s job.ID) (cause func()){
	"enqueue":                func(w *world, _ job.ID) func() { return func() { w.put(1) } },
	"line back":              elsewhere(""),
	"wake of another server": elsewhere("default"),
	"scheduled job is due": func(w *world, _ job.ID) func() {
		return func() {
			it := item(w.id())
			it.Delay = time.Second
			_, err := w.Enqueue(w.ctx, "", []engine.Item{it})
			w.ok(err)
		}
	},
	"retry is due": settled(job.Fail),
	"release":      settled(job.Release),
	"session drains": func(w *world, _ job.ID) func() {
		other, _ := w.busy()
		return func() { w.ok(w.CloseSession(w.ctx, other, true)) }
	},
	"session dies": func(w *world, s job.ID) func() {
		w.busy()
		return func() {
			for call := range int64(8) {
				time.Sleep(time.Second)
				w.extend(s, call+1, nil, 9)
			}
		}
	},
	"redrive": func(w *world, _ job.ID) func() {
		other, j := w.busy()
		w.ok(w.settle(other, j, job.Discard).Err)
		return func() {
			_, err := w.Redrive(w.ctx, []job.ID{j.ID}, 0)
			w.ok(err)
		}
	},
	"resume": func(w *world, _ job.ID) func() {
		w.ok(w.Pause(w.ctx, "default"))
		w.put(1)
		return func() { w.ok(w.Resume(w.ctx, "default")) }
	},
	"the session's own suspect ends": func(w *world, s job.ID) func() {
		for _, id := range w.put(2) {
			w.f.change(id, func(j *job.Job) { j.Crashes, j.Lane = 1, job.LaneSuspect })
		}
		first := w.lease(s, 1, 10)
		return func() { w.ok(w.settle(s, first[0], job.Succeed).Err) }
	},
	"the same, and it fails": func(w *world, s job.ID) func() {
		for _, id := range w.put(2) {
			w.f.change(id, func(j *job.Job) { j.Crashes, j.Lane = 1, job.LaneSuspect })
		}
		first := w.lease(s, 1, 10)
		return func() { w.ok(w.settle(s, first[0], job.Discard).Err) }
	},
	"route": func(w *world, _ job.ID) func() {
		return func() {
			w.f.put(item(w.id()).Job)
			w.ok(w.SetRoute(w.ctx, "default", "rabbitmq"))
		}
	},
}

// elsewhere stores a job without this server, which then hears of the queue.
func elsewhere(queue string) func(*world, job.ID) func() {
	return func(w *world, _ job.ID) func() {
		return func() {
			w.f.put(item(w.id()).Job)
			w.f.line <- queue
		}
	}
}

// settled has another session settle a job.
func settled(ev job.Event) func(*world, job.ID) func() {
	return func(w *world, _ job.ID) func() {
		other, j := w.busy()
		return func() { w.ok(w.settle(other, j, ev).Err) }
	}
}

// busy opens a session that holds a job.
func (w *world) busy() (job.ID, job.Job) {
	w.t.Helper()
	other := w.open()
	w.put(1)
	return other, w.lease(other, 1, 1)[0]
}

// A session that had all there was asks for nothing until a wake, whatever it comes
// from; and then at once: the poll is far away.
func TestDryQueueIsAskedAtTheNextWakeAndNotBefore(t *testing.T) {
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			c := engine.Config{PollInterval: time.Hour, SessionTTL: 5 * time.Second}
			inCarriedWorldOf(t, straight, c, func(w *world, _ *brokertest.Memory) {
				w.ok(w.SetRoute(w.ctx, "default", engine.DirectRoute))
				time.Sleep(5 * time.Second) // it is followed
				s := w.open()
				cause := source(w, s)
				w.lease(s, 8, 10) // finds nothing, or nothing more
				before := w.f.count("Claim")
				got := w.poll(w.ctx, engine.LeaseRequest{Session: s, Call: 9})
				if n := w.f.count("Claim") - before; n > 0 {
					t.Errorf("%d claims of a queue that was empty a moment ago", n)
				}
				cause()
				if jobs := <-got; len(jobs) != 1 {
					t.Errorf("%d jobs within 30 s, want 1", len(jobs))
				}
			})
		})
	}
}

// What a claim left behind is asked for again.
func TestFullOrCutAnswersLeaveAQueueAsItIs(t *testing.T) {
	c := engine.Config{PollInterval: time.Hour}
	for name, cut := range map[string]bool{"all that it wanted": false, "less, and there is more": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, c, func(w *world) {
				s := w.open()
				w.put(3)
				w.f.cut = cut
				n := 2
				if cut {
					n = 10
				}
				if jobs := w.lease(s, 1, n); len(jobs) != 2 {
					t.Fatalf("%d jobs, want 2", len(jobs))
				}
				w.f.cut = false
				if jobs := <-w.poll(w.ctx, engine.LeaseRequest{Session: s, Call: 2}); len(jobs) != 1 {
					t.Fatalf("%d jobs, want the one that was left", len(jobs))
				}
			})
		})
	}
}
