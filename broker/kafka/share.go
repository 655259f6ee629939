package kafka

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/errandhq/errand/broker"
)

// share consumes a topic through a share group.
//
// The client library has a consumer of share groups too, but it asks for a fixed number of
// messages, and accepts for us what we have not settled when we ask again. Here
// each fetch asks for as many as there are hands, and only Ack acknowledges; so we send the few
// requests of the protocol ourselves, over the library's connections.
//
// A client of its own gives the subscription connections of its own: brokers
// answer the requests of a connection one after the other, and a fetch may wait.
type share struct {
	b          *Broker
	topic      string
	cl         *kgo.Client
	adm        *kadm.Client
	member     *member
	decompress kgo.Decompressor

	closing  context.Context // ends when Close begins
	close    context.CancelFunc
	work     sync.WaitGroup // the member's heartbeats
	shutOnce sync.Once

	turn     chan struct{} // held by the one call under way; the fields below belong to it
	topicID  [16]byte
	leaders  map[int32]int32 // by partition; nil: to be asked for
	sessions map[int32]*session
	flying   int // fetches under way
	answers  chan fetched
	held     []acquired // sent by a broker, not returned yet
	failures int        // to find the leaders, in a row
	retryAt  time.Time
	trouble  error // of the last request, nil if that went well
}

func (b *Broker) subscribeShare(ctx context.Context, topic string) (*share, error) {
	if err := b.prepareGroup(ctx, topic, false); err != nil {
		return nil, wrap(ctx, "set up share group "+topic, err)
	}
	cl, err := b.client()
	if err != nil {
		return nil, err
	}
	c := &share{
		b: b, topic: topic, cl: cl, adm: kadm.NewClient(cl), member: newMember(cl, topic, topic),
		decompress: kgo.DefaultDecompressor(), turn: make(chan struct{}, 1),
		sessions: map[int32]*session{}, answers: make(chan fetched),
	}
	c.closing, c.close = context.WithCancel(context.Background())
	c.work.Go(func() { c.member.run(c.closing) })
	return c, nil
}

// begin takes the turn. Close ends the wait of whoever has it.
func (c *share) begin() error {
	c.turn <- struct{}{}
	if c.closing.Err() != nil {
		c.end()
		return broker.ErrClosed
	}
	return nil
}

func (c *share) end() { <-c.turn }

// Receive implements broker.Subscription. With one partition, as topics have by
// default, exactly most messages are asked for; with leaders on several brokers, one of each
// at least.
func (c *share) Receive(ctx context.Context, most int, wait time.Duration) ([]broker.Message, error) {
	if err := broker.CheckMost(most); err != nil {
		return nil, err
	}
	if err := c.begin(); err != nil {
		return nil, err
	}
	defer c.end()
	deadline := time.Now().Add(wait)
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		msgs, err := c.hand(ctx, most)
		if len(msgs) > 0 || err != nil {
			return msgs, err
		}
		again := time.NewTimer(c.ask(ctx, most, time.Until(deadline)))
		select {
		case f := <-c.answers:
			c.absorb(f)
		case <-c.member.changed:
		case <-again.C:
		case <-over.C:
			err = c.complaint(ctx)
			again.Stop()
			return nil, err
		case <-ctx.Done():
			again.Stop()
			return nil, nil
		case <-c.closing.Done():
			again.Stop()
			return nil, broker.ErrClosed
		}
		again.Stop()
	}
}

// complaint is what Receive has to say when nothing came: that no broker could be asked, if so.
func (c *share) complaint(ctx context.Context) error {
	_, err := c.member.state()
	if err == nil {
		err = c.trouble
	}
	return wrap(ctx, "receive from "+c.topic, err)
}

