// Package rediscache is the cache that servers share: Redis, one server or a
// cluster. It needs nothing of Redis that a restart, a flush or an eviction would take away.
//
// Keys are "{errand:LEDGER:07}:JOB", and "{errand:LEDGER:07}:+MOMENT" of blocks (block.go). The
// braces are Redis's hash tag: the jobs of a ledger are spread over a fixed number of tags, so that a cluster
// spreads them over its nodes, and yet one script call writes all entries of a tag.
package rediscache

import (
	"context"
	"crypto/rand"
	_ "embed" // the script
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

// shards is the number of hash tags. It is part of every key: another number
// would not find what was written under this one.
const shards = 16

// hangUpPatience bounds how long a Watch that has ended still waits for Redis.
const hangUpPatience = 200 * time.Millisecond

//go:embed put.lua
var putText string

var putScript = rueidis.NewLuaScript(putText)

// Cache is a Redis that holds job states. It implements cache.Cache.
type Cache struct {
	option rueidis.ClientOption
	tags   [shards]string
	news   string // the channel
	origin string // names this Cache in the news that it tells

	lines atomic.Int64 // of this Cache's own, on which it hears
	alone atomic.Bool  // what was told last reached these only

	mu     sync.Mutex
	client rueidis.Client
	dial   *dial // under way
	closed bool
	dials  sync.WaitGroup
}

// dial is an attempt to connect.
type dial struct {
	done chan struct{}
	err  error
}

var _ cache.Cache = (*Cache)(nil)

// New returns the cache of a ledger (ledger.Identity) at a Redis address, which ParseURL describes. It
// connects when it is first used, and again whenever the connection was lost:
// a Redis that is away is no reason not to start.
func New(address, ledger string) (*Cache, error) {
	option, err := ParseURL(address)
	if err != nil {
		return nil, err
	}
	c := &Cache{option: option, news: "errand:" + ledger + ":news", origin: rand.Text()}
	for i := range c.tags {
		c.tags[i] = fmt.Sprintf("{errand:%s:%02d}", ledger, i)
	}
	return c, nil
}

// connected returns the client, after connecting if there is none.
func (c *Cache) connected(ctx context.Context) (rueidis.Client, error) {
	c.mu.Lock()
	switch {
	case c.closed:
		c.mu.Unlock()
		return nil, errors.New("redis: the cache is closed")
	case c.client != nil:
		defer c.mu.Unlock()
		return c.client, nil
	case c.dial == nil:
		c.dial = &dial{done: make(chan struct{})}
		c.dials.Go(func() { c.connect(c.dial) })
	}
	d := c.dial
	c.mu.Unlock()
	select {
	case <-d.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("redis: connect: %w", ctx.Err())
	}
	if d.err != nil {
		return nil, d.err
	}
	return c.connected(ctx)
}

func (c *Cache) connect(d *dial) {
	client, err := rueidis.NewClient(c.option)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dial = nil
	switch {
	case err != nil:
		d.err = fmt.Errorf("redis: connect: %w", err)
	case c.closed:
		client.Close()
	default:
		c.client = client
	}
	close(d.done)
}

// Heard implements cache.Cache.
func (c *Cache) Heard() bool { return !c.alone.Load() }

// Shared implements cache.Cache.
func (c *Cache) Shared() bool { return true }

// Close implements cache.Cache.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	client := c.client
	c.client = nil
	c.mu.Unlock()
	c.dials.Wait()
	if client != nil {
		client.Close()
	}
	return nil
}

// shardOf spreads ids by their last byte: the first ones are the time.
func shardOf(id job.ID) int { return int(id[len(id)-1]) % shards }

func (c *Cache) key(id job.ID) string { return string(appendKey(nil, c.tags[shardOf(id)], id)) }

func appendKey(b []byte, tag string, id job.ID) []byte {
	return append(append(append(b, tag...), ':'), id.String()...)
}

