package engine_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// spectator is a Watch that keeps what it was told.
type spectator struct {
	mu     sync.Mutex
	events []engine.WatchEvent
	beats  int
	lags   int
	stop   context.CancelFunc
	done   chan error
	gate   chan struct{} // if set: each event waits for it
}

func (w *world) watch(f engine.WatchFilter, gate chan struct{}) *spectator {
	ctx, stop := context.WithCancel(w.ctx)
	s := &spectator{stop: stop, done: make(chan error, 1), gate: gate}
	go func() {
		s.done <- w.Watch(ctx, f, func(ev engine.WatchEvent) error {
			if gate != nil {
				<-gate
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			switch {
			case ev.Lagged:
				s.lags++
			case ev.ID.IsZero():
				s.beats++
			default:
				s.events = append(s.events, ev)
			}
			return nil
		})
	}()
	time.Sleep(time.Millisecond)
	return s
}

// states is what was told of a job.
func (s *spectator) states(id job.ID) []job.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []job.State
	for _, ev := range s.events {
		if ev.ID == id {
			out = append(out, ev.State)
		}
	}
	return out
}

func (s *spectator) end(t *testing.T) {
	t.Helper()
	s.stop()
	if err := <-s.done; job.CodeOf(err) != job.Canceled && !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v", err)
	}
}

func same(a []job.State, b ...job.State) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestAWatchByIDTellsTheWholeLife(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		ids := w.put(2)
		absent := w.id()
		sp := w.watch(engine.WatchFilter{IDs: []job.ID{ids[0], absent}}, nil)
		defer sp.end(t)
		s := w.open()
		jobs := w.lease(s, 1, 2)
		w.settle(s, jobs[0], job.Discard)
		w.settle(s, jobs[1], job.Succeed)
		_, err := w.Redrive(w.ctx, ids[:1], 0)
		w.ok(err)
		time.Sleep(time.Second)
		_, err = w.Delete(w.ctx, ids[:1])
		w.ok(err)
		time.Sleep(21 * time.Second)
		if got := sp.states(ids[0]); !same(got, job.Ready, job.Running, job.Dead, job.Ready, job.Deleted) {
			t.Errorf("told of %v", got)
		}
		if got := sp.states(ids[1]); len(got) > 0 {
			t.Errorf("told of a job that is not watched: %v", got)
		}
		if got := sp.states(absent); !same(got, job.Deleted) {
			t.Errorf("told of one that does not exist: %v", got)
		}
		if sp.beats != 2 {
			t.Errorf("%d beats in 21 s of silence", sp.beats)
		}
	})
}

func TestAWatchByQueueOrKindTellsItsOwn(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		all := w.watch(engine.WatchFilter{}, nil)
		queue := w.watch(engine.WatchFilter{Queue: "default"}, nil)
		other := w.watch(engine.WatchFilter{Queue: "default", Kind: "other"}, nil)
		defer all.end(t)
		defer queue.end(t)
		defer other.end(t)
		id := w.put(1)[0]
		time.Sleep(time.Second)
		if a, q, o := all.states(id), queue.states(id), other.states(id); !same(a, job.Ready) || !same(q, job.Ready) || len(o) > 0 {
			t.Errorf("all %v, queue %v, another kind %v", a, q, o)
		}
	})
}

// TestAWatchSeesFinalStatesOfOtherServers has no cache between the two.
func TestAWatchSeesFinalStatesOfOtherServers(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		other := start(t, w.f, engine.Config{})
		defer func() { other.stop() }()
		ids := w.put(2)
		sp := w.watch(engine.WatchFilter{IDs: ids}, nil)
		defer sp.end(t)
		s := other.open()
		jobs := other.lease(s, 1, 2)
		other.settle(s, jobs[0], job.Succeed)
		other.settle(s, jobs[1], job.Discard)
		time.Sleep(time.Second)
		for i, want := range []job.State{job.Succeeded, job.Dead} {
			if got := sp.states(ids[i]); got[len(got)-1] != want {
				t.Errorf("job %d: told of %v, want %s at the end", i, got, want)
			}
		}
		if n := w.f.count("Get"); n > 20 {
			t.Errorf("the ledger was asked %d times", n)
		}
	})
}

