package rediscache

import (
	"crypto/sha1" //nolint:gosec // Redis names scripts by it
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

// scriptSHA is the name by which Redis knows the script.
var scriptSHA = func() string {
	sum := sha1.Sum([]byte(putText)) //nolint:gosec // see above
	return hex.EncodeToString(sum[:])
}()

// headLen is the length of a value's head: version and time.
const headLen = 40

// body is a value behind its head. The names are stored.
type body struct {
	ID          job.ID    `json:"id"`
	Queue       string    `json:"q"`
	Kind        string    `json:"k"`
	State       job.State `json:"s"`
	Priority    int       `json:"p"`
	Attempt     int       `json:"a"`
	MaxAttempts int       `json:"m"`
	Crashes     int       `json:"c,omitempty"`
	RunAt       int64     `json:"r"` // microseconds
	Reason      string    `json:"w,omitempty"`
	Progress    []byte    `json:"n,omitempty"`
	Token       int64     `json:"t"`
}

// encode makes the value of an entry, in one line.
func encode(e *cache.Entry) (string, error) {
	if e.Version < 0 || e.At.UnixMicro() < 0 {
		return "", fmt.Errorf("redis: job %s has version %d at %s", e.ID, e.Version, e.At)
	}
	b := body{
		ID: e.ID, Queue: e.Queue, Kind: e.Kind, State: e.State, Priority: e.Priority,
		Attempt: e.Attempt, MaxAttempts: e.MaxAttempts, Crashes: e.Crashes,
		Reason: e.Reason, Progress: e.Progress, Token: e.Token,
	}
	if !e.RunAt.IsZero() {
		b.RunAt = e.RunAt.UnixMicro()
	}
	text, err := json.Marshal(&b)
	if err != nil {
		return "", fmt.Errorf("redis: encode job %s: %w", e.ID, err)
	}
	return fmt.Sprintf("%020d%020d%s", e.Version, e.At.UnixMicro(), text), nil
}

// decode reads a value, and reports whether it is one.
func decode(value string) (cache.Entry, bool) {
	var b body
	if len(value) < headLen || json.Unmarshal([]byte(value[headLen:]), &b) != nil {
		return cache.Entry{}, false
	}
	version, ok1 := digits(value[:headLen/2])
	at, ok2 := digits(value[headLen/2 : headLen])
	if !ok1 || !ok2 || b.ID.IsZero() || b.State < job.Scheduled || b.State > job.Deleted {
		return cache.Entry{}, false
	}
	e := cache.Entry{
		ID: b.ID, Queue: b.Queue, Kind: b.Kind, State: b.State, Priority: b.Priority,
		Attempt: b.Attempt, MaxAttempts: b.MaxAttempts, Crashes: b.Crashes,
		Reason: b.Reason, Progress: b.Progress, Token: b.Token,
		Version: version, At: time.UnixMicro(at).UTC(),
	}
	if b.RunAt != 0 {
		e.RunAt = time.UnixMicro(b.RunAt).UTC()
	}
	return e, true
}

// digits reads a number that has no sign.
func digits(s string) (n int64, ok bool) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' || n > (1<<63-1-int64(c-'0'))/10 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// decodeNews reads the values of a message, one a line. One that cannot be read
// was told by another version of Errand: something was missed.
func decodeNews(text string) cache.News {
	var n cache.News
	for line := range strings.SplitSeq(text, "\n") {
		if e, ok := decode(line); ok {
			n.Entries = append(n.Entries, e)
		} else {
			n.Missed = true
		}
	}
	return n
}
