package coldsql

import (
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/errandhq/errand/job"
)

// A trace is stored with a job, copied by the claim and copied again into the
// archive, so both engines keep a traceparent of the version 00 as 34 characters of
// text in place of 55: the mark, a digit for the flags and the ids in base64. What follows it,
// a tracestate, stays as it is. Texts that do not begin so are kept
// as they came, which is what servers before this form have written and
// enqueue_v1 still does; those servers show this form as it is, which is nobody's trace.
const (
	traceMark = '~'
	traceIDs  = 16 + 8
	packedLen = 2 + traceIDs*4/3
)

// PackTrace returns a job's Trace as a column has it.
func PackTrace(trace string) string {
	if trace == "" {
		return ""
	}
	if trace[0] == traceMark {
		return string(traceMark) + trace // nobody's traceparent: not to be taken for a packed one
	}
	parent, rest := trace, ""
	if len(trace) > job.TraceParentLen {
		parent, rest = trace[:job.TraceParentLen], trace[job.TraceParentLen:]
	}
	// 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01
	if len(parent) != job.TraceParentLen || parent[:3] != "00-" || parent[35] != '-' || parent[52:54] != "-0" ||
		!isLowerHex(parent[54]) || strings.ContainsAny(parent, "ABCDEF") || rest != "" && rest[0] != ' ' {
		return trace
	}
	var ids [traceIDs]byte
	_, err1 := hex.Decode(ids[:16], []byte(parent[3:35]))
	_, err2 := hex.Decode(ids[16:], []byte(parent[36:52]))
	if err1 != nil || err2 != nil {
		return trace
	}
	var out [packedLen]byte
	out[0], out[1] = traceMark, parent[54]
	base64.RawStdEncoding.Encode(out[2:], ids[:])
	return string(out[:]) + rest
}

// UnpackTrace is the inverse of PackTrace.
func UnpackTrace[T string | []byte](stored T) string {
	if len(stored) == 0 || stored[0] != traceMark {
		return string(stored)
	}
	if len(stored) > 1 && stored[1] == traceMark {
		return string(stored[1:])
	}
	if len(stored) < packedLen || !isLowerHex(stored[1]) || len(stored) > packedLen && stored[packedLen] != ' ' {
		return string(stored)
	}
	var text [packedLen - 2]byte
	var ids [traceIDs]byte
	copy(text[:], stored[2:])
	if n, err := base64.RawStdEncoding.Decode(ids[:], text[:]); err != nil || n != traceIDs {
		return string(stored)
	}
	var out [job.TraceParentLen]byte
	copy(out[:], "00-")
	hex.Encode(out[3:], ids[:16])
	out[35] = '-'
	hex.Encode(out[36:], ids[16:])
	copy(out[52:], "-0")
	out[54] = stored[1]
	return string(out[:]) + string(stored[packedLen:])
}

// Traces packs and unpacks for neighbours: jobs that one call handed in have one trace.
// The zero value is ready; nil works without a memory.
type Traces struct{ trace, stored string }

// Pack is PackTrace.
func (t *Traces) Pack(trace string) string {
	if t == nil {
		return PackTrace(trace)
	}
	if trace != t.trace {
		t.trace, t.stored = trace, PackTrace(trace)
	}
	return t.stored
}

// Unpack is UnpackTrace. It keeps nothing of stored.
func (t *Traces) Unpack(stored []byte) string {
	if t == nil {
		return UnpackTrace(stored)
	}
	if string(stored) != t.stored { // does not copy stored
		t.trace, t.stored = UnpackTrace(stored), string(stored)
	}
	return t.trace
}

func isLowerHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }
