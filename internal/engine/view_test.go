package engine_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/cache/memory"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// hall is a cache that several engines share, with the ways in which one fails.
type hall struct {
	*memory.Cache
	mu     sync.Mutex
	err    error // of every call
	hang   bool  // every call lasts until its context ends
	deaf   bool  // what is put is not told
	frozen bool  // what is put is lost
	puts   int
	lines  map[int]func(cache.News)
	next   int
}

// Shared implements cache.Cache.
func (h *hall) Shared() bool { return true }

// Heard implements cache.Cache: engines that watch hear themselves, too.
func (h *hall) Heard() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.lines) > 0
}

func newHall() *hall { return &hall{Cache: memory.New(0), lines: map[int]func(cache.News){}} }

func (h *hall) set(fn func(h *hall)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fn(h)
}

func (h *hall) fault(ctx context.Context) error {
	h.mu.Lock()
	hang, err := h.hang, h.err
	h.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (h *hall) Put(ctx context.Context, entries []cache.Entry) error {
	if err := h.fault(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.puts += len(entries)
	if h.frozen {
		return nil
	}
	if !h.deaf {
		told := slices.DeleteFunc(slices.Clone(entries), func(e cache.Entry) bool { return !e.Tell })
		for _, fn := range h.lines {
			fn(cache.News{Entries: told})
		}
	}
	return h.Cache.Put(ctx, entries)
}

func (h *hall) Get(ctx context.Context, ids []job.ID) ([]cache.Entry, error) {
	if err := h.fault(ctx); err != nil {
		return nil, err
	}
	return h.Cache.Get(ctx, ids)
}

func (h *hall) Watch(ctx context.Context, fn func(cache.News)) error {
	fn(cache.News{Missed: true})
	h.mu.Lock()
	n := h.next
	h.next++
	h.lines[n] = fn
	h.mu.Unlock()
	<-ctx.Done()
	h.mu.Lock()
	delete(h.lines, n)
	h.mu.Unlock()
	return nil
}

// state is what the view answers about one job.
func (w *world) state(id job.ID, fresh bool) engine.Stated {
	w.t.Helper()
	out, err := w.States(w.ctx, []job.ID{id}, fresh)
	w.ok(err)
	if len(out) != 1 {
		w.t.Fatalf("%d states of one job", len(out))
	}
	return out[0]
}

func TestStatesComeFromTheCacheWhileTheyAreFresh(t *testing.T) {
	inWorld(t, engine.Config{Cache: newHall()}, func(w *world) {
		id := w.put(1)[0]
		time.Sleep(100 * time.Millisecond)
		s := w.state(id, false)
		if !s.Cached || s.State != job.Ready || s.Age < 100*time.Millisecond || s.Age > time.Second {
			t.Errorf("after 100 ms: %+v", s)
		}
		if s := w.state(id, true); s.Cached {
			t.Error("a fresh answer came from the cache")
		}
		time.Sleep(1100 * time.Millisecond)
		if s := w.state(id, false); s.Cached || s.Age != 0 {
			t.Errorf("an entry older than a second was served: %+v", s)
		}
		time.Sleep(10 * time.Millisecond)
		if s := w.state(id, false); !s.Cached {
			t.Error("the ledger's answer was not kept")
		}
	})
}

// Work on jobs that nobody asks for writes nothing to a cache of one process;
// what was asked for is written on, and deleted.
func TestCacheOfOneProcessHoldsWhatIsAskedFor(t *testing.T) {
	c := memory.New(0)
	inWorld(t, engine.Config{Cache: c, CacheTTL: time.Hour}, func(w *world) {
		ids := w.put(3)
		if s := w.state(ids[0], false); s.Cached {
			t.Errorf("it was written before it was asked for: %+v", s)
		}
		s := w.open()
		for _, j := range w.lease(s, 1, 3) {
			w.settle(s, j, job.Succeed)
		}
		synctest.Wait()
		held, err := c.Get(w.ctx, ids)
		w.ok(err)
		if len(held) != 1 || held[0].ID != ids[0] || held[0].State != job.Succeeded {
			t.Fatalf("it holds %+v", held)
		}
		if s := w.state(ids[0], false); !s.Cached || s.State != job.Succeeded {
			t.Errorf("%+v", s)
		}
		if s := w.state(ids[1], false); s.Cached || s.State != job.Succeeded {
			t.Errorf("%+v", s)
		}
		_, err = w.Delete(w.ctx, ids)
		w.ok(err)
		if out, err := w.States(w.ctx, ids, false); err != nil || len(out) != 0 {
			t.Errorf("deleted: %+v, %v", out, err)
		}
	})
}

func TestFinalStatesAreServedUntilTheirTTL(t *testing.T) {
	inWorld(t, engine.Config{Cache: newHall(), CacheTTL: time.Minute}, func(w *world) {
		ids := w.put(2)
		s := w.open()
		jobs := w.lease(s, 1, 2)
		w.settle(s, jobs[0], job.Succeed)
		w.settle(s, jobs[1], job.Discard)
		time.Sleep(30 * time.Second)
		got, want := w.state(ids[0], false), w.f.get(ids[0])
		if !got.Cached || got.State != job.Succeeded || got.Age < 29*time.Second {
			t.Errorf("succeeded, half a time-to-live later: %+v", got)
		}
		if got.Version != want.Version || got.Attempt != 1 || got.MaxAttempts != want.MaxAttempts || got.Priority != want.Priority {
			t.Errorf("the cache has %+v, the ledger %+v", got, want)
		}
		if s := w.state(ids[1], false); s.Cached || s.State != job.Dead {
			t.Errorf("a dead letter may be redriven elsewhere, and was served from the cache: %+v", s)
		}
		time.Sleep(31 * time.Second)
		if s := w.state(ids[0], false); s.Cached {
			t.Error("an entry outlived its time-to-live")
		}
	})
}

func TestDeleteAndRedriveAreSeenAtOnce(t *testing.T) {
	inWorld(t, engine.Config{Cache: newHall()}, func(w *world) {
		ids := w.put(2)
		s := w.open()
		jobs := w.lease(s, 1, 2)
		w.settle(s, jobs[0], job.Succeed)
		w.settle(s, jobs[1], job.Discard)
		_, err := w.Delete(w.ctx, ids[:1])
		w.ok(err)
		_, err = w.Redrive(w.ctx, ids[1:], 0)
		w.ok(err)
		time.Sleep(10 * time.Millisecond)
		out, err := w.States(w.ctx, ids, false)
		w.ok(err)
		if len(out) != 1 || out[0].ID != ids[1] || out[0].State != job.Ready {
			t.Errorf("after delete and redrive: %+v", out)
		}
	})
}

// TestATombstoneOutlivesWhatComesLate: a state that another server writes as late as it may ends before it.
func TestATombstoneOutlivesWhatComesLate(t *testing.T) {
	c := newHall()
	inWorld(t, engine.Config{Cache: c, CacheTTL: time.Minute}, func(w *world) {
		ids := w.put(1)
		_, err := w.Delete(w.ctx, ids)
		w.ok(err)
		time.Sleep(time.Minute + 30*time.Second) // a time-to-live after half a minute
		held, err := c.Get(w.ctx, ids)
		w.ok(err)
		if len(held) != 1 || held[0].State != job.Deleted {
			t.Errorf("held is %+v", held)
		}
		time.Sleep(2 * time.Second)
		if held, err = c.Get(w.ctx, ids); err != nil || len(held) > 0 {
			t.Errorf("held is %+v, %v", held, err)
		}
	})
}

// TestOldNewsNeverReplacesNewer puts what a slow server would, and flushes the
// cache between two writers.
func TestOldNewsNeverReplacesNewer(t *testing.T) {
	c := newHall()
	inWorld(t, engine.Config{Cache: c}, func(w *world) {
		id := w.put(1)[0]
		s := w.open()
		leased := w.lease(s, 1, 1)[0]
		old := cache.Of(&leased, w.Now())
		old.TTL = time.Minute
		w.settle(s, leased, job.Succeed)
		time.Sleep(time.Millisecond)
		w.ok(c.Put(w.ctx, []cache.Entry{old}))
		if s := w.state(id, false); s.State != job.Succeeded {
			t.Errorf("an older entry replaced a newer: %+v", s)
		}
		w.ok(c.Drop(w.ctx, []job.ID{id}))
		w.ok(c.Put(w.ctx, []cache.Entry{old}))
		time.Sleep(1001 * time.Millisecond)
		if s := w.state(id, false); s.State != job.Succeeded || s.Cached {
			t.Errorf("a second after a flush the old state is served: %+v", s)
		}
	})
}

// TestACacheInTroubleCostsSpeedOnly has the cache fail, then hang.
func TestACacheInTroubleCostsSpeedOnly(t *testing.T) {
	for name, fault := range map[string]func(*hall){
		"fails": func(h *hall) { h.err = errors.New("out of memory") },
		"hangs": func(h *hall) { h.hang = true },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHall()
			h.set(fault)
			inWorld(t, engine.Config{Cache: h}, func(w *world) {
				began := time.Now()
				ids := w.put(100)
				s := w.open()
				for _, j := range w.lease(s, 1, 100) {
					w.settle(s, j, job.Succeed)
				}
				if d := time.Since(began); d > 50*time.Millisecond {
					t.Errorf("the work took %s of virtual time", d)
				}
				began = time.Now()
				for range 50 {
					if s := w.state(ids[0], false); s.State != job.Succeeded {
						t.Fatalf("the answer is %+v", s)
					}
				}
				if d := time.Since(began); d > 2*time.Second {
					t.Errorf("50 answers took %s: the breaker does not hold", d)
				}
				time.Sleep(5 * time.Second)
				if !w.Info().CacheAway {
					t.Error("Info does not say that the cache is away")
				}
				h.set(func(h *hall) { h.hang, h.err = false, nil })
				time.Sleep(10 * time.Second)
				w.state(ids[0], false)
				time.Sleep(10 * time.Millisecond)
				if s := w.state(ids[0], false); !s.Cached || w.Info().CacheAway {
					t.Errorf("the cache is well again and does not answer: %+v", s)
				}
			})
		})
	}
}

