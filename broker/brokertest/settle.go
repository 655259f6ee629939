package brokertest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/errandhq/errand/broker"
)

var ackTests = []test{
	{"AcknowledgedDoNotComeAgain", nil, ackOnce},
	{"InAnyOrder", nil, ackOrder},
	{"Nothing", nil, func(w *world) { w.ok(w.subscribe(w.b).Ack(w.ctx, nil)) }},
}

func ackOnce(w *world) {
	all := bodies(10, 30)
	w.publish(all...)
	s := w.subscribe(w.b)
	msgs := w.take(s, len(all))
	w.ok(s.Ack(w.ctx, msgs[:6]))
	w.ok(s.Close())
	w.drain(w.subscribe(w.b), without(all, bodiesOf(msgs[:6])))
	w.wantDepth("all were acknowledged", 0)
}

func ackOrder(w *world) {
	all := bodies(40, 30)
	w.publish(all...)
	s := w.subscribe(w.b)
	msgs := w.take(s, len(all))
	kept := []broker.Message{msgs[0], msgs[7], msgs[39]}
	var done []broker.Message
	for i, m := range msgs {
		if i != 0 && i != 7 && i != 39 {
			done = append(done, m)
		}
	}
	slices.Reverse(done)
	w.ok(s.Ack(w.ctx, done[:1]))
	w.ok(s.Ack(w.ctx, done[20:]))
	w.ok(s.Ack(w.ctx, done[1:20]))
	w.ok(s.Close())
	w.drain(w.subscribe(w.b), bodiesOf(kept))
}

var restTests = []test{
	{"OthersGetWhatWasSentAhead", isFair, restGives},
	{"ReturnedMayBeAcknowledged", nil, restAck},
	{"ReceiveGoesOn", nil, restGoesOn},
	{"NothingIsSentAhead", isFair, restAhead},
	{"BeforeTheFirstReceive", nil, func(w *world) { w.ok(w.subscribe(w.b).Rest(w.ctx)) }},
}

func restGives(w *world) {
	all := bodies(20, 30)
	w.publish(all...)
	s, other := w.subscribe(w.b), w.subscribe(w.second())
	got := w.receive(s, 1, patience)
	got = append(got, w.receive(s, 15, patience)...)
	w.ok(s.Rest(w.ctx))
	w.drain(other, without(all, bodiesOf(got)))
	w.ok(s.Ack(w.ctx, got))
	w.wantDepth("all were acknowledged", 0)
}

func restAck(w *world) {
	all := bodies(6, 30)
	w.publish(all...)
	s := w.subscribe(w.b)
	msgs := w.take(s, len(all))
	w.ok(s.Rest(w.ctx))
	w.ok(s.Ack(w.ctx, msgs))
	w.ok(s.Close())
	again := w.subscribe(w.b)
	w.nothing("all were acknowledged", again)
	w.wantDepth("all were acknowledged", 0)
}

func restGoesOn(w *world) {
	s := w.subscribe(w.b)
	for range 3 {
		w.receive(s, 3, 0)
		w.ok(s.Rest(w.ctx))
		w.ok(s.Rest(w.ctx))
		all := bodies(4, 30)
		w.publish(all...)
		w.drain(s, all)
	}
}

func restAhead(w *world) {
	s, other := w.subscribe(w.b), w.subscribe(w.second())
	w.receive(s, 50, 0)
	w.ok(s.Rest(w.ctx))
	all := bodies(20, 30)
	w.publish(all...)
	w.drain(other, all)
}

var closeTests = []test{
	{"SubscriptionRedelivers", nil, closeSubscription},
	{"BrokerRedelivers", nil, closeBroker},
	{"EndsReceive", nil, closeEnds},
	{"CallsAfterClose", nil, closeCalls},
	{"OthersGoOn", nil, closeOthers},
}

