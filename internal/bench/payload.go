package bench

import (
	"bytes"
	"strconv"
	"time"
)

// A payload is JSON of the size asked for, which begins with the moment its job
// was meant to start, in nanoseconds since the beginning of the scenario:
//
//	{"at":1000000012345678,"f":"xxx…"}
const (
	payloadHead = `{"at":1` // a number has no zero in front, so the stamp has a one
	stampDigits = 15        // eleven days of nanoseconds
	payloadMid  = `,"f":"`
	payloadTail = `"}`
)

// newPayload returns a payload of n bytes, at least minPayload.
func newPayload(n int, at time.Duration) []byte {
	b := make([]byte, 0, n)
	b = append(b, payloadHead...)
	var digits [20]byte
	stamp := strconv.AppendInt(digits[:0], int64(max(at, 0)), 10)
	for range stampDigits - len(stamp) {
		b = append(b, '0')
	}
	b = append(b, stamp...)
	b = append(b, payloadMid...)
	for len(b) < n-len(payloadTail) {
		b = append(b, 'x')
	}
	return append(b, payloadTail...)
}

// stampOf reads the moment out of a payload, and reports whether there is one. A
// system that keeps JSON may have put spaces in it, or its keys in another order.
func stampOf(payload []byte) (time.Duration, bool) {
	_, rest, ok := bytes.Cut(payload, []byte(`"at":`))
	rest, one := bytes.CutPrefix(bytes.TrimLeft(rest, " "), []byte("1"))
	if !ok || !one || len(rest) < stampDigits {
		return 0, false
	}
	n, err := strconv.ParseInt(string(rest[:stampDigits]), 10, 64)
	return time.Duration(n), err == nil
}

// payloads makes n of them, all meant to start at the same moment.
func payloads(n, size int, at time.Duration) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = newPayload(size, at)
	}
	return out
}
