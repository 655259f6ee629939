// Package broker defines the carrier of ready jobs: it brings refs from the
// relay to the servers that have free hands. The comments of the interface are
// its contract; package brokertest holds each sentence against every driver.
//
// A carrier is a hint, never the truth. Whatever it loses, doubles, delays or
// reorders, the ledger still says ready, and the relay publishes again. So a
// driver keeps nothing that it could not lose, and decides nothing: topics and
// bodies are the caller's, who also says when to stop.
package broker

import (
	"context"
	"time"
)

// Broker is a connection to a carrier. Every method is safe for concurrent use.
//
// A broker that cannot be reached answers with an error of code
// job.Unavailable, at the latest when ctx ends; a call that is refused for a
// reason that trying again does not mend (permissions, a queue of another type)
// answers with job.FailedPrecondition or job.PermissionDenied and says what to
// do. The driver connects again by itself, with growing pauses and jitter, and
// makes the topics and consumers that it had: the same Broker and Subscription
// work again, and no call but the failing ones was harmed. No error, log line
// or String shows a password.
type Broker interface {
	// Publish sends one message for each body to the topic, in order, making
	// the topic if it is not there, and returns nil when the carrier has
	// confirmed every one of them. After an error any of them may have been sent.
	Publish(ctx context.Context, topic string, bodies [][]byte) error

	// Subscribe begins to consume a topic, making it if it is not there. All
	// subscriptions of a topic, of every process, share its messages: each
	// message goes to one of them.
	Subscribe(ctx context.Context, topic string) (Subscription, error)

	// Depth returns about how many messages of the topic are not acknowledged
	// yet. It may lag behind by some seconds; a topic that is not there has none.
	Depth(ctx context.Context, topic string) (int64, error)

	// Check looks at the carrier as an operator would: version, permissions,
	// settings that endanger jobs or speed. It returns an error only where it
	// could not look.
	Check(ctx context.Context) ([]Finding, error)

	// Close ends all subscriptions, waits for calls under way and frees everything.
	Close() error
}

// Subscription is one consumer of a topic. Its methods are called by one
// goroutine at a time; Close by any.
type Subscription interface {
	// Receive returns between one and most messages, as soon as there is one,
	// or none when wait is over or ctx ends (which is no error). It asks the
	// carrier for no more messages ahead than most. Messages older than the time-to-live that
	// the broker was opened with are acknowledged and left out.
	Receive(ctx context.Context, most int, wait time.Duration) ([]Message, error)

	// Ack tells the carrier that messages of this subscription need not come
	// again. An error means that some of them may.
	Ack(ctx context.Context, msgs []Message) error

	// Rest gives back to the carrier what it sent ahead and Receive has not
	// returned, so that other subscriptions get it, as far as the carrier can;
	// nothing is sent ahead until the next Receive. Messages that Receive has
	// returned may still be acknowledged.
	Rest(ctx context.Context) error

	// Close ends the subscription. What was not acknowledged is delivered again.
	Close() error
}

// Message is one delivery.
type Message struct {
	Body []byte
	// Tag is the driver's own, to acknowledge by.
	Tag any
}

// Finding is one thing that Check has looked at.
type Finding struct {
	Name   string // what was looked at, in a few words
	OK     bool
	Detail string // what was seen and, if it is not OK, what to do
}
