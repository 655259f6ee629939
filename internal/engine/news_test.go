package engine_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

func (h *hall) listeners() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.lines)
}

// TestTheLineStandsWhileSomebodyFollows jobs, and a while longer: a server where
// nobody does hears nothing of the others.
func TestTheLineStandsWhileSomebodyFollows(t *testing.T) {
	h := newHall()
	inWorld(t, engine.Config{Cache: h}, func(w *world) {
		stands := func(want int, when string) {
			t.Helper()
			synctest.Wait()
			if n := h.listeners(); n != want {
				t.Errorf("%s: %d lines, want %d", when, n, want)
			}
		}
		ids := w.put(1)
		time.Sleep(time.Minute)
		stands(0, "while nobody follows")
		for range 2 {
			s := w.watch(engine.WatchFilter{Queue: "default"}, nil)
			stands(1, "while somebody watches")
			s.mu.Lock()
			if s.lags > 0 || s.beats != 1 {
				t.Errorf("a new watch is told of %d lags, and %d times that it stands", s.lags, s.beats)
			}
			s.mu.Unlock()
			time.Sleep(5 * time.Minute)
			stands(1, "after a long watch")
			s.stop()
			<-s.done
			time.Sleep(10 * time.Second)
			stands(1, "just after it")
			time.Sleep(3 * time.Minute)
			stands(0, "long after it")
		}
		done := make(chan error, 1)
		go func() { _, err := w.Wait(w.ctx, ids, time.Second); done <- err }()
		stands(1, "while somebody waits")
		w.ok(<-done)
	})
}

// TestAWatchDoesNotWaitLongForALine that does not come.
func TestAWatchDoesNotWaitLongForALine(t *testing.T) {
	h := newHall()
	h.err = errors.New("away")
	inWorld(t, engine.Config{Cache: h}, func(w *world) {
		s := w.watch(engine.WatchFilter{Queue: "default"}, nil)
		time.Sleep(2 * time.Second)
		id := w.put(1)[0]
		synctest.Wait()
		if got := s.states(id); !slices.Equal(got, []job.State{job.Ready}) {
			t.Errorf("told of %v", got)
		}
		s.stop()
		<-s.done
	})
}

// TestWhoListensIsToldEveryState, however many there are: none is held back while
// another server follows.
func TestWhoListensIsToldEveryState(t *testing.T) {
	h := newHall()
	inWorld(t, engine.Config{Cache: h}, func(w *world) {
		other := start(t, w.f, engine.Config{Cache: h})
		defer other.stop()
		s := other.watch(engine.WatchFilter{Queue: "default"}, nil)
		session := w.open()
		var ids []job.ID
		for round := range int64(5) {
			ids = append(ids, w.put(500)...)
			time.Sleep(10 * time.Millisecond)
			jobs := w.lease(session, round+1, 500)
			time.Sleep(10 * time.Millisecond)
			for _, j := range jobs {
				w.settle(session, j, job.Succeed)
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		for _, id := range ids {
			if got := s.states(id); !slices.Equal(got, []job.State{job.Ready, job.Running, job.Succeeded}) {
				t.Fatalf("the other server is told %v of a job", got)
			}
		}
		s.stop()
		<-s.done
	})
}

// TestNobodyListensToABusyServer: then most jobs are written once, when they have
// ended, and other servers answer all the same.
func TestNobodyListensToABusyServer(t *testing.T) {
	h := newHall()
	inWorld(t, engine.Config{Cache: h}, func(w *world) {
		other := start(t, w.f, engine.Config{Cache: h})
		defer other.stop()
		session := w.open()
		var ids []job.ID
		for round := range int64(10) {
			ids = append(ids, w.put(500)...)
			for _, j := range w.lease(session, round+1, 500) {
				w.settle(session, j, job.Succeed)
			}
		}
		time.Sleep(time.Second)
		h.set(func(h *hall) {
			if extra := h.puts - len(ids); extra < 0 || extra > 3000 {
				t.Errorf("%d writes for %d jobs", h.puts, len(ids))
			}
		})
		got, err := other.States(w.ctx, ids[:1000], false)
		w.ok(err)
		for _, s := range got {
			if s.State != job.Succeeded || !s.Cached {
				t.Fatalf("the other server says %+v", s)
			}
		}
	})
}
