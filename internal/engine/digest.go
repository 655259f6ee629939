package engine

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/errandhq/errand/job"
)

// digest is the fingerprint of what a producer asked for, by which a repeated
// enqueue is told from another one under the same id or key: the first 8 bytes
// of SHA-256 over the fields in this order, each string and number with its
// length or in 8 bytes, so that no two requests share an encoding. A relative
// time counts as it was asked, not as it came out. Not part of it are the id, the
// trace (a retry may run under another span) and what to do on a conflict. The
// numbers are stored: a change of this function makes old enqueues look altered.
func digest(j *job.Job, it *Item) int64 {
	var room [1024]byte // on the stack: most requests fit
	b := room[:0]
	str := func(s string) {
		b = binary.BigEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
	}
	num := func(n int64) { b = binary.BigEndian.AppendUint64(b, uint64(n)) }
	str(j.Queue)
	str(j.Kind)
	num(int64(len(j.Payload)))
	b = append(b, j.Payload...)
	str(j.ContentType)
	num(int64(j.Priority))
	num(int64(j.MaxAttempts))
	num(int64(j.Timeout))
	num(int64(it.Delay))
	num(micros(j.RunAt))
	num(int64(it.ExpiresIn))
	num(micros(j.ExpiresAt))
	str(j.UniqueKey)
	num(int64(j.UniqueMode))
	num(int64(j.UniqueFor))
	num(int64(len(j.Tags)))
	for _, t := range j.Tags {
		str(t)
	}
	sum := sha256.Sum256(b)
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// micros is t as ledgers store it: 0 for "not set".
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}