func closeSubscription(w *world) {
	all := bodies(9, 30)
	w.publish(all...)
	s := w.subscribe(w.b)
	w.take(s, 5)
	w.ok(s.Close())
	w.ok(s.Close())
	w.drain(w.subscribe(w.b), all)
}

func closeBroker(w *world) {
	all := bodies(9, 30)
	w.publish(all...)
	b := w.second()
	w.take(w.subscribe(b), 5)
	w.ok(b.Close())
	w.ok(b.Close())
	w.drain(w.subscribe(w.b), all)
}

func closeEnds(w *world) {
	s := w.subscribe(w.b)
	w.receive(s, 1, 0)
	ended := make(chan error, 1)
	go func() {
		_, err := s.Receive(w.ctx, 10, 4*time.Minute)
		ended <- err
	}()
	pause(100 * time.Millisecond) // most likely it waits by now; if not, the test is as good
	w.ok(s.Close())
	select {
	case err := <-ended:
		if err != nil && !errors.Is(err, broker.ErrClosed) {
			w.Errorf("Receive ended with %v", err)
		}
	case <-time.After(patience):
		w.Error("Receive went on after Close")
	}
}

func closeCalls(w *world) {
	closed := func(what string, err error) {
		w.Helper()
		if !errors.Is(err, broker.ErrClosed) {
			w.Errorf("%s: %v, want ErrClosed", what, err)
		}
	}
	w.publish(bodies(1, 30)...)
	one, two := w.subscribe(w.b), w.subscribe(w.b)
	msgs := w.take(one, 1)
	w.ok(one.Close())
	calls := func(s broker.Subscription) {
		_, err := s.Receive(w.ctx, 1, 0)
		closed("Receive", err)
		closed("Ack", s.Ack(w.ctx, msgs))
		closed("Rest", s.Rest(w.ctx))
	}
	calls(one)
	w.ok(w.b.Close())
	calls(one)
	calls(two)
	closed("Publish", w.b.Publish(w.ctx, w.topic, bodies(1, 1)))
	_, err := w.b.Subscribe(w.ctx, w.topic)
	closed("Subscribe", err)
	_, err = w.b.Depth(w.ctx, w.topic)
	closed("Depth", err)
	_, err = w.b.Check(w.ctx)
	closed("Check", err)
	w.ok(one.Close())
	w.ok(w.b.Close())
}

func closeOthers(w *world) {
	one, two := w.subscribe(w.b), w.subscribe(w.b)
	w.receive(one, 5, 0)
	w.ok(one.Close())
	all := bodies(5, 30)
	w.publish(all...)
	w.drain(two, all)
}

var depthTests = []test{
	{"CountsWhatIsNotAcknowledged", nil, depthCounts},
	{"NoTopic", nil, func(w *world) { w.wantDepth("there is none", 0) }},
}

func depthCounts(w *world) {
	w.publish(bodies(12, 30)...)
	w.wantDepth("all wait", 12)
	s := w.subscribe(w.b)
	msgs := w.take(s, 12)
	w.wantDepth("none is acknowledged", 12)
	w.ok(s.Ack(w.ctx, msgs))
	w.wantDepth("all are acknowledged", 0)
}

var checkTests = []test{
	{"SaysWhatItSaw", nil, checkSays},
	{"EndedContext", nil, checkEnded},
}

func checkSays(w *world) {
	found, err := w.b.Check(w.ctx)
	w.ok(err)
	if len(found) == 0 {
		w.Error("nothing was looked at")
	}
	for _, f := range found {
		w.Logf("%v %s: %s", f.OK, f.Name, f.Detail)
		if f.Name == "" || f.Detail == "" {
			w.Errorf("a finding says nothing: %+v", f)
		}
		w.keepsSecret(errors.New(f.Name + f.Detail))
	}
}

func checkEnded(w *world) {
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	if _, err := w.b.Check(ctx); err == nil {
		w.Error("a check whose context had ended found something")
	}
}
