package engine_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/cache/memory"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// TestWhoWasToldSeesNoLess: a watcher that hears of a state and asks at once
// is not answered with an older one. That is a matter of a moment, so it is
// tried with many jobs.
func TestWhoWasToldSeesNoLess(t *testing.T) {
	inWorld(t, engine.Config{Cache: memory.New(0)}, func(w *world) {
		const n = 300
		ids := w.put(n)
		ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
		defer cancel()
		left, stale := n, 0
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = w.Watch(ctx, engine.WatchFilter{IDs: ids}, func(ev engine.WatchEvent) error {
				if ev.State != job.Succeeded {
					return nil
				}
				if s, err := w.States(ctx, []job.ID{ev.ID}, false); err != nil || len(s) != 1 || s[0].Version < ev.Version {
					stale++
				}
				left--
				return nil
			})
		}()
		time.Sleep(time.Millisecond)
		s := w.open()
		for _, j := range w.lease(s, 1, n) {
			w.settle(s, j, job.Succeed)
		}
		<-ended
		if left != 0 || stale != 0 {
			t.Errorf("%d ends were not told; %d of %d states were older than what had been told", left, stale, n)
		}
	})
}

// landing is a cache whose Put waits until a Get has read what was there
// before, and whose Get answers when that Put has ended.
type landing struct {
	*memory.Cache
	armed   sync.Mutex // held: Puts wait
	reading func()     // of the next Get, between its read and its answer
}

func (l *landing) Put(ctx context.Context, entries []cache.Entry) error {
	l.armed.Lock()
	defer l.armed.Unlock()
	return l.Cache.Put(ctx, entries)
}

func (l *landing) Get(ctx context.Context, ids []job.ID) ([]cache.Entry, error) {
	list, err := l.Cache.Get(ctx, ids)
	if fn := l.reading; fn != nil {
		l.reading = nil
		fn()
	}
	return list, err
}

// TestStatesSeeWhatLandsMeanwhile: a change that was committed before the
// question is seen, also if it reaches the cache while the cache is asked.
func TestStatesSeeWhatLandsMeanwhile(t *testing.T) {
	l := &landing{Cache: memory.New(0)}
	inWorld(t, engine.Config{Cache: l}, func(w *world) {
		id := w.put(1)[0]
		time.Sleep(10 * time.Millisecond) // the cache has it as ready
		l.armed.Lock()
		l.reading = func() {
			l.armed.Unlock()
			time.Sleep(10 * time.Millisecond) // the lease lands
		}
		w.lease(w.open(), 1, 1)
		if s := w.state(id, false); s.State != job.Running {
			t.Errorf("after the lease the job is %s, by the cache: %v", s.State, s.Cached)
		}
	})
}

// TestACallersOwnEndIsNoTrouble: callers with little time say nothing about the
// cache. They do not shut it for everybody, nor keep one in use that is ill.
func TestACallersOwnEndIsNoTrouble(t *testing.T) {
	h := newHall()
	inWorld(t, engine.Config{Cache: h}, func(w *world) {
		ids := w.put(1)
		time.Sleep(10 * time.Millisecond)
		h.set(func(h *hall) { h.hang = true })
		hurried := func() {
			ctx, cancel := context.WithTimeout(w.ctx, 5*time.Millisecond)
			defer cancel()
			_, _ = w.States(ctx, ids, false) // the ledger may answer or not
		}
		for range 10 {
			hurried()
		}
		if w.Info().CacheAway {
			t.Error("ten callers with little time shut the cache for everybody")
		}
		for range 3 {
			w.state(ids[0], false)
			hurried()
		}
		if !w.Info().CacheAway {
			t.Error("callers with little time keep a cache in use that does not answer")
		}
	})
}