// Put implements cache.Cache: one script call for blocks, and then one for each hash tag, these in
// one flight.
func (c *Cache) Put(ctx context.Context, entries []cache.Entry) error {
	client, err := c.connected(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for some := range slices.Chunk(entries, job.MaxBatch) { // Lua's stack holds the keys of a call
		errs = append(errs, c.put(ctx, client, some))
	}
	return errors.Join(errs...)
}

func (c *Cache) put(ctx context.Context, client rueidis.Client, entries []cache.Entry) error {
	var together blocks
	var alone []*cache.Entry
	heard := c.Heard()
	for i := range entries {
		if e := &entries[i]; heard || !together.add(c, e) {
			alone = append(alone, e)
		}
	}
	left, err := c.putBlocks(ctx, client, &together)
	if err != nil {
		return err
	}
	var calls [shards]call
	closed := map[string]time.Duration{}
	for _, e := range append(alone, left...) {
		if ms := e.TTL.Milliseconds(); ms > 0 {
			s := shardOf(e.ID)
			if err := calls[s].add(c.tags[s], e, ms); err != nil {
				return err
			}
			if e.State == job.Deleted {
				closed[blockKey(c.tags[s], e.ID)] = e.TTL
			}
		}
	}
	if err := c.closeBlocks(ctx, client, closed); err != nil {
		return err
	}
	return c.run(ctx, client, calls[:])
}

// call is one run of the script: of each entry a key, a value and a time-to-live, one
// text behind the other.
type call struct {
	text []byte
	ends []int // of each key, value and time-to-live
	gone []int // the keys of tombstones
}

func (c *call) add(tag string, e *cache.Entry, ttl int64) (err error) {
	if e.State == job.Deleted {
		c.gone = append(c.gone, len(c.ends)/3)
	}
	end := func() { c.ends = append(c.ends, len(c.text)) }
	c.text = appendKey(c.text, tag, e.ID)
	end()
	if c.text, err = appendValue(c.text, e); err != nil {
		return err
	}
	end()
	if !e.Tell {
		ttl = -ttl
	}
	c.text = strconv.AppendInt(c.text, ttl, 10)
	end()
	return nil
}

// strings returns what the script is called with: they share one piece of memory.
func (c *call) strings(args ...string) (keys, argv []string) {
	text, begin := string(c.text), 0
	keys, argv = make([]string, 0, len(c.ends)/3), append(make([]string, 0, len(args)+len(c.ends)*2/3), args...)
	for i, end := range c.ends {
		if s := text[begin:end]; i%3 == 0 {
			keys = append(keys, s)
		} else {
			argv = append(argv, s)
		}
		begin = end
	}
	return keys, argv
}

func (c *Cache) run(ctx context.Context, client rueidis.Client, calls []call) error {
	type run struct{ keys, args, gone []string }
	var todo []run
	var cmds rueidis.Commands
	for i := range calls {
		if len(calls[i].ends) == 0 {
			continue
		}
		var one run
		one.keys, one.args = calls[i].strings(c.news, c.origin)
		for _, k := range calls[i].gone {
			one.gone = append(one.gone, one.keys[k])
		}
		todo = append(todo, one)
		cmds = append(cmds, client.B().Evalsha().Sha1(scriptSHA).Numkeys(int64(len(one.keys))).Key(one.keys...).Arg(one.args...).Build())
	}
	if len(cmds) == 0 {
		return nil
	}
	var errs []error
	for i, r := range client.DoMulti(ctx, cmds...) {
		listeners, err := r.AsInt64()
		if refusal, ok := rueidis.IsRedisErr(err); ok && refusal.IsNoScript() {
			listeners, err = putScript.Exec(ctx, client, todo[i].keys, todo[i].args).AsInt64()
		}
		if err == nil {
			c.toldTo(client, listeners)
		} else {
			errs = append(errs, fmt.Errorf("redis: put: %w", err))
			c.giveUp(ctx, client, todo[i].gone, err)
		}
	}
	return errors.Join(errs...)
}

// toldTo learns from how many listen where something was told; negative: nothing was.
func (c *Cache) toldTo(client rueidis.Client, listeners int64) {
	if listeners >= 0 {
		// Of a cluster each node knows its own listeners only.
		c.alone.Store(listeners <= c.lines.Load() && client.Mode() != rueidis.ClientModeCluster)
	}
}

// giveUp removes keys whose tombstones a full Redis has refused: it still takes
// removals, and a final state that is left behind would be served for long.
func (c *Cache) giveUp(ctx context.Context, client rueidis.Client, gone []string, err error) {
	if len(gone) > 0 && isFull(err) {
		_ = client.Do(ctx, client.B().Del().Key(gone...).Build()).Error() // the refusal is the answer in any case
	}
}

// isFull reports whether Redis has refused for lack of memory.
func isFull(err error) bool {
	refusal, ok := rueidis.IsRedisErr(err)
	return ok && strings.HasPrefix(refusal.Error(), "OOM")
}

// byShard returns the keys of ids by hash tag: first their own ones, then those of their blocks. The
// second result counts the first ones.
func (c *Cache) byShard(ids []job.ID) (keys [shards][]string, own [shards]int) {
	for _, id := range ids {
		s := shardOf(id)
		keys[s] = append(keys[s], c.key(id))
		own[s]++
	}
	seen := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		if n := blockOf(id); !seen[n] {
			seen[n] = true
			s := shardOf(id)
			keys[s] = append(keys[s], blockKey(c.tags[s], id))
		}
	}
	return keys, own
}

// Get implements cache.Cache.
func (c *Cache) Get(ctx context.Context, ids []job.ID) ([]cache.Entry, error) {
	client, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	keys, own := c.byShard(ids)
	var cmds rueidis.Commands
	var owns []int
	for s := range keys {
		if len(keys[s]) > 0 {
			cmds, owns = append(cmds, client.B().Mget().Key(keys[s]...).Build()), append(owns, own[s])
		}
	}
	found := newFinds(ids)
	for i, r := range client.DoMulti(ctx, cmds...) {
		values, err := r.ToArray()
		if err != nil {
			return nil, fmt.Errorf("redis: get: %w", err)
		}
		for k := range values {
			text, err := values[k].AsBytes()
			switch {
			case err != nil: // nothing, or nothing of ours
			case k < owns[i]:
				if e, ok := decode(string(text)); ok {
					found.add(e) // what another version wrote is as good as nothing
				}
			default:
				readBlock(text, found.wants, found.add)
			}
		}
	}
	return found.list, nil
}

// finds gathers the newest of each job that is asked for.
type finds struct {
	list []cache.Entry
	at   map[job.ID]int // in list; negative: not found yet
}

func newFinds(ids []job.ID) *finds {
	f := &finds{at: make(map[job.ID]int, len(ids))}
	for _, id := range ids {
		f.at[id] = -1
	}
	return f
}

func (f *finds) wants(id job.ID) bool {
	_, ok := f.at[id]
	return ok
}

func (f *finds) add(e cache.Entry) {
	i, ok := f.at[e.ID]
	switch {
	case !ok:
	case i < 0:
		f.at[e.ID], f.list = len(f.list), append(f.list, e)
	case e.Newer(&f.list[i]):
		f.list[i] = e
	}
}

// Drop implements cache.Cache. It forgets all of their blocks.
func (c *Cache) Drop(ctx context.Context, ids []job.ID) error {
	client, err := c.connected(ctx)
	if err != nil {
		return err
	}
	keys, _ := c.byShard(ids)
	var cmds rueidis.Commands
	for _, some := range keys {
		if len(some) > 0 {
			cmds = append(cmds, client.B().Del().Key(some...).Build())
		}
	}
	for _, r := range client.DoMulti(ctx, cmds...) {
		if err := r.Error(); err != nil {
			return fmt.Errorf("redis: drop: %w", err)
		}
	}
	return nil
}

// Watch implements cache.Cache.
func (c *Cache) Watch(ctx context.Context, fn func(cache.News)) error {
	client, err := c.connected(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var one sync.Mutex // the two callbacks may come from different goroutines
	tell := func(n cache.News) {
		one.Lock()
		defer one.Unlock()
		fn(n)
	}
	var lines atomic.Int64 // it may be made again after a break
	defer func() { c.lines.Add(-lines.Load()) }()
	hooked := rueidis.WithOnSubscriptionHook(ctx, func(s rueidis.PubSubSubscription) {
		if s.Kind == "subscribe" {
			if lines.CompareAndSwap(0, 1) {
				c.lines.Add(1)
			}
			tell(cache.News{Missed: true})
		}
	})
	err = client.Receive(hooked, client.B().Subscribe().Channel(c.news).Build(), func(m rueidis.PubSubMessage) {
		origin, text, _ := strings.Cut(m.Message, "\n")
		if origin == c.origin {
			return
		}
		tell(decodeNews(text))
	})
	if ctx.Err() != nil {
		c.hangUp(client)
		return nil
	}
	if err == nil {
		err = errors.New("the subscription ended")
	}
	return fmt.Errorf("redis: watch: %w", err)
}

// hangUp ends the subscription, which outlives the call that made it. Of a server
// that does not answer there is nothing to hear either.
func (c *Cache) hangUp(client rueidis.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), hangUpPatience)
	defer cancel()
	_ = client.Do(ctx, client.B().Unsubscribe().Channel(c.news).Build()).Error()
}
