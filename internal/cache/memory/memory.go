// Package memory is the cache of one process, in its own memory.
package memory

import (
	"context"
	"sync"

	"github.com/jellydator/ttlcache/v3"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

// DefaultSize is how many jobs are held: some 30 MB, or 100 MB if all of them
// have long progress notes.
const DefaultSize = 64 << 10

// Cache holds the states that were used last. It implements cache.Cache.
type Cache struct {
	mu   sync.Mutex // from the look at what is held to the write
	held *ttlcache.Cache[job.ID, cache.Entry]
}

var _ cache.Cache = (*Cache)(nil)

// New returns a cache of at most size jobs; DefaultSize if size is not positive.
func New(size int) *Cache {
	if size <= 0 {
		size = DefaultSize
	}
	return &Cache{held: ttlcache.New(
		ttlcache.WithCapacity[job.ID, cache.Entry](uint64(size)),
		ttlcache.WithDisableTouchOnHit[job.ID, cache.Entry](), // an entry lives as long as was said
	)}
}

// Put implements cache.Cache. There is nobody to tell.
func (c *Cache) Put(_ context.Context, entries []cache.Entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held.DeleteExpired()
	for i := range entries {
		e := &entries[i]
		if e.TTL <= 0 {
			continue
		}
		if old := c.held.Get(e.ID); old != nil {
			if was := old.Value(); !e.Newer(&was) {
				continue
			}
		}
		c.held.Set(e.ID, *e, e.TTL)
	}
	return nil
}

// Get implements cache.Cache.
func (c *Cache) Get(_ context.Context, ids []job.ID) ([]cache.Entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []cache.Entry
	for _, id := range ids {
		if item := c.held.Get(id); item != nil {
			e := item.Value()
			e.TTL, e.Tell = 0, false
			out = append(out, e)
		}
	}
	return out, nil
}

// Drop implements cache.Cache.
func (c *Cache) Drop(_ context.Context, ids []job.ID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		c.held.Delete(id)
	}
	return nil
}

// Watch implements cache.Cache: no other process sees this memory.
func (c *Cache) Watch(ctx context.Context, _ func(cache.News)) error {
	<-ctx.Done()
	return nil
}

// Heard implements cache.Cache.
func (c *Cache) Heard() bool { return false }

// Shared implements cache.Cache.
func (c *Cache) Shared() bool { return false }

// Close implements cache.Cache.
func (c *Cache) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held.DeleteAll()
	return nil
}