func TestDriftIsFoundRepairedAndCounted(t *testing.T) {
	h := newHall()
	inWorld(t, engine.Config{Cache: h, CacheTTL: time.Hour}, func(w *world) {
		id := w.put(1)[0]
		s := w.open()
		w.settle(s, w.lease(s, 1, 1)[0], job.Succeed)
		time.Sleep(time.Second)
		h.set(func(h *hall) { h.frozen = true })
		_, err := w.Delete(w.ctx, []job.ID{id})
		w.ok(err)
		time.Sleep(time.Second)
		h.set(func(h *hall) { h.frozen = false })
		if s := w.state(id, false); s.State != job.Succeeded {
			t.Fatalf("the test made no drift: %+v", s)
		}
		time.Sleep(2 * time.Minute)
		if out, err := w.States(w.ctx, []job.ID{id}, false); err != nil || len(out) > 0 {
			t.Errorf("after the comparison: %+v, %v", out, err)
		}
		if i := w.Info(); i.CacheDrift != 1 || i.CacheProbed < 1 {
			t.Errorf("%d jobs counted as drifted, of %d", i.CacheDrift, i.CacheProbed)
		}
	})
}

// TestAWaitIsWokenThroughTheCache ends a job on another server, and counts how
// often the ledger was asked meanwhile.
func TestAWaitIsWokenThroughTheCache(t *testing.T) {
	for name, c := range map[string]struct {
		deaf bool
		most time.Duration
	}{"told": {false, 100 * time.Millisecond}, "not told": {true, 5500 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			h := newHall()
			h.deaf = c.deaf
			inWorld(t, engine.Config{Cache: h}, func(w *world) {
				other := start(t, w.f, engine.Config{Cache: h})
				defer func() { other.stop() }()
				id := w.put(1)[0]
				s := other.open()
				j := other.lease(s, 1, 1)[0]
				time.Sleep(time.Second)
				before, ended := w.f.count("Get"), make(chan time.Duration, 1)
				go func() {
					jobs, err := w.Wait(w.ctx, []job.ID{id}, time.Minute)
					if err != nil || len(jobs) != 1 {
						t.Errorf("Wait: %v, %v", jobs, err)
					}
					ended <- w.Now().Sub(jobs[0].DoneAt)
				}()
				time.Sleep(20 * time.Second)
				if n := w.f.count("Get") - before; n > 7 { // the call itself, a poll, when the line stands, and each five seconds
					t.Errorf("the ledger was asked %d times in 20 s", n)
				}
				other.settle(s, j, job.Succeed)
				if late := <-ended; late > c.most {
					t.Errorf("woken %s after the end", late)
				}
			})
		})
	}
}

