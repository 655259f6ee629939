package rediscache

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

// writeTrial is how long the doctor's own key would live if it could not be removed.
const writeTrial = time.Minute

// Report is what a Redis says of itself to whoever checks it.
type Report struct {
	Version   string // such as 7.0.15
	Cluster   bool
	Used      int64  // bytes
	MaxMemory int64  // bytes; zero: no bound
	Policy    string // of eviction, such as allkeys-lru
	Refused   error  // nil: this user may do all that the cache needs
}

// Examine connects to a Redis, asks it about itself, and tries on keys of its own
// all that the cache does. The error says that it cannot be reached, or used at all.
func Examine(ctx context.Context, address string) (Report, error) {
	c, err := New(address, "doctor")
	if err != nil {
		return Report{}, err
	}
	defer func() { _ = c.Close() }() // nothing is kept
	client, err := c.connected(ctx)
	if err != nil {
		return Report{}, err
	}
	var r Report
	info, err := client.Do(ctx, client.B().Info().Build()).ToString()
	if _, refused := rueidis.IsRedisErr(err); err != nil && !refused {
		return r, fmt.Errorf("redis: info: %w", err)
	}
	r.read(info) // of a user who may not ask there is nothing to read
	r.Refused = c.rehearse(ctx)
	return r, nil
}

// read takes what it needs from the text of INFO.
func (r *Report) read(info string) {
	for line := range strings.Lines(info) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		number, _ := strconv.ParseInt(value, 10, 64) // of those that are none it is not used
		switch key {
		case "redis_version":
			r.Version = value
		case "cluster_enabled":
			r.Cluster = value == "1"
		case "used_memory":
			r.Used = number
		case "maxmemory":
			r.MaxMemory = number
		case "maxmemory_policy":
			r.Policy = value
		}
	}
}

// rehearse does once what the cache does.
func (c *Cache) rehearse(ctx context.Context) error {
	id := job.ID{0xff}
	e := cache.Entry{ID: id, State: job.Deleted, Version: 1, At: time.Unix(1, 0), TTL: writeTrial, Tell: true}
	if err := c.Put(ctx, []cache.Entry{e}); err != nil {
		return err
	}
	if _, err := c.Get(ctx, []job.ID{id}); err != nil {
		return err
	}
	if err := c.Drop(ctx, []job.ID{id}); err != nil {
		return err
	}
	if err := c.rehearseBlocks(ctx, e); err != nil {
		return err
	}
	heard := errors.New("heard")
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := c.Watch(ctx, func(cache.News) { cancel(heard) })
	if errors.Is(context.Cause(ctx), heard) {
		return nil
	}
	return errors.Join(err, context.Cause(ctx))
}

// rehearseBlocks writes to a block twice, unless it is a cluster: Put goes on without blocks if it is refused.
func (c *Cache) rehearseBlocks(ctx context.Context, e cache.Entry) error {
	client, err := c.connected(ctx)
	if err != nil || client.Mode() == rueidis.ClientModeCluster {
		return err
	}
	e.State = job.Succeeded
	for range 2 {
		var b blocks
		b.add(c, &e)
		if err := b.run(ctx, c, client).Error(); err != nil {
			return fmt.Errorf("redis: put: %w", err)
		}
	}
	return c.Drop(ctx, []job.ID{e.ID})
}
