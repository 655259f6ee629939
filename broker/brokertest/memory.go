package brokertest

import (
	"context"
	"sync"
	"time"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

// Memory is a broker.Broker whose carrier is in memory, with switches for what
// carriers do to messages. It passes the suite. The zero value is not ready: NewMemory.
type Memory struct {
	c *carrier

	// of c.mu
	subs   map[*memorySub]bool
	closed bool
}

var _ broker.Broker = (*Memory)(nil)

// carrier is what the handles of one carrier share.
type carrier struct {
	ttl time.Duration

	mu      sync.Mutex
	topics  map[string]*memoryTopic
	changed chan struct{} // closed, and made anew, at every change somebody may wait for
	handles map[*Memory]bool
	down    bool
	stalled bool
	drop    int
	double  int
}

type memoryTopic struct {
	waiting []*memoryItem
	held    int
}

type memoryItem struct {
	body []byte
	at   time.Time
}

// NewMemory makes a carrier with one handle. Messages live as long as ttl.
func NewMemory(ttl time.Duration) *Memory {
	return (&carrier{ttl: ttl, topics: map[string]*memoryTopic{}, changed: make(chan struct{}), handles: map[*Memory]bool{}}).handle()
}

func (c *carrier) handle() *Memory {
	m := &Memory{c: c, subs: map[*memorySub]bool{}}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handles[m] = true
	return m
}

// Second returns another handle on the same carrier, as another process has.
func (m *Memory) Second() *Memory { return m.c.handle() }

// SetDown takes the carrier away from all handles, or brings it back. What was held is
// delivered again.
func (m *Memory) SetDown(down bool) {
	m.change(func(c *carrier) { c.down = down; c.cut() })
}

// Cut breaks the connections of all handles: what was held is delivered again, and
// cannot be acknowledged any more.
func (m *Memory) Cut() { m.change((*carrier).cut) }

// Stall holds all messages back, or lets them go.
func (m *Memory) Stall(stalled bool) { m.change(func(c *carrier) { c.stalled = stalled }) }

// Drop loses the next n messages, which are confirmed all the same.
func (m *Memory) Drop(n int) { m.change(func(c *carrier) { c.drop = n }) }

// Double stores each of the next n messages twice.
func (m *Memory) Double(n int) { m.change(func(c *carrier) { c.double = n }) }

// Purge takes everything that waits out of a topic.
func (m *Memory) Purge(topic string) {
	m.change(func(c *carrier) { c.topic(topic).waiting = nil })
}

// Topics returns the topics that are there.
func (m *Memory) Topics() []string {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	var out []string
	for name := range m.c.topics {
		out = append(out, name)
	}
	return out
}

func (m *Memory) change(f func(c *carrier)) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	f(m.c)
	m.c.tell()
}

func (c *carrier) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *carrier) cut() {
	for m := range c.handles {
		for s := range m.subs {
			s.giveBack()
		}
	}
}

func (c *carrier) topic(name string) *memoryTopic {
	t := c.topics[name]
	if t == nil {
		t = &memoryTopic{}
		c.topics[name] = t
	}
	return t
}

// begin locks the carrier for a call, unless there is a reason to refuse it.
func (m *Memory) begin(ctx context.Context, topic string) error {
	if err := broker.CheckTopic(topic); err != nil {
		return err
	}
	m.c.mu.Lock()
	if err := m.refusal(ctx); err != nil {
		m.c.mu.Unlock()
		return err
	}
	return nil
}

func (m *Memory) refusal(ctx context.Context) error {
	switch {
	case m.closed:
		return broker.ErrClosed
	case m.c.down:
		return job.Errorf(job.Unavailable, job.ReasonBrokerDown, "the broker was taken down by the test")
	case ctx.Err() != nil:
		return job.Errorf(job.Unavailable, job.ReasonBrokerDown, "the broker did not answer in time: %w", ctx.Err())
	}
	return nil
}

// Publish implements broker.Broker.
func (m *Memory) Publish(ctx context.Context, topic string, bodies [][]byte) error {
	if err := broker.CheckBodies(bodies); err != nil {
		return err
	}
	if err := m.begin(ctx, topic); err != nil {
		return err
	}
	defer m.c.mu.Unlock()
	t := m.c.topic(topic)
	for _, b := range bodies {
		copies := 1
		switch {
		case m.c.drop > 0:
			m.c.drop--
			copies = 0
		case m.c.double > 0:
			m.c.double--
			copies = 2
		}
		for range copies {
			t.waiting = append(t.waiting, &memoryItem{body: append([]byte{}, b...), at: time.Now()})
		}
	}
	m.c.tell()
	return nil
}

// Subscribe implements broker.Broker.
func (m *Memory) Subscribe(ctx context.Context, topic string) (broker.Subscription, error) {
	if err := m.begin(ctx, topic); err != nil {
		return nil, err
	}
	defer m.c.mu.Unlock()
	s := &memorySub{m: m, topic: m.c.topic(topic), held: map[*memoryItem]bool{}}
	m.subs[s] = true
	return s, nil
}

// Depth implements broker.Broker.
func (m *Memory) Depth(ctx context.Context, topic string) (int64, error) {
	if err := m.begin(ctx, topic); err != nil {
		return 0, err
	}
	defer m.c.mu.Unlock()
	t := m.c.topics[topic]
	if t == nil {
		return 0, nil
	}
	t.expire(m.c.ttl)
	return int64(len(t.waiting) + t.held), nil
}

// expire drops what is too old to be given to anybody.
func (t *memoryTopic) expire(ttl time.Duration) {
	young := t.waiting[:0]
	for _, it := range t.waiting {
		if time.Since(it.at) <= ttl {
			young = append(young, it)
		}
	}
	clear(t.waiting[len(young):])
	t.waiting = young
}

// Check implements broker.Broker.
func (m *Memory) Check(ctx context.Context) ([]broker.Finding, error) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if err := m.refusal(ctx); err != nil {
		return nil, err
	}
	return []broker.Finding{{Name: "carrier", OK: true, Detail: "in memory"}}, nil
}

// Close implements broker.Broker.
func (m *Memory) Close() error {
	m.change(func(c *carrier) {
		for s := range m.subs {
			s.end()
		}
		m.closed = true
		delete(c.handles, m)
	})
	return nil
}
