package errand

import (
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// Outcome is what an attempt came to, as its worker reports it.
type Outcome string

// The outcomes of an attempt.
const (
	OutcomeSucceeded Outcome = "succeeded"
	OutcomeFailed    Outcome = "failed" // an error or a panic
	OutcomeDiscarded Outcome = "discarded"
	OutcomeSnoozed   Outcome = "snoozed"
	OutcomeReleased  Outcome = "released" // given back uncharged: the worker stops, or has lost its lease
)

// Outcomes are all outcomes.
var Outcomes = []Outcome{OutcomeSucceeded, OutcomeFailed, OutcomeDiscarded, OutcomeSnoozed, OutcomeReleased}

// WorkerObserver hears of the attempts of a worker: metrics are made of it, see
// package errandprom. Its methods are called on the way of every job, from many
// goroutines at once: they must be quick, and never wait.
type WorkerObserver interface {
	// JobStarted is called before the job's handler.
	JobStarted(j *RawJob)
	// JobEnded is called after the handler has returned or panicked, before its
	// outcome is sent to the server. Each started job ends once.
	JobEnded(j *RawJob, o Outcome, ran time.Duration)
}

// silence is the observer of a worker that has none.
type silence struct{}

func (silence) JobStarted(*RawJob)                       {}
func (silence) JobEnded(*RawJob, Outcome, time.Duration) {}

func outcomeOf(o errandv1.Outcome) Outcome {
	switch o {
	case errandv1.Outcome_OUTCOME_SUCCEED:
		return OutcomeSucceeded
	case errandv1.Outcome_OUTCOME_DISCARD:
		return OutcomeDiscarded
	case errandv1.Outcome_OUTCOME_SNOOZE:
		return OutcomeSnoozed
	case errandv1.Outcome_OUTCOME_RELEASE:
		return OutcomeReleased
	default:
		return OutcomeFailed
	}
}
