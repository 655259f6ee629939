package insight

import (
	"fmt"
	"time"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/DataDog/sketches-go/ddsketch/mapping"
	"github.com/DataDog/sketches-go/ddsketch/store"
)

// accuracy is how far a percentile may be from the truth, relatively. It is
// part of what is stored: changing it makes old sketches unreadable.
const accuracy = 0.02

// longest bounds what a sketch tells apart, and so its size: about 800 numbers.
const longest = 10 * 365 * 24 * time.Hour

// indexes maps times to bins. Every sketch here has the same.
var indexes = func() mapping.IndexMapping {
	m, err := mapping.NewCubicallyInterpolatedMapping(accuracy)
	if err != nil {
		panic(fmt.Sprintf("insight: %v", err)) // the accuracy is a constant
	}
	return m
}()

// Sketch is a distribution of times, of which percentiles can be told and which
// can be added to others: a DDSketch (Masson, Rim and Lee, VLDB 2019). The zero
// value is empty.
type Sketch struct {
	dd *ddsketch.DDSketch
}

func (s *Sketch) get() *ddsketch.DDSketch {
	if s.dd == nil {
		s.dd = ddsketch.NewDDSketchFromStoreProvider(indexes, store.BufferedPaginatedStoreConstructor)
	}
	return s.dd
}

// Add adds a time. What is negative counts as zero.
func (s *Sketch) Add(d time.Duration) {
	// It can only fail for values out of its range.
	_ = s.get().Add(float64(min(max(d, 0), longest).Microseconds()))
}

// Merge adds what another sketch has stored.
func (s *Sketch) Merge(stored []byte) error {
	if len(stored) == 0 {
		return nil
	}
	if err := s.get().DecodeAndMergeWith(stored); err != nil {
		return fmt.Errorf("read a stored distribution: %w", err)
	}
	return nil
}

// Bytes is the sketch as it is stored: nil if it is empty.
func (s *Sketch) Bytes() []byte {
	if s.dd == nil || s.dd.IsEmpty() {
		return nil
	}
	var b []byte
	s.dd.Encode(&b, true)
	return b
}

// Count is how many times were added.
func (s *Sketch) Count() int64 {
	if s.dd == nil {
		return 0
	}
	return int64(s.dd.GetCount())
}

// At returns the time below which the share q of all lies, 0 if there are none.
func (s *Sketch) At(q float64) time.Duration {
	if s.dd == nil || s.dd.IsEmpty() {
		return 0
	}
	us, err := s.dd.GetValueAtQuantile(q)
	if err != nil {
		return 0 // q is a constant of ours, between 0 and 1
	}
	return time.Duration(us * float64(time.Microsecond))
}
