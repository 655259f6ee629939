package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// The bounds of a message: no server, of whatever version, sends more.
const (
	maxMessageRefs  = 100
	maxMessageBytes = 16 << 10
)

// message is what a carrier brings: refs of one kind of a queue, in the order of
// the ledger. It is JSON, so that a person at the carrier's console can read it.
type message struct {
	Queue string    `json:"queue"`
	Kind  string    `json:"kind"`
	Refs  []carried `json:"refs"`
}

// carried is one ref on its way.
type carried struct {
	Job   job.ID `json:"job"`
	Token int64  `json:"token"`
}

// encodeRefs makes the messages for refs of a queue: neighbours of one kind and
// lane share one, at most share of them.
func encodeRefs(queue string, refs []ledger.Ref, share int) ([][]byte, error) {
	share = min(max(share, 1), maxMessageRefs)
	var bodies [][]byte
	for len(refs) > 0 {
		n := 1
		for n < min(len(refs), share) && refs[n].Kind == refs[0].Kind && refs[n].Lane == refs[0].Lane {
			n++
		}
		m := message{Queue: queue, Kind: refs[0].Kind, Refs: make([]carried, n)}
		for i, r := range refs[:n] {
			m.Refs[i] = carried{r.ID, r.Token}
		}
		body, err := json.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("encode refs: %w", err)
		}
		bodies = append(bodies, body)
		refs = refs[n:]
	}
	return bodies, nil
}

// decodeRefs reads a message. Whatever somebody else put onto the topic is an error.
func decodeRefs(body []byte) (queue string, refs []ledger.Ref, err error) {
	bad := func(format string, args ...any) (string, []ledger.Ref, error) {
		return "", nil, job.Errorf(job.InvalidArgument, job.ReasonBadField, "broker message: "+format, args...)
	}
	if len(body) > maxMessageBytes {
		return bad("it has %d bytes; at most %d are allowed", len(body), maxMessageBytes)
	}
	var m message
	if err := json.Unmarshal(body, &m); err != nil {
		return bad("%w", err)
	}
	if err := job.CheckName("queue", m.Queue); err != nil {
		return bad("%w", err)
	}
	if err := job.CheckName("kind", m.Kind); err != nil {
		return bad("%w", err)
	}
	if len(m.Refs) == 0 || len(m.Refs) > maxMessageRefs {
		return bad("it has %d refs; 1 to %d are allowed", len(m.Refs), maxMessageRefs)
	}
	refs = make([]ledger.Ref, len(m.Refs))
	for i, r := range m.Refs {
		if r.Job.IsZero() || r.Token < 0 {
			return bad("ref %d names no job and token", i)
		}
		refs[i] = ledger.Ref{ID: r.Job, Token: r.Token, Kind: m.Kind}
	}
	return m.Queue, refs, nil
}

// topicOf names the topic of a queue's refs, returnsOf that of refs that servers
// could not use. The ledger's identity keeps ledgers apart that share a carrier.
func topicOf(identity, queue string) string { return "errand." + identity + ".q." + topicWord(queue) }

func returnsOf(identity string) string { return "errand." + identity + ".returns" }

// topicWord writes a queue's name in what all carriers allow: letters, digits and
// dashes; any other byte is a dot and two hexadecimal digits. Underscores are among those, for
// Kafka takes a_b and a.b for one. What gets too long is cut, and its hash tells it apart.
func topicWord(queue string) string {
	const longest = 180 // of 249 that Kafka allows, with room for the rest of the name
	var b strings.Builder
	for _, c := range []byte(queue) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, ".%02x", c)
		}
	}
	word := b.String()
	if len(word) > longest {
		sum := sha256.Sum256([]byte(queue))
		word = word[:longest-33] + "-" + hex.EncodeToString(sum[:16])
	}
	return word
}
