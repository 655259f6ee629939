package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	errand "github.com/errandhq/errand"
)

// Load is a set of accepted jobs, by what they were ordered to do.
type Load struct {
	mu       sync.Mutex
	accepted map[errand.ID]Order
	refused  int
}

// Accepted is the number of jobs whose enqueue has returned without an error.
func (l *Load) Accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted)
}

// Refused is the number of jobs whose enqueue was refused for good.
func (l *Load) Refused() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused
}

const producers = 4

// Produce hands in n jobs, spread over the time given, from several producers
// at once, in turns one by one and in batches. It returns when each of them was
// accepted: an enqueue that fails, or whose outcome is not known, is repeated
// with the same ids.
func (c *Cluster) Produce(n int, over time.Duration, seed uint64) *Load {
	c.T.Helper()
	l := &Load{accepted: map[errand.ID]Order{}}
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

func (c *Cluster) produce(client *errand.Client, l *Load, n int, over time.Duration, rng *rand.Rand) {
	began, done := time.Now(), 0
	for done < n && c.T.Context().Err() == nil {
		size := 1
		if rng.IntN(2) == 0 {
			size = min(1+rng.IntN(40), n-done)
		}
		orders := make([]Order, size)
		for i := range orders {
			orders[i] = c.randomOrder(rng, done+i)
		}
		if !c.submit(client, l, orders) {
			return
		}
		done += size
		due := began.Add(over * time.Duration(done) / time.Duration(n))
		if wait := time.Until(due); wait > 0 {
			c.pause(wait)
		}
	}
}

// randomOrder makes mostly quick jobs, a few that fail at first, and a few long ones.
func (c *Cluster) randomOrder(rng *rand.Rand, n int) Order {
	o := Order{N: n, Millis: rng.IntN(20)}
	switch lot := rng.IntN(50); {
	case lot == 0 && !c.NoRetries:
		o.Fails = 1 + rng.IntN(2)
	case lot == 1:
		o.Millis = 500 + rng.IntN(1000)
	}
	return o
}

// submit hands orders in until they are accepted, always under the same ids.
func (c *Cluster) submit(client *errand.Client, l *Load, orders []Order) bool {
	task := errand.NewTask[Order](Kind)
	params := make([]errand.EnqueueParams, len(orders))
	for i, o := range orders {
		p, err := task.Params(o, errand.WithID(errand.NewID()))
		if err != nil {
			c.T.Error(err)
			return false
		}
		params[i] = p
	}
	deadline := time.Now().Add(Patience)
	for {
		ctx, cancel := context.WithTimeout(c.T.Context(), Patience)
		results, err := client.EnqueueBatch(ctx, params)
		cancel()
		if err == nil {
			return l.add(c, params, orders, results)
		}
		if time.Now().After(deadline) || errors.Is(err, context.Canceled) {
			c.T.Errorf("enqueue: %v", err)
			return false
		}
		c.pause(20 * time.Millisecond)
	}
}

func (l *Load) add(c *Cluster, params []errand.EnqueueParams, orders []Order, results []errand.EnqueueResult) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range results {
		if r.Err != nil || r.ID != params[i].ID {
			c.T.Errorf("enqueue of %s answered %s, %v", params[i].ID, r.ID, r.Err)
			return false
		}
		l.accepted[r.ID] = orders[i]
	}
	return true
}
