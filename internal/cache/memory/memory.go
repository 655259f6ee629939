// Package memory is the cache of one process, in its own memory.
package memory

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

// DefaultSize is how many jobs are held: some 30 MB, or 100 MB if all of them
// have long progress notes.
const DefaultSize = 64 << 10

// Cache holds the states that were used last. It implements cache.Cache.
type Cache struct {
	mu   sync.Mutex
	held *simplelru.LRU[job.ID, kept]
	now  func() time.Time
}

// kept is an entry and when it is to be forgotten.
type kept struct {
	cache.Entry
	until time.Time
}

var _ cache.Cache = (*Cache)(nil)

// New returns a cache of at most size jobs; DefaultSize if size is not positive.
func New(size int) *Cache {
	if size <= 0 {
		size = DefaultSize
	}
	held, err := simplelru.NewLRU[job.ID, kept](size, nil)
	if err != nil {
		panic(err) // it refuses sizes below one only
	}
	return &Cache{held: held, now: time.Now}
}

// Put implements cache.Cache. There is nobody to tell.
func (c *Cache) Put(_ context.Context, entries []cache.Entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for i := range entries {
		e := &entries[i]
		old, ok := c.held.Peek(e.ID)
		if e.TTL <= 0 || ok && now.Before(old.until) && !e.Newer(&old.Entry) {
			continue
		}
		c.held.Add(e.ID, kept{Entry: *e, until: now.Add(e.TTL)})
	}
	return nil
}

// Get implements cache.Cache.
func (c *Cache) Get(_ context.Context, ids []job.ID) ([]cache.Entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	var out []cache.Entry
	for _, id := range ids {
		k, ok := c.held.Get(id)
		switch {
		case !ok:
		case !now.Before(k.until):
			c.held.Remove(id)
		default:
			k.TTL, k.Tell = 0, false
			out = append(out, k.Entry)
		}
	}
	return out, nil
}

// Drop implements cache.Cache.
func (c *Cache) Drop(_ context.Context, ids []job.ID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		c.held.Remove(id)
	}
	return nil
}

// Watch implements cache.Cache: no other process sees this memory.
func (c *Cache) Watch(ctx context.Context, _ func(cache.News)) error {
	<-ctx.Done()
	return nil
}

// Shared implements cache.Cache.
func (c *Cache) Shared() bool { return false }

// Close implements cache.Cache.
func (c *Cache) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held.Purge()
	return nil
}