// hand returns what is held, most at once, and settles what has got too old and
// what was never there.
func (c *share) hand(ctx context.Context, most int) ([]broker.Message, error) {
	now := time.Now()
	var out []broker.Message
	var spent []settle
	i := 0
	for ; i < len(c.held) && len(out) < most; i++ {
		a := c.held[i]
		switch {
		case a.life != a.from.life: // the broker has taken it back
		case a.record == nil:
			spent = append(spent, settle{a.delivery, ackGap})
		case c.b.stale(a.record.Timestamp, now):
			spent = append(spent, settle{a.delivery, ackAccept})
		default:
			out = append(out, broker.Message{Body: a.record.Value, Tag: a.delivery})
		}
	}
	c.held = c.held[i:]
	if err := c.settle(ctx, spent); err != nil {
		c.trouble = err // they come again
	}
	return out, nil
}

// ask starts a fetch from each leader that has none under way, and returns how long
// Receive may wait before it asks again.
func (c *share) ask(ctx context.Context, most int, wait time.Duration) time.Duration {
	const long = time.Hour // until something happens
	a, _ := c.member.state()
	if len(a.partitions) == 0 {
		return long
	}
	now := time.Now()
	if c.leaders == nil || c.topicID != a.topicID {
		if now.Before(c.retryAt) {
			return c.retryAt.Sub(now)
		}
		if err := c.findLeaders(ctx, a, now); err != nil {
			return time.Until(c.retryAt)
		}
	}
	parts := c.byLeader(a)
	idle, next := c.idle(parts, now, long)
	budget := most
	for _, s := range c.sessions {
		budget -= s.asked
	}
	for i, s := range idle {
		n := max(budget/(len(idle)-i), 1)
		budget -= n
		c.fetch(s, a, parts[s.node], n, min(max(wait, 0), fetchWait))
	}
	return next
}

// byLeader sorts the partitions that we may fetch by the node that leads them.
func (c *share) byLeader(a assignment) map[int32][]int32 {
	parts := map[int32][]int32{}
	for _, p := range a.partitions {
		if node, ok := c.leaders[p]; ok {
			parts[node] = append(parts[node], p)
		} else {
			c.leaders = nil // the topic has grown: ask anew, next time
			return parts
		}
	}
	return parts
}

// idle returns the sessions that can be asked now, and how long it is until another can.
func (c *share) idle(parts map[int32][]int32, now time.Time, next time.Duration) ([]*session, time.Duration) {
	var out []*session
	for node := range parts {
		s := c.sessions[node]
		if s == nil {
			s = &session{node: node, known: map[int32]bool{}}
			c.sessions[node] = s
		}
		switch {
		case s.asked > 0:
		case now.Before(s.retryAt):
			next = min(next, s.retryAt.Sub(now))
		default:
			out = append(out, s)
		}
	}
	return out, next
}

// findLeaders asks which brokers lead the partitions.
func (c *share) findLeaders(ctx context.Context, a assignment, now time.Time) error {
	meta, err := c.adm.Metadata(ctx, c.topic)
	if err == nil {
		err = meta.Topics[c.topic].Err
	}
	if err != nil {
		c.failures++
		c.retryAt, c.trouble = now.Add(pauseAfter(c.failures)), err
		return err
	}
	c.failures, c.topicID = 0, a.topicID
	c.leaders = map[int32]int32{}
	for _, p := range meta.Topics[c.topic].Partitions {
		c.leaders[p.Partition] = p.Leader
	}
	return nil
}

// fetch asks one broker. The answer is awaited aside, for a request that is cut short costs its
// connection, and with it all that the broker holds for us.
func (c *share) fetch(s *session, a assignment, partitions []int32, most int, wait time.Duration) {
	req := c.fetchRequest(s, a, partitions, most, wait)
	s.asked = most
	c.flying++
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), fetchWait+answerTimeout)
		defer cancel()
		resp, err := req.RequestWith(ctx, c.cl.Broker(int(s.node)))
		c.answers <- fetched{s, resp, err}
	}()
}

// absorb takes in the answer to a fetch.
func (c *share) absorb(f fetched) {
	s := f.from
	c.flying--
	s.asked = 0
	err := f.err
	if err == nil {
		err = kerr.ErrorForCode(f.resp.ErrorCode)
	}
	if err != nil {
		s.reset()
		c.failed(s, err)
		return
	}
	s.advance()
	c.trouble = nil
	for _, t := range f.resp.Topics {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			err := kerr.ErrorForCode(p.ErrorCode)
			if err == nil {
				var got []acquired
				got, err = c.readPartition(s, p)
				c.held = append(c.held, got...)
			}
			if err != nil {
				c.failed(s, err)
			}
		}
	}
	if c.trouble == nil {
		s.failures = 0
	}
}

