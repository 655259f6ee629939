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
	receiveWait       = time.Second            // for messages, at a time
	refsLinger        = time.Second            // how long refs without a hand are kept before they are given back
	refPatience       = 100 * time.Millisecond // for the ref of a fresh job, before the ledger is looked at
	consumerIdle      = time.Minute            // without any waiting worker
	subscribePatience = 3 * brokerPatience     // a topic may have to be made
)

// consumer takes the refs of one queue from its carrier.
type consumer struct {
	e      *Engine
	queue  string
	route  string
	broker broker.Broker
	bell   chan struct{} // rung when a worker has come
	due    chan struct{} // rung when a job has become ready

	up       atomic.Bool  // the carrier answers
	heardAt  atomic.Int64 // when refs came last, by the monotonic clock; 0: never
	cameAt   atomic.Int64 // when they last brought a job
	triedAt  atomic.Int64 // when direct leasing last made way for them, although they brought none
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

func newConsumer(e *Engine, queue, route string, b broker.Broker) *consumer {
	return &consumer{
		e: e, queue: queue, route: route, broker: b,
		bell: make(chan struct{}, 1), due: make(chan struct{}, 1), wantedAt: e.conf.Monotonic(),
	}
}

// run consumes until ctx ends, the queue's route changes or nobody wants the queue.
func (c *consumer) run(ctx context.Context) {
	var group sync.WaitGroup
	watch, stop := context.WithCancel(ctx)
	group.Go(func() { c.watchDue(watch) })
	c.e.retry(ctx, "carrier of queue "+c.queue, func(ctx context.Context, well func()) error {
		err := c.consume(ctx, well)
		if err != nil && c.up.Swap(false) {
			c.e.dispatch.wake([]string{c.queue}) // directly, until the carrier is back
		}
		return err
	})
	stop()
	group.Wait()
	c.e.carry.mu.Lock()
	delete(c.e.carry.consumers, c.queue)
	c.e.carry.mu.Unlock()
	ring(c.e.carry.bell) // another carrier may have the queue now
	c.e.dispatch.wake([]string{c.queue})
}

// watchDue has the ledger looked at when a job has become ready and no ref has
// come within a moment: no relay may be there, or none that can publish. That the
// carrier answers does not say so. (The ref may have gone to another server: that costs
// this one a look.) While jobs are left to refs there is no look: it would ask for none of them.
func (c *consumer) watchDue(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.due:
		}
		since := c.now()
		if !pause(ctx, refPatience) {
			return
		}
		if c.heardAt.Load() < since && !c.e.carried(c.queue) {
			c.e.dispatch.wake([]string{c.queue})
		}
	}
}

// trusted reports whether jobs are left to refs: for two poll intervals after they
// brought one, and as long now and then for a try.
func (c *consumer) trusted() bool {
	return c.within(&c.cameAt, 2) || c.within(&c.triedAt, 2)
}

// within reports whether at is less than so many poll intervals ago.
func (c *consumer) within(at *atomic.Int64, polls time.Duration) bool {
	then := at.Load()
	return then > 0 && c.now()-then < int64(polls*c.e.conf.PollInterval)
}

// tryRefs makes way for refs that come and bring no job, once in ten poll intervals: direct leasing
// may only have been quicker than they are. If they are of no use after it either, it was not that.
func (c *consumer) tryRefs() {
	if !c.trusted() && !c.within(&c.triedAt, 12) {
		c.triedAt.Store(c.now())
	}
}

// now is the monotonic clock, never 0.
func (c *consumer) now() int64 { return int64(max(c.e.conf.Monotonic(), 1)) }

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
	sub, err := subscribe(ctx, c.broker, topicOf(c.e.identity(), c.queue))
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
			if len(msgs) > 0 {
				c.heardAt.Store(c.now())
			}
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

func subscribe(ctx context.Context, b broker.Broker, topic string) (broker.Subscription, error) {
	ctx, cancel := context.WithTimeout(ctx, subscribePatience)
	defer cancel()
	return b.Subscribe(ctx, topic)
}

// ack acknowledges messages. What cannot be acknowledged comes again.
func ack(ctx context.Context, sub broker.Subscription, msgs []broker.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, brokerPatience)
	defer cancel()
	return sub.Ack(ctx, msgs)
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
	if err := ack(ctx, sub, done); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, brokerPatience)
	defer cancel()
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
	return ack(ctx, sub, nonsense)
}

// lease gives the refs in hand to the workers that wait, as one claim, and
// acknowledges them once that is committed. Those that turn out to be of no use go back to
// the relay, which looks at the ledger.
func (c *consumer) lease(ctx context.Context, sub broker.Subscription) error {
	tries, given, left := c.e.dispatch.assign(c.queue, c.held)
	if len(tries) == 0 {
		return nil
	}
	c.tryRefs()
	answers := c.e.claim(ctx, tries)
	c.e.expectWaiters(c.e.dispatch.land(tries, 0, answers)...)
	used, full, err := weigh(tries, answers)
	if err != nil {
		return err // the refs come again
	}
	if len(used) > 0 {
		c.cameAt.Store(c.now())
		c.e.carry.leased.Add(int64(len(used)))
	}
	again, useless, done := parted(given, used, full)
	c.held = append(again, left...)
	c.e.relay.wake(c.queue)
	c.e.returnRefs(ctx, c.queue, c.broker, useless)
	return ack(ctx, sub, done)
}

// weigh reads the answers to a claim by refs: the jobs that it brought, and the refs
// that were asked for together with these and may just not have fitted into one answer. A session that
// is lost is its worker's trouble; any other error is returned.
func weigh(tries []try, answers []leased) (used, full map[job.ID]bool, err error) {
	used, full = map[job.ID]bool{}, map[job.ID]bool{}
	for k, a := range answers {
		if a.err != nil && err == nil && job.ReasonOf(a.err) != job.ReasonSessionLost {
			err = a.err
		}
		for i := range a.jobs {
			used[a.jobs[i].ID] = true
		}
		if len(a.jobs) == 0 || len(a.jobs) == len(tries[k].refs) {
			continue
		}
		for _, r := range tries[k].refs {
			full[r.ID] = true
		}
	}
	return used, full, err
}

// parted sorts refs that were tried: those to try once more, those of no use, and the
// messages of which nothing is left to try.
func parted(given []heldRef, used, full map[job.ID]bool) (again []heldRef, useless []ledger.Ref, done []broker.Message) {
	for _, h := range given {
		if !used[h.ID] && full[h.ID] && !h.again {
			h.again = true
			again = append(again, h)
			continue
		}
		if !used[h.ID] {
			useless = append(useless, h.Ref)
		}
		if h.of.left--; h.of.left == 0 {
			done = append(done, h.of.msg)
		}
	}
	return again, useless, done
}
