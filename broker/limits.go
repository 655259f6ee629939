package broker

import (
	"github.com/errandhq/errand/job"
)

// The bounds of what every carrier takes.
const (
	MaxTopic = 249       // bytes of a topic's name
	MaxBody  = 512 << 10 // bytes of one message
)

// ErrClosed is the answer to every call on a Broker or Subscription that was closed.
var ErrClosed = job.Errorf(job.FailedPrecondition, job.ReasonShuttingDown, "the connection to the broker was closed")

// CheckTopic checks a topic: 1 to MaxTopic of the letters, digits, dots, dashes
// and underscores that every carrier has in names, and not "." or "..".
func CheckTopic(topic string) error {
	switch {
	case topic == "":
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, "topic is empty")
	case len(topic) > MaxTopic:
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, "topic has %d bytes; at most %d are allowed", len(topic), MaxTopic)
	case topic == "." || topic == "..":
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, "topic %q is no name", topic)
	}
	for _, c := range []byte(topic) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return job.Errorf(job.InvalidArgument, job.ReasonBadField, "topic %q has other characters than letters, digits, dots, dashes and underscores", topic)
		}
	}
	return nil
}

// CheckBodies checks what is to be published: no body over MaxBody.
func CheckBodies(bodies [][]byte) error {
	for i, b := range bodies {
		if len(b) > MaxBody {
			return job.Errorf(job.InvalidArgument, job.ReasonTooLarge, "message %d has %d bytes; at most %d are allowed", i, len(b), MaxBody)
		}
	}
	return nil
}

// CheckMost checks the bound of a Receive.
func CheckMost(most int) error {
	if most < 1 {
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, "most is %d; at least one message has to be asked for", most)
	}
	return nil
}
