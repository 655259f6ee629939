package brokertest

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

var stressTests = []test{
	{"NothingIsLost", nil, func(w *world) { stress(w, 40, func(context.Context) {}) }},
}

// tally counts what has come of what was published.
type tally struct {
	mu      sync.Mutex
	times   map[string]int
	strange [][]byte
	left    int
	all     chan struct{} // closed when nothing is left
}

func newTally(want [][]byte) *tally {
	t := &tally{times: map[string]int{}, left: len(want), all: make(chan struct{})}
	for _, b := range want {
		t.times[string(b)] = 0
	}
	return t
}

func (t *tally) add(msgs []broker.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range msgs {
		n, known := t.times[string(m.Body)]
		if !known {
			t.strange = append(t.strange, m.Body)
			continue
		}
		t.times[string(m.Body)] = n + 1
		if n > 0 {
			continue
		}
		if t.left--; t.left == 0 {
			close(t.all)
		}
	}
}

// extra counts the deliveries beyond the first of each message.
func (t *tally) extra() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, times := range t.times {
		n += max(0, times-1)
	}
	return n
}

func (t *tally) check(w *world) {
	w.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left > 0 {
		w.Errorf("%d of %d messages never came", t.left, len(t.times))
	}
	for _, b := range t.strange {
		w.Errorf("a message came that nobody sent (intact: %t): %s", intact(b), show(b))
	}
}

// consume receives and acknowledges until all has come to whomever, and
// counts its own. Each message takes some time. Errors of a carrier that is away are borne.
func (w *world) consume(s broker.Subscription, most int, got *tally, each time.Duration) (mine int) {
	for deadline := time.Now().Add(2 * patience); time.Now().Before(deadline); {
		select {
		case <-got.all:
			return mine
		default:
		}
		msgs, err := s.Receive(w.ctx, most, 200*time.Millisecond)
		if err == nil {
			mine += len(msgs)
			got.add(msgs)
			pause(time.Duration(len(msgs)) * each)
			err = s.Ack(w.ctx, msgs)
		}
		if err != nil && !w.bear(err) {
			return mine
		}
	}
	return mine
}

// bear reports whether an error is that of a carrier that is away, after a
// moment; it fails the test for any other.
func (w *world) bear(err error) bool {
	w.Helper()
	w.keepsSecret(err)
	if job.CodeOf(err) != job.Unavailable {
		w.Errorf("the error of a carrier in trouble has code %d: %v", job.CodeOf(err), err)
		return false
	}
	pause(50 * time.Millisecond)
	return true
}

// persist publishes until it is confirmed.
func (w *world) persist(b broker.Broker, bodies [][]byte) {
	w.Helper()
	for deadline := time.Now().Add(2 * patience); ; {
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
		err := b.Publish(ctx, w.topic, bodies)
		cancel()
		if err == nil {
			return
		}
		if !w.bear(err) {
			return
		}
		if time.Now().After(deadline) {
			w.Errorf("nothing could be published any more: %v", err)
			return
		}
	}
}

// stress lets several publish and consume over two handles, while consumers come and go and
// disturb runs; its context ends when the publishers are done.
func stress(w *world, batches int, disturb func(ctx context.Context)) {
	const publishers, size = 3, 10
	batchesOf := make([][][][]byte, publishers)
	var want [][]byte
	for p := range batchesOf {
		for range batches {
			batch := bodies(1+rand.IntN(size), rand.IntN(4000))
			batchesOf[p] = append(batchesOf[p], batch)
			want = append(want, batch...)
		}
	}
	got := newTally(want)
	handles := []broker.Broker{w.b, w.second()}
	ctx, cancel := context.WithCancel(w.ctx)
	var publishing, group sync.WaitGroup
	for p := range batchesOf {
		publishing.Go(func() {
			for _, batch := range batchesOf[p] {
				w.persist(handles[p%2], batch)
				pause(time.Duration(rand.IntN(20)) * time.Millisecond)
			}
		})
	}
	for i := range 3 {
		group.Go(func() { w.consumeInTurns(handles[i%2], got) })
	}
	group.Go(func() { disturb(ctx) })
	publishing.Wait()
	cancel()
	group.Wait()
	got.check(w)
}

// consumeInTurns subscribes anew now and then, with messages in hand, and gives up what it
// holds in other ways too.
func (w *world) consumeInTurns(b broker.Broker, got *tally) {
	for deadline := time.Now().Add(4 * patience); time.Now().Before(deadline); {
		s, err := b.Subscribe(w.ctx, w.topic)
		if err != nil {
			if !w.bear(err) {
				return
			}
			continue
		}
		done := w.oneTurn(s, got)
		w.keepsSecret(s.Close())
		if done {
			return
		}
	}
}

func (w *world) oneTurn(s broker.Subscription, got *tally) (done bool) {
	turn := 20
	if !w.suite.features.Fair {
		turn = 200 // each coming and going has the parts of the topic dealt anew to all
	}
	left, idle := false, 0
	for range turn + rand.IntN(turn) {
		if left && idle == 10 {
			return false // others may wait for what we left
		}
		select {
		case <-got.all:
			return true
		default:
		}
		msgs, err := s.Receive(w.ctx, 1+rand.IntN(20), 200*time.Millisecond)
		if idle++; len(msgs) > 0 {
			idle = 0
		}
		switch {
		case err != nil:
		case rand.IntN(10) == 0:
			err = s.Rest(w.ctx) // msgs stay unacknowledged, and come again after Close
			left = left || len(msgs) > 0
		default:
			got.add(msgs) // which may come again if the next line fails, or may not
			err = s.Ack(w.ctx, msgs)
		}
		if err != nil && !w.bear(err) {
			return true
		}
	}
	return false
}
