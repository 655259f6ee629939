package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

const (
	receiveWait  = time.Second // for messages, at a time
	refsLinger   = time.Second // how long refs without a hand are kept before they are given back
	consumerIdle = time.Minute // without any waiting worker
)

// carry takes refs from the carriers for the workers that wait at this server,
// one consumer a queue, and leases by them.
type carry struct {
	bell   chan struct{}
	leased atomic.Int64 // jobs, by refs

	mu        sync.Mutex
	consumers map[string]*consumer
}

func newCarry() *carry {
	return &carry{bell: make(chan struct{}, 1), consumers: map[string]*consumer{}}
}

func (c *carry) of(queue string) *consumer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.consumers[queue]
}

// consumer takes the refs of one queue from its carrier.
type consumer struct {
	e      *Engine
	queue  string
	route  string
	broker broker.Broker
	bell   chan struct{} // rung when a worker has come

	up       atomic.Bool  // the carrier answers
	cameAt   atomic.Int64 // when refs came last, by the monotonic clock; 0: never
	wantedAt time.Duration
	held     []heldRef
	asked    int // what Receive was last asked for
}

// heldRef is a ref that was received and not yet tried.
type heldRef struct {
	ledger.Ref
	of    *delivery
	again bool // was tried once
}

// delivery is a message with refs left to try; then it is acknowledged.
type delivery struct {
	msg  broker.Message
	left int
}

// carried reports whether the workers of a queue may leave its jobs to the
// carrier: refs have come lately. A queue of which none come is leased
// directly at each poll interval, whatever the cause: nothing is ready, the relay
// is between two leaders, or the carrier has gone without a word.
func (e *Engine) carried(queue string) bool {
	c := e.carry.of(queue)
	if c == nil || !c.up.Load() {
		return false
	}
	at := c.cameAt.Load()
	return at > 0 && e.conf.Monotonic()-time.Duration(at) < 2*e.conf.PollInterval
}

// carrierUp reports whether fresh jobs of a queue come by its carrier.
func (e *Engine) carrierUp(queue string) bool {
	c := e.carry.of(queue)
	return c != nil && c.up.Load()
}

// expectWorker tells the consumers of queues that a worker waits.
func (e *Engine) expectWorker(queues []string) {
	if len(e.conf.Brokers) == 0 {
		return
	}
	e.carry.mu.Lock()
	defer e.carry.mu.Unlock()
	for _, q := range queues {
		if c := e.carry.consumers[q]; c != nil {
			ring(c.bell)
		} else {
			ring(e.carry.bell)
		}
	}
}

// expectAgain tells the consumers of workers that a claim has left waiting.
func (e *Engine) expectAgain(waiting []*waiter) {
	for _, w := range waiting {
		e.expectWorker(w.queues)
	}
}

// runCarry keeps a consumer for each carried queue that workers wait for.
func (e *Engine) runCarry(ctx context.Context) {
	if len(e.conf.Brokers) == 0 {
		return
	}
	var group sync.WaitGroup
	defer group.Wait()
	e.every(ctx, "carry", e.conf.PollInterval, e.carry.bell, func(ctx context.Context) error {
		for _, q := range e.dispatch.queues() {
			route, b := e.carrier(q)
			if b == nil || e.carry.of(q) != nil {
				continue
			}
			c := &consumer{e: e, queue: q, route: route, broker: b, bell: make(chan struct{}, 1), wantedAt: e.conf.Monotonic()}
			e.carry.mu.Lock()
			e.carry.consumers[q] = c
			e.carry.mu.Unlock()
			group.Go(func() { c.run(ctx) })
		}
		return nil
	})
}

// run consumes until ctx ends, the queue's route changes or nobody wants the queue.
func (c *consumer) run(ctx context.Context) {
	c.e.retry(ctx, "carrier of queue "+c.queue, func(ctx context.Context, well func()) error {
		err := c.consume(ctx, well)
		if err != nil && c.up.Swap(false) {
			c.e.dispatch.wake([]string{c.queue}) // directly, until the carrier is back
		}
		return err
	})
	c.e.carry.mu.Lock()
	delete(c.e.carry.consumers, c.queue)
	c.e.carry.mu.Unlock()
	ring(c.e.carry.bell) // another carrier may have the queue now
	c.e.dispatch.wake([]string{c.queue})
}

// wanted reports whether there is still a reason to consume.
func (c *consumer) wanted() bool {
	route, _ := c.e.carrier(c.queue)
	return route == c.route && c.e.conf.Monotonic()-c.wantedAt < consumerIdle
}

// consume takes refs for free hands, and leases by them. What it has received and
// not acknowledged when it ends comes again.
func (c *consumer) consume(ctx context.Context, well func()) error {
	if !c.wanted() {
		return nil
	}
	sub, err := c.broker.Subscribe(ctx, topicOf(c.e.identity(), c.queue))
	if err != nil {
		return err
	}
	defer func() { _ = sub.Close() }()
	c.held = nil
	for ctx.Err() == nil {
		hands, err := c.awaitHands(ctx, sub)
		if hands == 0 || err != nil {
			return err
		}
		if len(c.held) == 0 {
			msgs, err := sub.Receive(ctx, c.bound(hands), receiveWait)
			if err != nil {
				return err
			}
			c.up.Store(true)
			well()
			if err := c.take(ctx, sub, msgs); err != nil {
				return err
			}
		}
		if err := c.lease(ctx, sub); err != nil {
			return err
		}
	}
	return nil
}