// learner is a hall that is like Redis in this: who puts knows only of what it told last whether anybody listened.
type learner struct {
	*hall
	alone atomic.Bool
}

func (l *learner) Heard() bool { return !l.alone.Load() }

func (l *learner) Put(ctx context.Context, entries []cache.Entry) error {
	err := l.hall.Put(ctx, entries)
	l.alone.Store(!l.hall.Heard())
	return err
}

// TestABusyServerLearnsThatSomebodyWatches: one that only takes jobs in, more than it writes while nobody listens.
func TestABusyServerLearnsThatSomebodyWatches(t *testing.T) {
	h := newHall()
	inWorld(t, engine.Config{Cache: &learner{hall: h}}, func(w *world) {
		other := start(t, w.f, engine.Config{Cache: h})
		defer other.stop()
		busy := func(rounds int, until func() bool) {
			for range rounds {
				if w.put(300); until() {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		busy(20, func() bool { return false })
		before := 0
		h.set(func(h *hall) { before = h.puts })
		busy(20, func() bool { return false })
		h.set(func(h *hall) {
			if n := h.puts - before; n < 5 || n > 25 {
				t.Errorf("%d writes in two seconds while nobody listens", n)
			}
		})
		s := other.watch(engine.WatchFilter{Queue: "default"}, nil)
		synctest.Wait()
		told := 0
		busy(10, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			told = len(s.events)
			return told > 0
		})
		if told == 0 {
			t.Error("the watcher was told of nothing in a second")
		}
		s.stop()
		<-s.done
	})
}
