package cluster

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/history"
	"github.com/errandhq/errand/test/cluster/order"
)

// Load is a set of accepted jobs, by what was promised of them.
type Load struct {
	mu       sync.Mutex
	accepted map[errand.ID]history.Promise
}

// NewLoad makes a load without jobs.
func NewLoad() *Load { return &Load{accepted: map[errand.ID]history.Promise{}} }

// Promises are those of the jobs accepted so far.
func (l *Load) Promises() map[errand.ID]history.Promise {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.accepted)
}

// Add adds the jobs of another load.
func (l *Load) Add(other *Load) {
	more := other.Promises()
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.Copy(l.accepted, more)
}

// Accepted is the number of jobs whose enqueue has returned without an error.
func (l *Load) Accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted)
}

const producers = 4

// Produce hands in n jobs, spread over the time given, from several producers
// at once, in turns one by one and in batches. It returns when each of them was
// accepted: an enqueue that fails, or whose outcome is not known, is repeated
// with the same ids.
func (c *Cluster) Produce(n int, over time.Duration, seed uint64) *Load {
	c.T.Helper()
	l := NewLoad()
	var all sync.WaitGroup
	for p := range producers {
		client := c.NewClient()
		rng := rand.New(rand.NewPCG(seed, uint64(p)))
		share := n / producers
		if p < n%producers {
			share++
		}
		all.Go(func() { c.produce(client, l, share, over, rng) })
	}
	all.Wait()
	return l
}

// Burst hands in n jobs at once that do as ordered.
func (c *Cluster) Burst(l *Load, n int, o Order, opts ...errand.EnqueueOption) {
	c.T.Helper()
	for left := n; left > 0; left -= 500 {
		items := make([]item, min(left, 500))
		for i := range items {
			items[i] = c.newItem(o, opts...)
		}
		c.submit(c.Client(), l, items)
	}
}

// pourEvery is how often Pour hands in what is due.
const pourEvery = 50 * time.Millisecond

// Pour hands in the orders that next makes, so many a second as rate says at each
// moment, until ctx ends. What could not be handed in for a while comes
// together, as it does from users.
func (c *Cluster) Pour(ctx context.Context, rate func() float64, next func(n int) Order) *Load {
	l, client, n, due := NewLoad(), c.NewClient(), 0, 0.0
	for last := time.Now(); ctx.Err() == nil; {
		c.pause(pourEvery)
		now := time.Now()
		due += rate() * now.Sub(last).Seconds()
		last = now
		var items []item
		for ; due >= 1 && len(items) < 1000; due-- {
			items = append(items, c.newItem(next(n)))
			n++
		}
		if len(items) > 0 && !c.submit(client, l, items) {
			break
		}
	}
	return l
}

func (c *Cluster) produce(client *errand.Client, l *Load, n int, over time.Duration, rng *rand.Rand) {
	began, done := time.Now(), 0
	for done < n && c.T.Context().Err() == nil {
		size := 1
		if rng.IntN(2) == 0 {
			size = min(1+rng.IntN(40), n-done)
		}
		items := make([]item, size)
		for i := range items {
			items[i] = c.randomItem(rng, done+i)
		}
		if !c.submit(client, l, items) || c.Repeats && rng.IntN(5) == 0 && !c.submit(client, l, items) {
			return
		}
		done += size
		due := began.Add(over * time.Duration(done) / time.Duration(n))
		if wait := time.Until(due); wait > 0 {
			c.pause(wait)
		}
	}
}

// item is a job of a load, before and after its enqueue.
type item struct {
	params  errand.EnqueueParams
	promise history.Promise
}

// newItem makes an item with an id of its own.
func (c *Cluster) newItem(o Order, opts ...errand.EnqueueOption) item {
	c.T.Helper()
	p, err := errand.NewTask[Order](Kind).Params(o, append(opts, errand.WithID(errand.NewID()))...)
	if err != nil {
		c.T.Fatal(err)
	}
	it := item{params: p, promise: history.Promise{Queue: p.Queue, Priority: 5}}
	if p.Priority != nil {
		it.promise.Priority = *p.Priority
	}
	return it
}

// randomItem makes mostly quick jobs, a few that fail at first, and a few long ones. If the
// cluster names queues they are spread over them, with priorities, and some are for later.
func (c *Cluster) randomItem(rng *rand.Rand, n int) item {
	o := Order{N: n, Millis: rng.IntN(20)}
	switch lot := rng.IntN(50); {
	case lot == 0 && !c.NoRetries:
		o.Fails = 1 + rng.IntN(2)
	case lot == 1:
		o.Millis = 500 + rng.IntN(1000)
	}
	if len(c.Queues) == 0 {
		return c.newItem(o)
	}
	opts := []errand.EnqueueOption{errand.Queue(c.Queues[rng.IntN(len(c.Queues))]), errand.Priority([]int{0, 5, 5, 5, 9}[rng.IntN(5)])}
	if rng.IntN(20) == 0 {
		opts = append(opts, errand.In(time.Duration(rng.IntN(3000))*time.Millisecond))
	}
	return c.newItem(o, opts...)
}

// submit hands jobs in until they are accepted, always under the same ids.
func (c *Cluster) submit(client *errand.Client, l *Load, items []item) bool {
	params := make([]errand.EnqueueParams, len(items))
	for i, it := range items {
		params[i] = it.params
	}
	deadline := time.Now().Add(Patience)
	for {
		ctx, cancel := context.WithTimeout(c.T.Context(), Patience)
		results, err := client.EnqueueBatch(ctx, params)
		cancel()
		if err == nil {
			return l.add(c, items, results)
		}
		if time.Now().After(deadline) || errors.Is(err, context.Canceled) {
			c.T.Errorf("enqueue: %v", err)
			return false
		}
		c.pause(20 * time.Millisecond)
	}
}

func (l *Load) add(c *Cluster, items []item, results []errand.EnqueueResult) bool {
	now := order.Monotonic()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range results {
		if r.Err != nil || r.ID != items[i].params.ID {
			c.T.Errorf("enqueue of %s answered %s, %v", items[i].params.ID, r.ID, r.Err)
			return false
		}
		if _, known := l.accepted[r.ID]; known {
			continue
		}
		p := items[i].promise
		if items[i].params.Delay == 0 {
			p.At = now
		}
		l.accepted[r.ID] = p
	}
	return true
}
