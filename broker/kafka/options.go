package kafka

import (
	"log/slog"
	"time"
)

// Groups says by what kind of group the servers of a cluster share a topic.
type Groups string

// The kinds of groups.
const (
	// Auto takes share groups where the cluster has them, and classic groups
	// where it has not.
	Auto Groups = ""
	// Share takes share groups (KIP-932): each message goes to whoever asks
	// next. A cluster without them is an error of code job.FailedPrecondition.
	Share Groups = "share"
	// Classic takes consumer groups: each partition belongs to one consumer.
	Classic Groups = "classic"
)

// Options are what the address does not say. The zero value is good.
type Options struct {
	// TTL is the age, by the brokers' clocks, from which a message is left
	// out; 0: none is ever too old. Topics keep messages for not much longer.
	TTL time.Duration
	// Logger gets the troubles of connections; nil: nobody does.
	Logger *slog.Logger
}

// The settings of topics and connections, each explained in docs/kafka.md.
const (
	sharePartitions   = 1  // one line that all servers take from: in order, and nobody is stuck behind anybody
	classicPartitions = 12 // so many servers at most can consume a topic; 12 divides by 2, 3, 4 and 6
	mostReplicas      = 3
	leastRetention    = 10 * time.Minute // and ten times the time-to-live
	segmentBytes      = 64 << 20

	fetchWait     = 500 * time.Millisecond // a broker waits for messages at most so long; acknowledgements may have to wait for it
	fetchBytes    = 8 << 20
	dialTimeout   = 5 * time.Second
	answerTimeout = 5 * time.Second  // for an answer, beyond the time that the request itself may take
	retryTimeout  = 10 * time.Second // for a request, with its retries
	sendTimeout   = 10 * time.Second // for a message, with its retries
	idleTimeout   = time.Minute
	leastPause    = 50 * time.Millisecond // between two tries; it doubles
	mostPause     = 5 * time.Second
	closePatience = 3 * time.Second
	loadPatience  = 10 * time.Second // a coordinator may be loading for so long

	groupTimeout = 10 * time.Second // a member of a consumer group that is silent for so long is out
	longRest     = 10 * time.Second // from then on a resting member leaves its partitions to the others
)
