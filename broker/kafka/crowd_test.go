package kafka

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/internal/testenv"
)

// bodies makes n different ones, and remembers them.
func bodies(n int) (list [][]byte, missing map[string]bool) {
	missing = map[string]bool{}
	for i := range n {
		body := fmt.Appendf(nil, "message %d", i)
		list = append(list, body)
		missing[string(body)] = true
	}
	return list, missing
}

func subscribe(t *testing.T, b *Broker, topic string) broker.Subscription {
	t.Helper()
	s, err := b.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// drain acknowledges what comes until nothing is missing, and fails the test if that
// takes longer than patience.
func drain(t *testing.T, s broker.Subscription, missing map[string]bool, patience time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for len(missing) > 0 && ctx.Err() == nil {
		msgs, err := s.Receive(ctx, 10, time.Second)
		if err == nil {
			for _, m := range msgs {
				delete(missing, string(m.Body))
			}
			err = s.Ack(ctx, msgs)
		}
		if err != nil {
			t.Logf("borne: %v", err)
		}
	}
	if len(missing) > 0 {
		t.Fatalf("%d messages did not come in %s", len(missing), patience)
	}
	return time.Since(start)
}

// A server whose hands are all busy asks for nothing: in a share group that holds up
// nobody, though it has consumed before and stays subscribed.
func TestBusyServerHoldsUpNobodyInAShareGroup(t *testing.T) {
	t.Parallel()
	address := "kafka://" + testenv.KafkaAddress(t) + "?group=share"
	topic := "errand.busy." + t.Name()
	b := open(t, address, time.Minute)
	busy, free := subscribe(t, b, topic), subscribe(t, open(t, address, time.Minute), topic)
	awaitShares(t, b, topic, busy, free)

	list, missing := bodies(200)
	if err := b.Publish(t.Context(), topic, list); err != nil {
		t.Fatal(err)
	}
	t.Logf("the free server had all after %s", drain(t, free, missing, time.Minute))
}

// In a consumer group the messages of its partitions wait for a busy server, until it has
// rested for longRest: then the others get them. That is shorter than the time after which the relay
// publishes them again.
func TestBusyServerIsRelievedInAConsumerGroup(t *testing.T) {
	t.Parallel()
	address := "kafka://" + testenv.KafkaAddress(t) + "?group=classic"
	topic := "errand.busy." + t.Name()
	b := open(t, address, time.Minute)
	busy, free := subscribe(t, b, topic), subscribe(t, open(t, address, time.Minute), topic)
	awaitShares(t, b, topic, busy, free)

	list, missing := bodies(200)
	if err := b.Publish(t.Context(), topic, list); err != nil {
		t.Fatal(err)
	}
	if err := busy.Rest(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("the free server had all after %s of a rest", drain(t, free, missing, 2*time.Minute))

	// A server that has work again gets its part again.
	awaitShares(t, b, topic, busy, free)
}

// awaitShares publishes until each subscription has got something.
func awaitShares(t *testing.T, b *Broker, topic string, subs ...broker.Subscription) {
	t.Helper()
	got := make([]bool, len(subs))
	for deadline := time.Now().Add(2 * time.Minute); slices.Contains(got, false); {
		if time.Now().After(deadline) {
			t.Fatalf("after two minutes of publishing these had got something: %t", got)
		}
		list, _ := bodies(24)
		if err := b.Publish(t.Context(), topic, list); err != nil {
			t.Fatal(err)
		}
		for i, s := range subs {
			msgs, err := s.Receive(t.Context(), 10, 200*time.Millisecond)
			if err == nil {
				err = s.Ack(t.Context(), msgs)
			}
			if err != nil {
				t.Logf("borne: %v", err)
			}
			got[i] = got[i] || len(msgs) > 0
		}
	}
	for _, s := range subs { // what is left
		for {
			msgs, err := s.Receive(t.Context(), 100, 500*time.Millisecond)
			if err != nil || len(msgs) == 0 {
				break
			}
			if err := s.Ack(t.Context(), msgs); err != nil {
				t.Logf("borne: %v", err)
			}
		}
	}
}

// The reason for topics of one partition: a share group gives several of them to some
// of the servers each, and not all to all.
func TestShareGroupDividesPartitions(t *testing.T) {
	t.Parallel()
	address := "kafka://" + testenv.KafkaAddress(t) + "?group=share&partitions=4"
	topic := "errand.parts." + t.Name()
	one, two := open(t, address, time.Minute), open(t, address, time.Minute)
	a, b := subscribe(t, one, topic).(*share), subscribe(t, two, topic).(*share)
	count := func(c *share) int {
		state, _ := c.member.state()
		return len(state.partitions)
	}
	for deadline := time.Now().Add(time.Minute); count(a) != 2 || count(b) != 2; <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the servers have %d and %d of 4 partitions: if all have all, topics may have more than one", count(a), count(b))
		}
	}
}

// publishAgain publishes list now and then until it is stopped, as the relay does: what was
// confirmed just when the topic went is gone with it.
func publishAgain(t *testing.T, b *Broker, topic string, list [][]byte) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-time.After(5 * time.Second):
				_ = b.Publish(ctx, topic, list) // or the next time
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// A topic that an operator deletes is made anew, and the same handles go on.
func TestDeletedTopicIsMadeAnew(t *testing.T) {
	t.Parallel()
	for _, groups := range []Groups{Share, Classic} {
		t.Run(string(groups), func(t *testing.T) {
			b := open(t, "kafka://"+testenv.KafkaAddress(t)+"?group="+string(groups), time.Minute)
			topic := "errand.deleted." + string(groups)
			s := subscribe(t, b, topic)
			for range 2 {
				list, missing := bodies(20)
				if err := b.Publish(t.Context(), topic, list); err != nil {
					t.Fatal(err)
				}
				stop := publishAgain(t, b, topic, list)
				drain(t, s, missing, 2*time.Minute)
				stop()
				if _, err := b.adm.DeleteTopic(t.Context(), topic); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
