package brokertest

import (
	"bytes"
	"context"
	"strings"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

var publishTests = []test{
	{"MakesTheTopic", nil, publishMakes},
	{"InOrder", isOrdered, publishOrder},
	{"AnyBody", nil, publishBodies},
	{"Nothing", nil, func(w *world) { w.ok(w.b.Publish(w.ctx, w.topic, nil)) }},
	{"ManyInOneCall", nil, publishMany},
	{"TopicsAreApart", nil, publishApart},
	{"EndedContext", nil, publishEnded},
	{"GoesOnAfterAPurge", hasPurge, publishPurged},
}

// publishMakes publishes before anybody has subscribed: what was confirmed waits.
func publishMakes(w *world) {
	want := bodies(5, 30)
	w.publish(want...)
	w.drain(w.subscribe(w.b), want)
}

func publishOrder(w *world) {
	want := bodies(100, 30)
	w.publish(want[:50]...)
	s := w.subscribe(w.b)
	w.publish(want[50:]...)
	for i, m := range w.take(s, len(want)) {
		if !bytes.Equal(m.Body, want[i]) {
			w.Fatalf("message %d is another", i)
		}
	}
}

func publishBodies(w *world) {
	want := append([][]byte{{}, {0}, []byte("\x00\xff\r\n{}"), bytes.Repeat([]byte{0}, 70_000)}, bodies(1, broker.MaxBody)...)
	w.publish(want...)
	w.drain(w.subscribe(w.b), want)
}

func publishMany(w *world) {
	want := bodies(3000, 50)
	w.publish(want...)
	w.drain(w.subscribe(w.b), want)
}

func publishApart(w *world) {
	want := bodies(3, 30)
	w.publish(want...)
	w.ok(w.b.Publish(w.ctx, randomTopic(), bodies(3, 30)))
	s := w.subscribe(w.b)
	w.drain(s, want)
	w.nothing("of another topic", s)
}

func publishEnded(w *world) {
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	if err := w.b.Publish(ctx, w.topic, bodies(1, 10)); err == nil {
		w.Error("a call whose context had ended said that it was confirmed")
	}
	want := bodies(1, 10)
	w.publish(want...) // the broker was not harmed
	s := w.subscribe(w.b)
	w.eventually("the message of the second call comes", func() bool {
		for _, m := range w.takeSome(s, 10) {
			if bytes.Equal(m.Body, want[0]) {
				return true
			}
		}
		return false
	})
}

func publishPurged(w *world) {
	w.publish(bodies(5, 30)...)
	w.suite.features.Purge(w.TB, w.b, w.topic)
	s := w.subscribe(w.b)
	want := bodies(2, 30)
	w.publish(want...)
	w.drain(s, want)
}

var badInputTests = []test{
	{"Topic", nil, badTopics},
	{"Body", nil, badBody},
	{"Most", nil, badMost},
}

func badTopics(w *world) {
	for _, topic := range []string{"", ".", "a b", "a\r\nb", "ü", strings.Repeat("x", broker.MaxTopic+1), strings.Repeat("x", 1<<20)} {
		w.wantCode("Publish", w.b.Publish(w.ctx, topic, bodies(1, 1)), job.InvalidArgument)
		_, err := w.b.Subscribe(w.ctx, topic)
		w.wantCode("Subscribe", err, job.InvalidArgument)
		_, err = w.b.Depth(w.ctx, topic)
		w.wantCode("Depth", err, job.InvalidArgument)
	}
	long := w.topic + strings.Repeat("x", broker.MaxTopic-len(w.topic)-2) + "-_"
	want := bodies(1, 10)
	w.ok(w.b.Publish(w.ctx, long, want))
	w.topic = long
	w.drain(w.subscribe(w.b), want)
}

func badBody(w *world) {
	w.wantCode("a huge body", w.b.Publish(w.ctx, w.topic, [][]byte{{1}, make([]byte, broker.MaxBody+1)}), job.InvalidArgument)
	want := bodies(1, 10)
	w.publish(want...)
	w.drain(w.subscribe(w.b), want) // and nothing else
}

func badMost(w *world) {
	s := w.subscribe(w.b)
	for _, most := range []int{0, -1} {
		_, err := s.Receive(w.ctx, most, 0)
		w.wantCode("Receive", err, job.InvalidArgument)
	}
}