// bound is how many messages to ask for: as many as there are hands, roughly. Hands
// come and go with each job, and a carrier that is told another number each time
// may have to begin to consume anew; what comes for a hand too many is given back after a moment.
func (c *consumer) bound(hands int) int {
	if hands*4 < c.asked || hands > c.asked*4 {
		c.asked = hands
	}
	return c.asked
}

// awaitHands waits for workers that want the queue and returns how many jobs
// they could take. After a moment without any it gives the refs back, for the hands of other
// servers. It returns 0 when there is no reason to go on.
func (c *consumer) awaitHands(ctx context.Context, sub broker.Subscription) (int, error) {
	linger := time.NewTimer(refsLinger)
	defer linger.Stop()
	for c.wanted() {
		if hands := c.e.dispatch.hands(c.queue, c.held); hands > 0 {
			c.wantedAt = c.e.conf.Monotonic()
			return hands, nil
		}
		select {
		case <-ctx.Done():
			return 0, nil
		case <-c.bell:
		case <-linger.C:
			if err := c.giveUp(ctx, sub); err != nil {
				return 0, err
			}
			linger.Reset(consumerIdle / 4)
		}
	}
	return 0, c.giveUp(ctx, sub)
}

// giveUp returns all refs: those not tried to the relay, those sent ahead to the carrier.
func (c *consumer) giveUp(ctx context.Context, sub broker.Subscription) error {
	refs, done := make([]ledger.Ref, len(c.held)), []broker.Message{}
	for i, h := range c.held {
		refs[i] = h.Ref
		if h.of.left--; h.of.left == 0 {
			done = append(done, h.of.msg)
		}
	}
	c.held = nil
	c.e.returnRefs(ctx, c.queue, c.broker, refs)
	if len(done) > 0 {
		if err := sub.Ack(ctx, done); err != nil {
			return err
		}
	}
	return sub.Rest(ctx)
}

// take reads messages. One that makes no sense is acknowledged and reported: it
// would come again for ever.
func (c *consumer) take(ctx context.Context, sub broker.Subscription, msgs []broker.Message) error {
	var nonsense []broker.Message
	for _, m := range msgs {
		queue, refs, err := decodeRefs(m.Body)
		if err == nil && queue != c.queue {
			err = job.Errorf(job.InvalidArgument, job.ReasonBadField, "broker message: it is of queue %q", queue)
		}
		if err != nil {
			c.e.log.Warn("broker message dropped", "queue", c.queue, "route", c.route, "err", err)
			nonsense = append(nonsense, m)
			continue
		}
		d := &delivery{msg: m, left: len(refs)}
		for _, r := range refs {
			c.held = append(c.held, heldRef{Ref: r, of: d})
		}
	}
	if len(nonsense) == 0 {
		return nil
	}
	return sub.Ack(ctx, nonsense)
}

// lease gives the refs in hand to the workers that wait, as one claim, and
// acknowledges them once that is committed. Those that turn out to be of no use go back to
// the relay, which looks at the ledger.
func (c *consumer) lease(ctx context.Context, sub broker.Subscription) error {
	tries, given, left := c.e.dispatch.assign(c.queue, c.held)
	if len(tries) == 0 {
		return nil
	}
	c.cameAt.Store(int64(max(c.e.conf.Monotonic(), 1)))
	answers := c.e.claim(ctx, tries)
	c.e.expectAgain(c.e.dispatch.land(tries, 0, answers))
	used, full := map[job.ID]bool{}, map[job.ID]bool{}
	var failed error
	for k, a := range answers {
		if len(a.jobs) > 0 && len(a.jobs) < len(tries[k].refs) {
			for _, r := range tries[k].refs {
				full[r.ID] = true // what is left of these may just not have fitted into one answer
			}
		}
		if a.err != nil && failed == nil && job.ReasonOf(a.err) != job.ReasonSessionLost {
			failed = a.err
		}
		for i := range a.jobs {
			used[a.jobs[i].ID] = true
		}
	}
	if failed != nil {
		return failed // the refs come again
	}
	c.e.carry.leased.Add(int64(len(used)))
	var again []heldRef
	var useless []ledger.Ref
	var done []broker.Message
	for _, h := range given {
		switch {
		case used[h.ID]:
		case full[h.ID] && !h.again:
			h.again = true
			again = append(again, h)
			continue
		default:
			useless = append(useless, h.Ref)
		}
		if h.of.left--; h.of.left == 0 {
			done = append(done, h.of.msg)
		}
	}
	c.held = append(again, left...)
	c.e.relay.wake(c.queue)
	c.e.returnRefs(ctx, c.queue, c.broker, useless)
	return sub.Ack(ctx, done)
}