// failed has the session rest, and the leaders asked for: most failures are moves.
func (c *share) failed(s *session, err error) {
	c.leaders, c.trouble = nil, err
	if errors.Is(err, kerr.ShareSessionNotFound) || errors.Is(err, kerr.InvalidShareSessionEpoch) {
		return // open a new one at once
	}
	s.fail(time.Now())
}

// Ack implements broker.Subscription.
func (c *share) Ack(ctx context.Context, msgs []broker.Message) error {
	if err := c.begin(); err != nil {
		return err
	}
	defer c.end()
	list := make([]settle, len(msgs))
	for i, m := range msgs {
		list[i] = settle{m.Tag.(delivery), ackAccept}
	}
	return wrap(ctx, "acknowledge messages of "+c.topic, c.settle(ctx, list))
}

var errLapsed = errors.New("the broker has taken them back, for the connection had ended")

// settle tells the brokers what became of messages, and returns the first error.
func (c *share) settle(ctx context.Context, list []settle) error {
	var failed error
	mine := map[*session][]settle{}
	for _, d := range list {
		mine[d.from] = append(mine[d.from], d)
	}
	for s, list := range mine {
		err := c.rest(ctx, s)
		if err == nil {
			live := list[:0]
			for _, d := range list {
				if d.life == s.life {
					live = append(live, d)
				}
			}
			if len(live) < len(list) {
				failed = errLapsed
			}
			if len(live) > 0 {
				err = c.acknowledge(ctx, s, live)
			}
		}
		if err != nil {
			failed = err
		}
	}
	return failed
}

// rest waits until no fetch of the session, or of any if s is nil, is under way.
func (c *share) rest(ctx context.Context, s *session) error {
	for c.flying > 0 && (s == nil || s.asked > 0) {
		select {
		case f := <-c.answers:
			c.absorb(f)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Rest implements broker.Subscription. It may have to wait for a fetch under way.
func (c *share) Rest(ctx context.Context) error {
	if err := c.begin(); err != nil {
		return err
	}
	defer c.end()
	if err := c.rest(ctx, nil); err != nil {
		return wrap(ctx, "give messages of "+c.topic+" back", err)
	}
	back := make([]settle, len(c.held))
	for i, a := range c.held {
		back[i] = settle{a.delivery, ackRelease}
		if a.record == nil {
			back[i].as = ackGap
		}
	}
	c.held = nil
	// What cannot be given back lapses with the session, or when the lock runs out.
	if err := c.settle(ctx, back); err != nil && !errors.Is(err, errLapsed) {
		return wrap(ctx, "give messages of "+c.topic+" back", err)
	}
	return nil
}

// Close implements broker.Subscription.
func (c *share) Close() error { return c.b.drop(c) }

// shut leaves the group: its sessions end, and what they hold goes to others.
func (c *share) shut() error {
	c.shutOnce.Do(func() {
		c.close()
		c.work.Wait()
		c.turn <- struct{}{}
		defer c.end()
		ctx, cancel := context.WithTimeout(context.Background(), closePatience)
		defer cancel()
		_ = c.rest(ctx, nil) // of a broker that does not answer we need no leave
		if ctx.Err() == nil {
			c.farewell(ctx)
		}
		c.cl.Close()
		for ; c.flying > 0; c.flying-- {
			<-c.answers
		}
	})
	return nil
}

// farewell tells the brokers that we go. One that does not hear it finds out when
// the connection ends.
func (c *share) farewell(ctx context.Context) {
	for _, s := range c.sessions {
		if s.epoch == 0 {
			continue
		}
		req := kmsg.NewPtrShareAcknowledgeRequest()
		req.GroupID, req.MemberID, req.ShareSessionEpoch = &c.member.group, &c.member.id, -1
		_, _ = c.cl.Broker(int(s.node)).Request(ctx, req)
	}
	_ = c.member.leave(ctx)
}
