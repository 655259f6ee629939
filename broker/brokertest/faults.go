package brokertest

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

var reconnectTests = []test{
	{"SameHandlesGoOn", hasCut, func(w *world) { sameHandles(w, w.suite.faults.Cut) }},
	{"HeldComesAgain", hasCut, func(w *world) { heldAgain(w, w.suite.faults.Cut) }},
	{"RestBearsIt", hasCut, reconnectRest},
	{"WhileReceiveWaits", hasCut, reconnectWaiting},
	{"StressUnderCuts", hasCut, reconnectStress},
}

var restartTests = []test{
	{"SameHandlesGoOn", hasRestart, func(w *world) { sameHandles(w, w.suite.faults.Restart) }},
	{"HeldComesAgain", hasRestart, func(w *world) { heldAgain(w, w.suite.faults.Restart) }},
	{"ConfirmedOutlivesIt", hasRestart, restartDurable},
}

// sameHandles publishes and receives by the broker and the subscription that were
// there before the fault.
func sameHandles(w *world, fault func(testing.TB, broker.Broker)) {
	s := w.subscribe(w.b)
	before := bodies(3, 30)
	w.publish(before...)
	w.drain(s, before)
	fault(w.TB, w.b)
	after := bodies(3, 30)
	w.persist(w.b, after)
	got := newTally(append(after, before...)) // what was acknowledged may come again, as at any fault
	got.add(messages(before))
	w.consume(s, 10, got, 0)
	got.check(w)
}

// heldAgain acknowledges what was received before the fault: whether or not that
// is an error, the rest comes again.
func heldAgain(w *world, fault func(testing.TB, broker.Broker)) {
	all := bodies(8, 30)
	w.publish(all...)
	s := w.subscribe(w.b)
	held := w.take(s, len(all))
	fault(w.TB, w.b)
	if err := s.Ack(w.ctx, held[:1]); err != nil {
		w.bear(err)
	}
	if !w.suite.features.Durable {
		return
	}
	if w.suite.features.Lasting {
		w.ok(s.Close())
		s = w.resubscribe()
	}
	got := newTally(all)
	got.add(held[:1])
	w.consume(s, 10, got, 0)
	got.check(w)
}

func reconnectRest(w *world) {
	all := bodies(8, 30)
	w.publish(all...)
	s := w.subscribe(w.b)
	got := newTally(all)
	if held := w.receive(s, 2, patience); w.suite.features.Lasting {
		got.add(held)
	}
	w.suite.faults.Cut(w.TB, w.b)
	if err := s.Rest(w.ctx); err != nil {
		w.bear(err)
	}
	w.consume(s, 3, got, 0)
	got.check(w)
}

func reconnectWaiting(w *world) {
	s := w.subscribe(w.b)
	w.receive(s, 5, 0)
	want := bodies(5, 30)
	got := newTally(want)
	ended := make(chan struct{})
	go func() { defer close(ended); w.consume(s, 5, got, 0) }()
	pause(100 * time.Millisecond)
	w.suite.faults.Cut(w.TB, w.b)
	w.persist(w.b, want)
	<-ended
	got.check(w)
}

func reconnectStress(w *world) {
	stress(w, 200, func(ctx context.Context) {
		for range 5 { // more would be an outage, in which messages get old, or are given up after so many deliveries
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Duration(200+rand.IntN(600)) * time.Millisecond):
				w.suite.faults.Cut(w.TB, w.b)
			}
		}
	})
}

func restartDurable(w *world) {
	want := bodies(20, 30)
	w.publish(want...)
	w.suite.faults.Restart(w.TB, w.b)
	if !w.suite.features.Durable {
		return
	}
	got := newTally(want)
	s := w.resubscribe()
	w.consume(s, 10, got, 0)
	got.check(w)
}

// resubscribe subscribes as soon as the carrier takes it.
func (w *world) resubscribe() (s broker.Subscription) {
	w.Helper()
	w.eventually("a subscription", func() bool {
		var err error
		if s, err = w.b.Subscribe(w.ctx, w.topic); err != nil {
			w.bear(err)
		}
		return err == nil
	})
	w.Cleanup(func() { _ = s.Close() })
	return s
}

var awayTests = []test{
	{"CallsSaySo", hasAway, func(w *world) { callsSaySo(w, w.suite.faults.Away) }},
	{"FrozenCallsSaySo", hasFreeze, func(w *world) { callsSaySo(w, w.suite.faults.Freeze) }},
	{"CloseDoesNotHang", hasAway, func(w *world) { closeAway(w, w.suite.faults.Away) }},
	{"FrozenCloseDoesNotHang", hasFreeze, func(w *world) { closeAway(w, w.suite.faults.Freeze) }},
}

// callsSaySo makes every call while the carrier is away, and again when it is back.
func callsSaySo(w *world, away func(testing.TB, broker.Broker) func()) {
	s := w.subscribe(w.b)
	before := bodies(1, 30)
	w.publish(before...)
	w.drain(s, before)
	back := away(w.TB, w.b)
	w.fails("Publish", func(ctx context.Context) error { return w.b.Publish(ctx, w.topic, bodies(2, 30)) })
	w.fails("Subscribe", func(ctx context.Context) error {
		late, err := w.b.Subscribe(ctx, w.topic)
		if err == nil {
			w.keepsSecret(late.Close())
		}
		return err
	})
	w.fails("Depth", func(ctx context.Context) error { _, err := w.b.Depth(ctx, w.topic); return err })
	w.fails("Check", func(ctx context.Context) error { _, err := w.b.Check(ctx); return err })
	w.inTime("Receive", func(ctx context.Context) error {
		msgs, err := s.Receive(ctx, 10, time.Second)
		if len(msgs) > 0 {
			w.Errorf("%d messages came from a carrier that is away", len(msgs))
		}
		return err
	})
	back()
	after := bodies(4, 30)
	w.persist(w.b, after)
	w.comes(s, after)
}

// comes waits for all of want, among whatever else comes.
func (w *world) comes(s broker.Subscription, want [][]byte) {
	w.Helper()
	got := newTally(want)
	w.consume(s, 10, got, 0)
	got.strange = nil // of calls that failed, any message may have been sent
	got.check(w)
}

// inTime makes a call with a context of its own and checks that it ends with it, and
// that its error, if any, is that of a carrier that is away.
func (w *world) inTime(what string, call func(ctx context.Context) error) error {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 3*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- call(ctx) }()
	select {
	case err := <-ended:
		if err != nil {
			w.wantCode(what, err, job.Unavailable)
		}
		return err
	case <-time.After(patience):
		w.Fatalf("%s went on long after its context had ended", what)
	}
	return nil
}

func (w *world) fails(what string, call func(ctx context.Context) error) {
	w.Helper()
	if w.inTime(what, call) == nil {
		w.Errorf("%s succeeded though the carrier is away", what)
	}
}

func closeAway(w *world, away func(testing.TB, broker.Broker) func()) {
	b := w.second()
	w.publish(bodies(3, 30)...)
	s := w.subscribe(b)
	w.take(s, 1)
	back := away(w.TB, b)
	defer back()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.keepsSecret(s.Close())
		w.keepsSecret(b.Close())
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		w.Error("Close hangs")
	}
}

func messages(bodies [][]byte) []broker.Message {
	out := make([]broker.Message, len(bodies))
	for i, b := range bodies {
		out[i] = broker.Message{Body: b}
	}
	return out
}
