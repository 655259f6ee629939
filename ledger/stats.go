package ledger

import (
	"context"
	"time"
)

// Stats is what is remembered of jobs after they have gone: sums by the hour,
// which the engine gathers in memory and adds every few seconds. No job is ever
// counted for them, and what a sum means is the engine's business.
type Stats interface {
	// FoldStats calls fn with everything that is stored of an hour, and stores
	// the rows that fn answers in place of those with the same key, all in one
	// transaction: of folds of one hour, in any process, each sees what the one
	// before has stored. fn must be pure: it may be called again if the transaction is
	// retried. Its error is the answer, and changes nothing.
	FoldStats(ctx context.Context, hour Hour, fn func(Sums) (Sums, error)) error

	// ReadStats calls tally, and fault unless it is nil, on each row that is stored
	// of the hours since from, of one queue or, if queue is "", of all: those of the latest
	// hours first, and never all of them in memory. The rows are theirs, they must not call the
	// ledger, and their false ends the reading of both.
	ReadStats(ctx context.Context, from Hour, queue string, tally func(Tally) bool, fault func(Fault) bool) error
}

// Hour numbers the hours since 1970, in UTC.
type Hour int64

// HourOf returns the hour of a moment.
func HourOf(t time.Time) Hour { return Hour(t.Unix() / 3600) }

// Start returns when the hour begins.
func (h Hour) Start() time.Time { return time.Unix(int64(h)*3600, 0).UTC() }

// Sums are rows of both sorts.
type Sums struct {
	Tallies []Tally
	Faults  []Fault
}

// Tally says how often something happened to jobs of a queue and kind within an
// hour. Its key is Hour, Queue, Kind and Outcome.
type Tally struct {
	Hour    Hour
	Queue   string
	Kind    string
	Outcome Outcome
	N       int64
	Sum     time.Duration // of all waits, or of all runs, to the microsecond
	Sketch  []byte        // how they are distributed, as the engine writes it; nil: not at all
}

// Outcome is what a Tally counts. The numbers are stored.
type Outcome uint8

// The outcomes. Sum and Sketch are those of waits for OutcomeLeased, and of runs for
// OutcomeSucceeded to OutcomeCrashed.
const (
	OutcomeArrived   Outcome = 1 // became ready: at the enqueue, at its time, or for another try
	OutcomeLeased    Outcome = 2
	OutcomeSucceeded Outcome = 3
	OutcomeFailed    Outcome = 4
	OutcomeDiscarded Outcome = 5
	OutcomeSnoozed   Outcome = 6
	OutcomeReleased  Outcome = 7
	OutcomeCrashed   Outcome = 8
	OutcomeCancelled Outcome = 9
	OutcomeExpired   Outcome = 10
	OutcomeDied      Outcome = 11 // became dead letters
)

// Fault says how often attempts of a queue and kind failed alike within an
// hour. Its key is Hour, Queue, Kind and Message.
type Fault struct {
	Hour    Hour
	Queue   string
	Kind    string
	Message string // what the failures have in common; at most MaxFaultMessage bytes of UTF-8 without NUL
	N       int64
	First   time.Time
	Last    time.Time
}

// MaxFaultMessage bounds Fault.Message, in bytes.
const MaxFaultMessage = 256