// TestASlowWatcherHoldsUpNobody lets more happen than its buffer holds.
func TestASlowWatcherHoldsUpNobody(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		id := w.put(1)[0]
		gate := make(chan struct{})
		wide, narrow := w.watch(engine.WatchFilter{}, gate), w.watch(engine.WatchFilter{IDs: []job.ID{id}}, gate)
		began := time.Now()
		for range 5 {
			w.put(1000)
		}
		s := w.open()
		w.settle(s, w.lease(s, 1, 1)[0], job.Succeed)
		if d := time.Since(began); d > 10*time.Millisecond {
			t.Errorf("the work took %s of virtual time", d)
		}
		close(gate)
		time.Sleep(time.Second)
		wide.end(t)
		narrow.end(t)
		if wide.lags == 0 || len(wide.events) > 3000 {
			t.Errorf("%d events, %d times told of a lag", len(wide.events), wide.lags)
		}
		if got := narrow.states(id); !same(got, job.Ready, job.Running, job.Succeeded) {
			t.Errorf("told of %v", got)
		}
	})
}

func TestADrainEndsWatches(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		sp := w.watch(engine.WatchFilter{}, nil)
		w.Drain()
		w.reason(<-sp.done, job.ReasonShuttingDown)
	})
}

func TestAWatchRefusesBadFilters(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		for name, f := range map[string]engine.WatchFilter{
			"zero id":       {IDs: []job.ID{{}}},
			"too many":      {IDs: make([]job.ID, job.MaxBatch+1)},
			"ids and queue": {IDs: []job.ID{w.id()}, Queue: "q"},
		} {
			if err := w.Watch(w.ctx, f, nil); job.CodeOf(err) != job.InvalidArgument {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestWatchByIDDoesNotReadWhatItHears: of many jobs that end here one after the
// other the ledger is asked at the beginning, not at each end.
func TestWatchByIDDoesNotReadWhatItHears(t *testing.T) {
	const n = 300
	inWorld(t, engine.Config{}, func(w *world) {
		ids := w.put(n)
		s := w.open()
		jobs := w.lease(s, 1, n)
		ctx, cancel := context.WithCancel(w.ctx)
		ended, final := make(chan error, 1), 0
		go func() {
			ended <- w.Watch(ctx, engine.WatchFilter{IDs: ids}, func(e engine.WatchEvent) error {
				if e.State == job.Succeeded {
					final++
				}
				return nil
			})
		}()
		synctest.Wait()
		before := w.f.count("Get")
		for _, j := range jobs {
			w.settle(s, j, job.Succeed)
			synctest.Wait()
		}
		if reads := w.f.count("Get") - before; reads > 5 {
			t.Errorf("%d reads of the ledger", reads)
		}
		cancel()
		<-ended
		if final != n {
			t.Errorf("%d ends told", final)
		}
	})
}

// TestRepeatedSettleIsSeen: a worker that completed its job by SQL in a transaction
// of its own settles afterwards, and only that tells this server; where the
// news of others are heard the ledger is asked seldom.
func TestRepeatedSettleIsSeen(t *testing.T) {
	inWorld(t, engine.Config{Cache: newHall()}, func(w *world) {
		id := w.put(1)[0]
		s := w.open()
		j := w.lease(s, 1, 1)[0]
		w.f.change(id, func(j *job.Job) { // as errand.complete_v1 does
			_, err := job.DefaultRules(func() float64 { return 0 }).Settle(j, j.Token, job.Move{Event: job.Succeed, Now: time.Now()})
			w.ok(err)
		})
		waited := make(chan error, 1)
		go func() {
			jobs, err := w.Wait(w.ctx, []job.ID{id}, time.Minute)
			if err == nil && len(jobs) != 1 {
				err = errors.New("not final")
			}
			waited <- err
		}()
		out, err := w.Settle(w.ctx, s, []engine.Settlement{{ID: id, Token: j.Token, Event: job.Succeed}})
		if err != nil || !out[0].Repeated {
			t.Errorf("settle: %+v, %v", out, err)
		}
		w.ok(<-waited)
		synctest.Wait()
		if got := w.state(id, false); !got.Cached || got.State != job.Succeeded {
			t.Errorf("shown as %+v", got)
		}
	})
}
