package rediscache

import (
	"crypto/sha1" //nolint:gosec // Redis names scripts by it
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
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

// appendValue appends the value of an entry, in one line: its head, and the
// body in base64.
func appendValue(to []byte, e *cache.Entry) ([]byte, error) {
	at := e.At.UnixMicro()
	if e.Version < 0 || at < 0 {
		return nil, fmt.Errorf("redis: job %s has version %d at %s", e.ID, e.Version, e.At)
	}
	to = appendDigits(appendDigits(to, e.Version), at)
	var room [256]byte // of most entries
	return base64.RawStdEncoding.AppendEncode(to, appendBody(room[:0], e)), nil
}

// appendBody appends all but version and time: the id, then numbers and texts in the order below. The
// numbers are varints, and a text follows its length.
func appendBody(b []byte, e *cache.Entry) []byte {
	var runAt int64 // microseconds
	if !e.RunAt.IsZero() {
		runAt = e.RunAt.UnixMicro()
	}
	b = append(b, e.ID[:]...)
	for _, n := range [...]int64{
		int64(e.State), int64(e.Priority), int64(e.Attempt), int64(e.MaxAttempts), int64(e.Crashes), runAt, e.Token,
	} {
		b = binary.AppendVarint(b, n)
	}
	b = appendText(appendText(appendText(b, e.Queue), e.Kind), e.Reason)
	return append(b, e.Progress...) // up to the end
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendDigits appends n, which is not negative, in the 20 digits that texts of
// equal length are compared by.
func appendDigits(b []byte, n int64) []byte {
	const zeros = "00000000000000000000"
	var room [len(zeros)]byte
	digits := strconv.AppendInt(room[:0], n, 10)
	return append(append(b, zeros[len(digits):]...), digits...)
}

// decode reads a value, and reports whether it is one.
func decode(value string) (cache.Entry, bool) {
	if len(value) < headLen {
		return cache.Entry{}, false
	}
	version, ok1 := digits(value[:headLen/2])
	at, ok2 := digits(value[headLen/2 : headLen])
	body, err := base64.RawStdEncoding.DecodeString(value[headLen:])
	if !ok1 || !ok2 || err != nil {
		return cache.Entry{}, false
	}
	e, ok := decodeBody(body)
	if !ok {
		return cache.Entry{}, false
	}
	e.Version, e.At = version, time.UnixMicro(at).UTC()
	return e, true
}

// decodeBody reads what appendBody wrote.
func decodeBody(body []byte) (cache.Entry, bool) {
	if len(body) < len(job.ID{}) {
		return cache.Entry{}, false
	}
	e := cache.Entry{ID: job.ID(body[:len(job.ID{})])}
	r := reader{rest: body[len(e.ID):]}
	e.State = job.State(r.number())
	e.Priority, e.Attempt, e.MaxAttempts, e.Crashes = int(r.number()), int(r.number()), int(r.number()), int(r.number())
	if runAt := r.number(); runAt != 0 {
		e.RunAt = time.UnixMicro(runAt).UTC()
	}
	e.Token = r.number()
	e.Queue, e.Kind, e.Reason = r.text(), r.text(), r.text()
	if len(r.rest) > 0 {
		e.Progress = slices.Clone(r.rest)
	}
	if r.short || e.ID.IsZero() || e.State < job.Scheduled || e.State > job.Deleted {
		return cache.Entry{}, false
	}
	return e, true
}

// reader takes a body apart. Once it is short, everything that it reads is zero.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) number() int64 {
	n, length := binary.Varint(r.rest)
	r.skip(length)
	return n
}

func (r *reader) text() string {
	n, length := binary.Uvarint(r.rest)
	r.skip(length)
	if n > uint64(len(r.rest)) {
		r.skip(0)
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

// skip passes over what a number took, or gives up if it was none.
func (r *reader) skip(length int) {
	if length <= 0 {
		r.rest, r.short = nil, true
		return
	}
	r.rest = r.rest[length:]
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
