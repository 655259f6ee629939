package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

const (
	relayTTL       = 6 * time.Second // of the lead: how long a relay that died goes unreplaced
	relayInterval  = relayTTL / 3
	routesInterval = time.Second
	discoverFloor  = 100 * time.Millisecond // from one look for queues to feed to the next, however many wakes come
	brokerPatience = 5 * time.Second        // bounds each call to a broker
)

// relay publishes refs of ready jobs to the carriers, for all servers: one
// process leads, the others stand by. What it knows of what was published lives in
// its memory. A new leader begins without it and publishes a window anew, which
// costs some doubled refs and nothing else.
type relay struct {
	id    job.ID
	bell  chan struct{}
	stats relayStats

	mu      sync.Mutex
	until   time.Duration // by the monotonic clock: leads no longer than this
	feeders map[string]*feeder
}

// relayStats are counted since the start of the process.
type relayStats struct {
	leads       atomic.Bool
	published   atomic.Int64 // refs
	republished atomic.Int64 // published and not leased in time
	returned    atomic.Int64 // refs that servers could not use
}

func newRelay(id job.ID) *relay {
	return &relay{id: id, bell: make(chan struct{}, 1), feeders: map[string]*feeder{}}
}

// wake has the feeder of a carried queue look at once, if this process leads.
func (r *relay) wake(queue string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.feeders[queue]; f != nil {
		ring(f.bell)
	} else if r.until > 0 {
		ring(r.bell)
	}
}

// runRelay holds the lead, or stands by for it.
func (e *Engine) runRelay(ctx context.Context) {
	if len(e.conf.Brokers) == 0 {
		return
	}
	for e.identity() == "" && pause(ctx, 20*time.Millisecond) {
		continue // topics cannot be named before the first look at the routes
	}
	var lead *leadership
	e.every(ctx, "relay", relayInterval, nil, func(ctx context.Context) error {
		leads, err := e.holdRelay(ctx)
		// Who cannot reach the ledger leads on until its time is over: no other does.
		if lead != nil && (err == nil && !leads || e.conf.Monotonic() >= e.relay.leadsUntil()) {
			lead.end()
			lead = nil
		}
		if lead == nil && leads {
			lead = e.beginLead(ctx)
		}
		return err
	})
	if lead != nil {
		lead.end()
		e.giveRelayUp()
	}
}

func (r *relay) leadsUntil() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.until
}

// holdRelay asks the ledger for the lead. Its time counts from before the
// question, so that it ends here before it can begin elsewhere.
func (e *Engine) holdRelay(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, relayInterval)
	defer cancel()
	asked := e.conf.Monotonic()
	now, err := e.clock.now(ctx)
	if err != nil {
		return false, err
	}
	leads, _, err := e.ledger.HoldRelay(ctx, now, e.relay.id, relayTTL)
	if err != nil {
		return false, fmt.Errorf("hold the relay's lead: %w", err)
	}
	if leads {
		e.relay.mu.Lock()
		e.relay.until = asked + relayTTL
		e.relay.mu.Unlock()
	}
	return leads, nil
}

func (e *Engine) giveRelayUp() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	now, err := e.clock.now(ctx)
	if err == nil {
		_, _, err = e.ledger.HoldRelay(ctx, now, e.relay.id, 0)
	}
	if err != nil {
		e.log.Warn("relay: the lead was not given up; it ends by itself", "after", relayTTL, "err", err)
	}
}

// leadership is the time for which this process leads.
type leadership struct {
	cancel context.CancelFunc
	group  sync.WaitGroup
	e      *Engine
}

func (e *Engine) beginLead(ctx context.Context) *leadership {
	ctx, cancel := context.WithCancel(ctx)
	l := &leadership{cancel: cancel, e: e}
	e.relay.stats.leads.Store(true)
	e.log.Info("relay: leads")
	l.group.Go(func() {
		e.every(ctx, "feed", e.conf.PollInterval, e.relay.bell, func(ctx context.Context) error {
			err := l.discover(ctx)
			pause(ctx, discoverFloor)
			return err
		})
	})
	for route, b := range e.conf.Brokers {
		l.group.Go(func() { e.hearReturns(ctx, route, b) })
	}
	return l
}

func (l *leadership) end() {
	l.cancel()
	l.group.Wait()
	r := l.e.relay
	r.mu.Lock()
	r.until = 0
	r.mu.Unlock()
	r.stats.leads.Store(false)
	l.e.log.Info("relay: leads no longer")
}

// discover sees to it that each carried queue with ready jobs has a feeder, and
// kicks those that have none to wake them: jobs of EnqueueTx, and of processes
// whose wakes were lost.
func (l *leadership) discover(ctx context.Context) error {
	e := l.e
	call, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	counts, err := e.ledger.Counts(call)
	if err != nil {
		return fmt.Errorf("look for queues to feed: %w", err)
	}
	e.relay.mu.Lock()
	defer e.relay.mu.Unlock()
	for _, c := range counts {
		if c.State != job.Ready || c.N <= 0 {
			continue
		}
		if f := e.relay.feeders[c.Queue]; f != nil {
			ring(f.bell)
			continue
		}
		route, b := e.carrier(c.Queue)
		if b == nil {
			continue
		}
		f := newFeeder(e, c.Queue, route, b)
		e.relay.feeders[c.Queue] = f
		l.group.Go(func() {
			f.run(ctx)
			e.relay.mu.Lock()
			defer e.relay.mu.Unlock()
			delete(e.relay.feeders, f.queue)
		})
	}
	return nil
}

// returnRefs has refs that this server cannot use come to the relay, so that it
// need not wait for them to grow old.
func (e *Engine) returnRefs(ctx context.Context, queue string, b broker.Broker, refs []ledger.Ref) {
	if len(refs) == 0 || e.relay.takeBack(queue, refs) {
		return
	}
	bodies, err := encodeRefs(queue, refs, maxMessageRefs)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerPatience)
		defer cancel()
		err = b.Publish(ctx, returnsOf(e.identity()), bodies)
	}
	if err != nil {
		e.log.Debug("refs not returned; the relay will miss them", "queue", queue, "refs", len(refs), "err", err)
	}
}

// takeBack takes refs back if this process leads.
func (r *relay) takeBack(queue string, refs []ledger.Ref) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == 0 {
		return false
	}
	if f := r.feeders[queue]; f != nil {
		f.takeBack(refs)
		r.stats.returned.Add(int64(len(refs)))
	}
	return true
}

// hearReturns takes back what other servers return.
func (e *Engine) hearReturns(ctx context.Context, route string, b broker.Broker) {
	e.retry(ctx, "returns of "+route, func(ctx context.Context, well func()) error {
		identity := e.identity()
		if identity == "" {
			return errNoIdentity
		}
		sub, err := subscribe(ctx, b, returnsOf(identity))
		if err != nil {
			return err
		}
		defer func() { _ = sub.Close() }()
		for ctx.Err() == nil {
			msgs, err := sub.Receive(ctx, maxMessageRefs, receiveWait)
			if err != nil {
				return err
			}
			well()
			for _, m := range msgs {
				if queue, refs, err := decodeRefs(m.Body); err == nil {
					e.relay.takeBack(queue, refs)
				}
			}
			if err := ack(ctx, sub, msgs); err != nil && ctx.Err() == nil {
				return err
			}
		}
		return nil
	})
}

var errNoIdentity = errors.New("the ledger's identity is not known yet")
