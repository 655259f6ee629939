package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// RefTTL is how long a ref that was published may be on its way: then it is
// published again, and carriers drop what is older.
const RefTTL = 30 * time.Second

const (
	leastWindow  = 200 // refs published ahead of the hands, at least,
	windowHands  = 4   // and for each hand
	mostWindow   = 20_000
	returnedRest = 250 * time.Millisecond // before a returned ref is published again
	feedFast     = 2 * time.Millisecond   // between two looks while jobs flow
	feedFloor    = 5 * time.Millisecond   // from a look to one that a wake asks for, at least
	feedSlow     = 250 * time.Millisecond
	feederIdle   = time.Minute
	depthEvery   = 250 * time.Millisecond // between two questions for the broker's depth, at least
	fullPatience = 5 * time.Second        // with a broker that is full, before it is reported
	messageParts = 16                     // a window's refs are spread over so many messages, so that every server gets some
)

// feeder publishes the refs of one queue. It reads the head of the queue, as
// claims would give it, a window long: what it has published and still sees there
// waits at the carrier, what it does not see there any more was leased, and the rest is published. So
// order, pauses and late urgent jobs are the ledger's business, and whatever
// the carrier lost is noticed.
type feeder struct {
	e      *Engine
	queue  string
	route  string
	broker broker.Broker
	bell   chan struct{}

	mu        sync.Mutex
	published map[job.ID]sent
	oldest    time.Time // when the oldest job became ready that the last look saw unpublished; zero: none

	share    int           // refs in a message, last time
	deep     time.Duration // the depth was last asked for
	since    int           // messages published since
	full     bool          // the broker holds more than it should,
	fullAt   time.Duration // since then,
	told     bool          // and that was reported
	pace     time.Duration // until the next look, while jobs flow
	activeAt time.Duration
}

// sent is a ref that was published.
type sent struct {
	token int64
	lane  job.Lane
	seq   int64
	again time.Duration // when it is to be published again
}

func newFeeder(e *Engine, queue, route string, b broker.Broker) *feeder {
	return &feeder{
		e: e, queue: queue, route: route, broker: b, bell: make(chan struct{}, 1),
		published: map[job.ID]sent{}, share: 1, pace: feedFast, activeAt: e.conf.Monotonic(),
	}
}

// run feeds until ctx ends, the queue's route changes, or nothing has come for a while.
func (f *feeder) run(ctx context.Context) {
	f.e.retry(ctx, "feed of queue "+f.queue, func(ctx context.Context, well func()) error {
		for ctx.Err() == nil {
			if route, _ := f.e.carrier(f.queue); route != f.route || f.e.conf.Monotonic()-f.activeAt > feederIdle {
				return nil
			}
			wait, err := f.feed(ctx)
			if err != nil {
				return err
			}
			well()
			f.rest(ctx, wait)
		}
		return nil
	})
}

// rest waits until the next look is due, or a wake comes: however many do, looks
// are feedFloor apart.
func (f *feeder) rest(ctx context.Context, wait time.Duration) {
	t := time.NewTimer(wait)
	defer t.Stop()
	if !pause(ctx, min(wait, feedFloor)) {
		return
	}
	select {
	case <-ctx.Done():
	case <-f.bell:
	case <-t.C:
	}
}

// feed is one look at the queue. It returns how long the next may wait.
func (f *feeder) feed(ctx context.Context) (time.Duration, error) {
	crew := f.e.routing.crew(f.queue)
	if crew.hands == 0 || !crew.every && len(crew.kinds) == 0 {
		f.forget()
		return f.e.conf.PollInterval, nil
	}
	window := min(max(leastWindow, windowHands*crew.hands), mostWindow)
	head, err := f.head(ctx, ledger.Head{Queue: f.queue, Kinds: crew.kinds, Max: window})
	if err != nil {
		return 0, err
	}
	if head.Paused {
		f.forget() // so that all is published anew when it goes on
		return f.e.conf.PollInterval, nil
	}
	fresh, again := f.compare(head.Refs, len(head.Refs) == window)
	if len(head.Refs) > 0 {
		f.activeAt = f.e.conf.Monotonic()
	}
	if len(fresh) > 0 {
		if open, err := f.open(ctx, window); err != nil || !open {
			return f.e.conf.PollInterval, err
		}
		if err := f.publish(ctx, fresh); err != nil {
			return 0, err
		}
		f.e.relay.stats.published.Add(int64(len(fresh)))
		f.e.relay.stats.republished.Add(int64(again))
	}
	return f.next(len(head.Refs), len(fresh), window), nil
}

