package engine

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

const knownEvery = time.Second // between two questions which queues exist, at least

// carry takes refs from the carriers for the workers that wait at this server,
// one consumer a queue, and leases by them.
type carry struct {
	bell   chan struct{}
	leased atomic.Int64 // jobs, by refs

	mu        sync.Mutex
	consumers map[string]*consumer
	strange   map[string]bool // queues that workers ask for and that are not known to exist; true: a job has come
}

func newCarry() *carry {
	return &carry{bell: make(chan struct{}, 1), consumers: map[string]*consumer{}, strange: map[string]bool{}}
}

func (c *carry) of(queue string) *consumer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.consumers[queue]
}

// find returns the consumer of a queue, and whether the queue is strange.
func (c *carry) find(queue string) (found *consumer, strange bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, strange = c.strange[queue]
	return c.consumers[queue], strange
}

// carried reports whether the workers of a queue may leave its jobs to the
// carrier: refs have brought jobs lately, or are given the time to do so. A queue of which
// none do is leased directly at each poll interval, whatever the cause: nothing is ready, the relay
// is between two leaders, or the carrier has gone without a word.
func (e *Engine) carried(queue string) bool {
	c := e.carry.of(queue)
	return c != nil && c.up.Load() && c.trusted()
}

// expectRefs reports whether fresh jobs of a queue come by its carrier, and has
// its consumer mind that one is due.
func (e *Engine) expectRefs(queue string) bool {
	e.carry.mu.Lock()
	defer e.carry.mu.Unlock()
	c := e.carry.consumers[queue]
	if c == nil {
		if come, ok := e.carry.strange[queue]; ok && !come {
			e.carry.strange[queue] = true
			ring(e.carry.bell)
		}
		return false
	}
	ring(c.due)
	return c.up.Load()
}

// expectWorker tells the consumers of queues that a worker waits. Names that are known to be
// strange bring nothing new.
func (e *Engine) expectWorker(queues []string) {
	if len(e.conf.Brokers) == 0 {
		return
	}
	for _, q := range queues {
		c, strange := e.carry.find(q)
		if c != nil {
			ring(c.bell)
		} else if _, b := e.carrier(q); b != nil && !strange {
			ring(e.carry.bell)
		}
	}
}

// expectWaiters tells the consumers of workers that wait, those that a claim has left waiting
// too. A canary is none of them.
func (e *Engine) expectWaiters(waiting ...*waiter) {
	for _, w := range waiting {
		if !w.ofCanary() {
			e.expectWorker(w.queues)
		}
	}
}

// runCarry keeps a consumer for each carried queue that workers wait for.
func (e *Engine) runCarry(ctx context.Context) {
	if len(e.conf.Brokers) == 0 {
		return
	}
	var group sync.WaitGroup
	defer group.Wait()
	asked := -knownEvery
	e.every(ctx, "carry", e.conf.PollInterval, e.carry.bell, func(ctx context.Context) error {
		queues, ask := e.toConsume()
		for _, q := range queues {
			e.startConsumer(ctx, &group, q)
		}
		if now := e.conf.Monotonic(); ask && now-asked >= knownEvery {
			asked = now
			return e.introduce(ctx)
		}
		return nil
	})
}

// toConsume returns the carried queues that workers wait for and nobody consumes
// yet, and are known. It says whether there are others, of which nothing is heard but the name: a
// consumer of each name that some worker asks for would make topics that are there for good.
func (e *Engine) toConsume() (queues []string, strange bool) {
	wanted := map[string]bool{}
	for _, q := range e.dispatch.queues() {
		if _, b := e.carrier(q); b != nil && e.carry.of(q) == nil {
			wanted[q] = true
		}
	}
	e.carry.mu.Lock()
	defer e.carry.mu.Unlock()
	maps.DeleteFunc(e.carry.strange, func(q string, _ bool) bool { return !wanted[q] })
	for q := range wanted {
		if e.carry.strange[q] || e.routed(q) {
			queues = append(queues, q)
			continue
		}
		e.carry.strange[q] = false
		strange = true
	}
	return queues, strange
}

// introduce asks the ledger which of the strange queues have jobs, of whatever state.
func (e *Engine) introduce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	counts, err := e.ledger.Counts(ctx)
	if err != nil {
		return fmt.Errorf("look which queues exist: %w", err)
	}
	e.carry.mu.Lock()
	defer e.carry.mu.Unlock()
	for _, c := range counts {
		if come, strange := e.carry.strange[c.Queue]; c.N > 0 && strange && !come {
			e.carry.strange[c.Queue] = true
			ring(e.carry.bell)
		}
	}
	return nil
}

func (e *Engine) startConsumer(ctx context.Context, group *sync.WaitGroup, queue string) {
	route, b := e.carrier(queue)
	if b == nil {
		return
	}
	c := newConsumer(e, queue, route, b)
	e.carry.mu.Lock()
	e.carry.consumers[queue] = c
	delete(e.carry.strange, queue)
	e.carry.mu.Unlock()
	group.Go(func() { c.run(ctx) })
}
