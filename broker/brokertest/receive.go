package brokertest

import (
	"context"
	"sync"
	"time"

	"github.com/errandhq/errand/broker"
)

var receiveTests = []test{
	{"AsSoonAsThereIsOne", nil, receiveSoon},
	{"NoneWhenWaitIsOver", nil, receiveWait},
	{"NoneWhenContextEnds", nil, receiveContext},
	{"AtMost", nil, receiveMost},
	{"NoMoreAheadThanMost", isFair, receiveAhead},
	{"MostMayChange", nil, receiveChange},
	{"EachGoesToOne", nil, receiveShared},
	{"SharedEvenly", nil, receiveEvenly},
	{"SubscribedBeforeTheTopic", nil, receiveBefore},
}

func receiveSoon(w *world) {
	s := w.subscribe(w.b)
	w.nothing("at first", s)
	want := bodies(1, 30)
	done := make(chan error, 1)
	go func() { done <- w.b.Publish(w.ctx, w.topic, want) }()
	start := time.Now()
	msgs := w.receive(s, 10, 2*patience)
	if len(msgs) != 1 || time.Since(start) > patience {
		w.Errorf("%d messages after %s", len(msgs), time.Since(start))
	}
	w.ok(<-done)
}

func receiveWait(w *world) {
	s := w.subscribe(w.b)
	for _, wait := range []time.Duration{0, 300 * time.Millisecond} {
		start := time.Now()
		msgs := w.receive(s, 10, wait)
		if took := time.Since(start); len(msgs) != 0 || took < wait || took > wait+patience {
			w.Errorf("wait %s: %d messages after %s", wait, len(msgs), took)
		}
	}
}

func receiveContext(w *world) {
	s := w.subscribe(w.b)
	w.receive(s, 10, 0)
	ctx, cancel := context.WithTimeout(w.ctx, 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if msgs, err := s.Receive(ctx, 10, 2*patience); err != nil || len(msgs) != 0 || time.Since(start) > patience {
		w.Errorf("%d messages, %v, after %s", len(msgs), err, time.Since(start))
	}
	want := bodies(1, 10)
	w.publish(want...)
	w.drain(s, want) // the subscription was not harmed
}

func receiveMost(w *world) {
	want := bodies(10, 30)
	w.publish(want...)
	s := w.subscribe(w.b)
	var got [][]byte
	for _, most := range []int{1, 3, 3, 2, 10} {
		got = append(got, bodiesOf(w.receive(s, most, 10*time.Second))...)
	}
	w.drain(s, without(want, got))
}

// receiveAhead gives one subscription little to do: another gets what it did not ask for.
func receiveAhead(w *world) {
	want := bodies(30, 30)
	w.publish(want...)
	lazy, busy := w.subscribe(w.b), w.subscribe(w.second())
	w.take(lazy, 2)
	w.receive(lazy, 1, 0)
	// lazy holds at most three, and at most one more was sent ahead.
	w.take(busy, len(want)-4)
}

// receiveChange acknowledges nothing until the end: what is held does not count
// against what may be asked for.
func receiveChange(w *world) {
	want := bodies(120, 30)
	w.publish(want...)
	s := w.subscribe(w.b)
	var held []broker.Message
	for i := 0; len(held) < len(want); i++ {
		msgs := w.receive(s, []int{1, 7, 2, 40, 3}[i%5], patience)
		if len(msgs) == 0 {
			w.Fatalf("nothing more came after %d messages", len(held))
		}
		held = append(held, msgs...)
	}
	if left := without(want, bodiesOf(held)); len(left) > 0 {
		w.Errorf("%d messages did not come", len(left))
	}
	w.ok(s.Ack(w.ctx, held))
	w.nothing("after all were acknowledged", s)
}

func receiveShared(w *world) {
	subs := []broker.Subscription{w.subscribe(w.b), w.subscribe(w.b), w.subscribe(w.second())}
	want := bodies(300, 30)
	got := newTally(want)
	var group sync.WaitGroup
	for _, s := range subs {
		group.Go(func() { w.consume(s, 7, got, 0) })
	}
	w.publish(want...)
	group.Wait()
	got.check(w)
	if n := got.extra(); n > 0 && w.suite.features.Fair {
		w.Errorf("%d messages came twice", n)
	}
}

// receiveEvenly publishes until all subscriptions, of which some may take a while
// to join, have got something; then each has a good part of what follows.
func receiveEvenly(w *world) {
	subs := []broker.Subscription{w.subscribe(w.b), w.subscribe(w.second())}
	w.eventually("both get messages", func() bool {
		w.publish(bodies(8, 30)...)
		a, b := w.takeSome(subs[0], 2), w.takeSome(subs[1], 2)
		return len(a) > 0 && len(b) > 0
	})
	for _, s := range subs {
		for len(w.takeSome(s, 100)) > 0 {
			continue
		}
	}
	want := bodies(200, 30)
	got := newTally(want)
	share := make([]int, len(subs))
	var group sync.WaitGroup
	for i, s := range subs {
		group.Go(func() { share[i] = w.consume(s, 4, got, 2*time.Millisecond) })
	}
	w.publish(want...)
	group.Wait()
	if !w.suite.features.Fair {
		got.strange = nil // while parts of the topic change hands, earlier ones may come again
	}
	got.check(w)
	if min(share[0], share[1]) < len(want)/8 {
		w.Errorf("the shares of %d messages are %d", len(want), share)
	}
}

func receiveBefore(w *world) {
	s := w.subscribe(w.second())
	w.nothing("at first", s)
	want := bodies(3, 30)
	w.publish(want...)
	w.drain(s, want)
}

var ageTests = []test{
	{"OldOnesAreLeftOut", nil, ageOld},
	{"OldOnesSentAheadAreLeftOut", nil, ageAhead},
}

const shortLife = 2 * time.Second

func ageOld(w *world) {
	w.b = w.suite.features.Aged(w.TB, shortLife)
	w.publish(bodies(5, 30)...)
	pause(2 * shortLife)
	s := w.subscribe(w.b)
	w.nothing("only old ones are there", s)
	young := bodies(2, 30)
	w.publish(young...)
	w.drain(s, young)
	w.wantDepth("old ones are acknowledged", 0)
}

func ageAhead(w *world) {
	w.b = w.suite.features.Aged(w.TB, shortLife)
	s := w.subscribe(w.b)
	var got []broker.Message
	for deadline := time.Now().Add(patience); len(got) == 0; { // a new consumer may get ready when they are old
		if time.Now().After(deadline) {
			w.Fatal("no message came while all were young")
		}
		w.publish(bodies(12, 30)...)
		got = w.receive(s, 4, shortLife) // the carrier may send four more ahead
	}
	pause(2 * shortLife)
	w.nothing("all have got old", s)
	w.ok(s.Ack(w.ctx, got))
	w.wantDepth("old ones are acknowledged", 0)
}