// next is how long the next look may wait, if no wake cuts it short: while the
// queue is longer than the window, as long as a part of the window takes to be leased.
func (f *feeder) next(refs, fresh, window int) time.Duration {
	switch {
	case refs == 0:
		f.pace = feedFast
		return f.e.conf.PollInterval
	case refs < window:
		f.pace = feedFast
		return feedSlow
	case fresh >= window/4:
		f.pace = max(f.pace/2, feedFast)
	default:
		f.pace = min(f.pace*2, feedSlow)
	}
	return f.pace
}

func (f *feeder) head(ctx context.Context, h ledger.Head) (ledger.Headed, error) {
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	now, err := f.e.clock.now(ctx)
	if err != nil {
		return ledger.Headed{}, err
	}
	heads, err := f.e.ledger.Heads(ctx, now, []ledger.Head{h})
	if err != nil {
		return ledger.Headed{}, fmt.Errorf("read the head of queue %q: %w", f.queue, err)
	}
	return heads[0], nil
}

// compare holds the head of the queue against what was published. It forgets what
// must have been leased, and returns what is to be published, and how many
// of those for another time. cut says that the queue goes on behind the refs.
func (f *feeder) compare(refs []ledger.Ref, cut bool) (fresh []ledger.Ref, again int) {
	now := f.e.conf.Monotonic()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.oldest = time.Time{}
	seen := make(map[job.ID]bool, len(refs))
	for _, r := range refs {
		seen[r.ID] = true
		s, ok := f.published[r.ID]
		switch {
		case !ok || s.token != r.Token:
			fresh = append(fresh, r)
			if f.oldest.IsZero() || r.RunAt.Before(f.oldest) {
				f.oldest = r.RunAt
			}
		case now >= s.again:
			fresh = append(fresh, r)
			again++
		}
	}
	for id, s := range f.published {
		behind := cut && !before(s, refs[len(refs)-1])
		if !seen[id] && (!behind || now >= s.again) {
			delete(f.published, id)
		}
	}
	return fresh, again
}

// before reports whether s comes before r in the order of the queue.
func before(s sent, r ledger.Ref) bool {
	return s.lane < r.Lane || s.lane == r.Lane && s.seq < r.Seq
}

// open reports whether the broker has room: nothing is published while it holds
// more than two windows, whoever may have stopped consuming.
func (f *feeder) open(ctx context.Context, window int) (bool, error) {
	now := f.e.conf.Monotonic()
	if now-f.deep < depthEvery || !f.full && f.since < window && f.deep > 0 {
		return !f.full, nil
	}
	ctx, cancel := context.WithTimeout(ctx, brokerPatience)
	defer cancel()
	depth, err := f.broker.Depth(ctx, topicOf(f.e.identity(), f.queue))
	if err != nil {
		return false, err
	}
	f.deep, f.since, f.full = now, 0, depth > int64(2*window)
	f.tellFull(now, depth, window)
	return !f.full, nil
}

// tellFull reports a broker that stays full. For a moment any is, when servers
// leased directly what was on its way.
func (f *feeder) tellFull(now time.Duration, depth int64, window int) {
	switch {
	case !f.full:
		f.fullAt, f.told = 0, false
	case f.fullAt == 0:
		f.fullAt = now
	case !f.told && now-f.fullAt >= fullPatience:
		f.told = true
		f.e.log.Warn("relay: the broker holds more refs than it should, and nobody takes them; servers lease directly meanwhile",
			"queue", f.queue, "route", f.route, "messages", depth, "bound", 2*window)
	}
}

func (f *feeder) publish(ctx context.Context, refs []ledger.Ref) error {
	bodies, err := encodeRefs(f.queue, refs, (len(refs)+messageParts-1)/messageParts)
	if err != nil {
		return err
	}
	// They count as published from now on: the first may come back before the last is confirmed.
	f.note(refs)
	f.since += len(bodies)
	call, cancel := context.WithTimeout(ctx, brokerPatience)
	defer cancel()
	if err := f.broker.Publish(call, topicOf(f.e.identity(), f.queue), bodies); err != nil {
		f.unnote(refs)
		return fmt.Errorf("publish %d refs: %w", len(refs), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.oldest = time.Time{}
	return nil
}

func (f *feeder) note(refs []ledger.Ref) {
	again := f.e.conf.Monotonic() + f.e.conf.RefTTL
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range refs {
		f.published[r.ID] = sent{token: r.Token, lane: r.Lane, seq: r.Seq, again: again}
	}
}

func (f *feeder) unnote(refs []ledger.Ref) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range refs {
		delete(f.published, r.ID)
	}
}

func (f *feeder) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.published)
	f.oldest = time.Time{}
}

// takeBack has refs published again soon, if they are still ready then.
func (f *feeder) takeBack(refs []ledger.Ref) {
	again := f.e.conf.Monotonic() + returnedRest
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range refs {
		if s, ok := f.published[r.ID]; ok && s.token == r.Token {
			s.again = min(s.again, again)
			f.published[r.ID] = s
		}
	}
}
