package coldsql

import (
	"encoding/base64"
	"encoding/hex"

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
	if len(parent) != job.TraceParentLen || parent[:3] != "00-" || parent[35] != '-' || parent[52:54] != "-0" || rest != "" && rest[0] != ' ' {
		return trace
	}
	var ids [traceIDs]byte
	if !lowerHex(ids[:16], parent[3:35]) || !lowerHex(ids[16:], parent[36:52]) || !isLowerHex(parent[54]) {
		return trace
	}
	out := make([]byte, packedLen, packedLen+len(rest))
	out[0], out[1] = traceMark, parent[54]
	base64.RawStdEncoding.Encode(out[2:], ids[:])
	return string(append(out, rest...))
}

// UnpackTrace is the inverse of PackTrace.
func UnpackTrace(stored string) string {
	if stored == "" || stored[0] != traceMark {
		return stored
	}
	if len(stored) > 1 && stored[1] == traceMark {
		return stored[1:]
	}
	if len(stored) < packedLen || !isLowerHex(stored[1]) || len(stored) > packedLen && stored[packedLen] != ' ' {
		return stored
	}
	var ids [traceIDs]byte
	if n, err := base64.RawStdEncoding.Decode(ids[:], []byte(stored[2:packedLen])); err != nil || n != traceIDs {
		return stored
	}
	out := make([]byte, 0, job.TraceParentLen+len(stored)-packedLen)
	out = append(out, "00-"...)
	out = hex.AppendEncode(out, ids[:16])
	out = append(out, '-')
	out = hex.AppendEncode(out, ids[16:])
	out = append(out, "-0"...)
	out = append(out, stored[1])
	return string(append(out, stored[packedLen:]...))
}

// lowerHex decodes what hex.Encode would have made.
func lowerHex(dst []byte, s string) bool {
	for i := range dst {
		hi, lo := s[2*i], s[2*i+1]
		if !isLowerHex(hi) || !isLowerHex(lo) {
			return false
		}
		dst[i] = nibble(hi)<<4 | nibble(lo)
	}
	return true
}

func isLowerHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }

func nibble(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'a' + 10
}
