package kafka

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/errandhq/errand/broker"
)

// classic consumes a topic as a member of a consumer group: it alone gets the
// messages of the partitions that are its own. What it cannot take, nobody else gets, until
// the relay publishes again; so one that rests for long leaves the group.
type classic struct {
	b     *Broker
	topic string

	closing  context.Context // ends when Close begins
	close    context.CancelFunc
	shutOnce sync.Once

	turn chan struct{} // held by the one call under way; the next fields belong to it
	cl   *kgo.Client   // nil: not in the group

	resting *time.Timer // leaves the group when the rest gets long; nil: not resting

	mu     sync.Mutex
	parts  map[int32]*progress // the partitions that are ours
	health health
}

// subscribeClassic joins at once, so that the group makes room while the caller goes on.
func (b *Broker) subscribeClassic(ctx context.Context, topic string) (*classic, error) {
	if err := b.cl.Ping(ctx); err != nil {
		return nil, wrap(ctx, "join the group of "+topic, err)
	}
	c := &classic{b: b, topic: topic, turn: make(chan struct{}, 1), parts: map[int32]*progress{}}
	c.closing, c.close = context.WithCancel(context.Background())
	return c, c.join()
}

// join enters the group, unless we are in it.
func (c *classic) join() (err error) {
	if c.cl != nil {
		return nil
	}
	c.cl, err = c.b.client(
		kgo.ConsumerGroup(c.topic+classicSuffix),
		kgo.ConsumeTopics(c.topic),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.FetchMaxWait(fetchWait),
		kgo.FetchMaxBytes(fetchBytes),
		kgo.FetchMaxPartitionBytes(fetchBytes/classicPartitions),
		kgo.SessionTimeout(groupTimeout),
		kgo.HeartbeatInterval(groupTimeout/10),
		kgo.RebalanceTimeout(groupTimeout),
		kgo.OnPartitionsAssigned(c.assigned),
		kgo.OnPartitionsRevoked(c.revoked),
		kgo.OnPartitionsLost(c.lost),
		kgo.WithHooks(&c.health),
	)
	return err
}

func (c *classic) assigned(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range parts[c.topic] {
		c.parts[p] = &progress{}
	}
}

// revoked stores what was acknowledged before the partitions go to another member.
func (c *classic) revoked(ctx context.Context, cl *kgo.Client, parts map[string][]int32) {
	ctx, cancel := context.WithTimeout(ctx, closePatience)
	defer cancel()
	_ = c.commit(ctx, cl) // if it fails, the next member gets them again
	c.lost(ctx, cl, parts)
}

func (c *classic) lost(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range parts[c.topic] {
		delete(c.parts, p)
	}
}

// begin takes the turn. Close ends the wait of whoever has it.
func (c *classic) begin() error {
	c.turn <- struct{}{}
	if c.closing.Err() != nil {
		c.end()
		return broker.ErrClosed
	}
	return nil
}

func (c *classic) end() { <-c.turn }

// Receive implements broker.Subscription. What the client has fetched ahead is
// of partitions that nobody else may fetch.
func (c *classic) Receive(ctx context.Context, most int, wait time.Duration) ([]broker.Message, error) {
	if err := broker.CheckMost(most); err != nil {
		return nil, err
	}
	if err := c.begin(); err != nil {
		return nil, err
	}
	defer c.end()
	c.wake()
	if err := c.join(); err != nil {
		return nil, err
	}
	poll, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer context.AfterFunc(c.closing, cancel)()
	for {
		fetches := c.cl.PollRecords(poll, most)
		msgs, old := c.take(fetches)
		if old {
			_ = c.commit(ctx, c.cl) // or with the next acknowledgement
		}
		switch {
		case len(msgs) > 0:
			return msgs, nil
		case c.closing.Err() != nil:
			return nil, broker.ErrClosed
		case ctx.Err() != nil:
			return nil, nil
		}
		if poll.Err() != nil {
			return nil, wrap(ctx, "receive from "+c.topic, c.health.down())
		}
		if err := c.mend(ctx, fetches.Err()); err != nil {
			return nil, wrap(ctx, "receive from "+c.topic, err)
		}
	}
}

// mend returns an error that the client cannot mend by itself. The client does not take a
// new topic for one that was deleted: another client does.
func (c *classic) mend(ctx context.Context, err error) error {
	if !gone(err) {
		return err
	}
	c.leave()
	c.b.forget(c.topic)
	if err := c.b.ensure(ctx, c.topic); err != nil {
		return err
	}
	return c.join()
}

// take notes what came, and returns what is not too old.
func (c *classic) take(fetches kgo.Fetches) (msgs []broker.Message, old bool) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	fetches.EachRecord(func(r *kgo.Record) {
		p := c.parts[r.Partition]
		if p == nil {
			return // revoked since; another member gets it
		}
		m := p.deliver(r, now)
		if c.b.stale(r.Timestamp, now) {
			m.acked, old = true, true
			return
		}
		msgs = append(msgs, broker.Message{Body: r.Value, Tag: tag{p, m}})
	})
	return msgs, old
}

// Ack implements broker.Subscription. The offset that is stored moves only over
// messages without a gap: one that was never acknowledged holds it until it is
// too old to matter.
func (c *classic) Ack(ctx context.Context, msgs []broker.Message) error {
	if err := c.begin(); err != nil {
		return err
	}
	defer c.end()
	if len(msgs) == 0 {
		return nil
	}
	lapsed := false
	c.mu.Lock()
	for _, m := range msgs {
		t := m.Tag.(tag)
		t.acked = true
		lapsed = lapsed || c.parts[t.partition] != t.of
	}
	c.mu.Unlock()
	if c.cl == nil {
		return wrap(ctx, "acknowledge messages of "+c.topic, errLapsed)
	}
	err := c.commit(ctx, c.cl)
	if err == nil && lapsed {
		err = errLapsed
	}
	return wrap(ctx, "acknowledge messages of "+c.topic, err)
}

// commit stores how far each partition is done, if the group does not know it yet.
func (c *classic) commit(ctx context.Context, cl *kgo.Client) error {
	now := time.Now()
	store := map[int32]kgo.EpochOffset{}
	c.mu.Lock()
	for partition, p := range c.parts {
		if p.advance(now, c.b.opts.TTL) {
			store[partition] = p.done
		}
	}
	c.mu.Unlock()
	if len(store) == 0 {
		return nil
	}
	var failed error
	cl.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{c.topic: store},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			failed = commitErr(resp, err)
		})
	if failed != nil {
		return failed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for partition, at := range store {
		if p := c.parts[partition]; p != nil {
			p.stored = max(p.stored, at.Offset)
		}
	}
	return nil
}

func commitErr(resp *kmsg.OffsetCommitResponse, err error) error {
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

// Rest implements broker.Subscription. Partitions cannot be handed over at once without
// stopping all consumers for a moment, so a short rest changes nothing; in a long
// one, the others get them.
func (c *classic) Rest(ctx context.Context) error {
	if err := c.begin(); err != nil {
		return err
	}
	defer c.end()
	if c.cl == nil || c.resting != nil {
		return nil
	}
	c.resting = time.AfterFunc(longRest, c.yield)
	return wrap(ctx, "acknowledge messages of "+c.topic, c.commit(ctx, c.cl))
}

func (c *classic) wake() {
	if c.resting != nil {
		c.resting.Stop()
		c.resting = nil
	}
}

// yield leaves the group if the rest still lasts. While messages may still be
// acknowledged, it waits.
func (c *classic) yield() {
	if c.begin() != nil {
		return
	}
	defer c.end()
	switch {
	case c.resting == nil:
	case c.unsettled():
		c.resting.Reset(longRest)
	default:
		c.leave()
	}
}

func (c *classic) unsettled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.parts {
		p.advance(time.Now(), c.b.opts.TTL)
		if len(p.marks) > 0 {
			return true
		}
	}
	return false
}

// leave leaves the group, if we are in it, so that others get our partitions at once.
func (c *classic) leave() {
	if c.cl == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	_ = c.cl.LeaveGroupContext(ctx) // one that is not heard is missed after groupTimeout
	c.cl.Close()
	c.cl = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.parts)
}

// Close implements broker.Subscription.
func (c *classic) Close() error { return c.b.drop(c) }

func (c *classic) shut() error {
	c.shutOnce.Do(func() {
		c.close()
		c.turn <- struct{}{}
		defer c.end()
		c.wake()
		c.leave()
	})
	return nil
}
