package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/cache/memory"
	"github.com/errandhq/errand/job"
)

// slowCache is one that servers share, and that takes its time.
type slowCache struct {
	*memory.Cache
	heard bool
}

func (c slowCache) Shared() bool { return true }
func (c slowCache) Heard() bool  { return c.heard }

func (c slowCache) Put(ctx context.Context, entries []cache.Entry) error {
	if !pause(ctx, 100*time.Millisecond) {
		return ctx.Err()
	}
	return c.Cache.Put(ctx, entries)
}

// TestASlowCacheHoldsNobodyUp: while the queue is full nobody waits for it, it stays
// within its bound, and the final states that it gives up are the oldest.
func TestASlowCacheHoldsNobodyUp(t *testing.T) {
	for _, heard := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := New(nil, Config{Cache: slowCache{Cache: memory.New(0), heard: heard}})
			v := e.view
			v.queue.max = 500
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); e.runView(ctx) }()
			synctest.Wait()
			const jobs = 5000
			idOf := func(n int) job.ID { return job.ID{13: 1, 14: byte(n >> 8), 15: byte(n)} }
			began := time.Now()
			for n := range jobs {
				for i, s := range []job.State{job.Ready, job.Running, job.Succeeded} {
					v.write([]cache.Entry{{ID: idOf(n), State: s, Version: int64(i + 1), Tell: true}})
				}
				v.queue.mu.Lock()
				n := len(v.queue.at) + len(v.queue.flight) + len(v.queue.spare)
				v.queue.mu.Unlock()
				if n > 500+2*writeBatch {
					t.Fatalf("%d entries are kept", n)
				}
			}
			if d := time.Since(began); d > 0 {
				t.Errorf("writers waited for %s", d)
			}
			if shed := v.shed.Load(); shed == 0 {
				t.Error("nothing was given up")
			}
			time.Sleep(time.Second)
			got, err := v.cache.Get(t.Context(), []job.ID{idOf(jobs - 1), idOf(jobs - 400)})
			if err != nil || len(got) != 2 || got[0].State != job.Succeeded || got[1].State != job.Succeeded {
				t.Errorf("heard %v: of the newest the cache holds %+v, %v", heard, got, err)
			}
			stop()
			<-done
		})
	}
}
