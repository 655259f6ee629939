package ledger

import "time"

// Ask says what a Pulse is asked for.
type Ask struct {
	Due     bool   // jobs that are Scheduled with RunAt, or Scheduled or Ready with ExpiresAt, at or before now
	Orphans bool   // Running jobs whose session is neither live nor draining
	Cancels bool   // Running jobs whose cancellation was asked for
	Queues  []Head // those of these queues that have Ready jobs of those kinds; Max does not matter
}

// Pulse says what there is of what was asked for; of what was not, nothing.
type Pulse struct {
	Now     time.Time // the ledger's own clock, in the middle of the call
	Due     bool
	Orphans bool
	Cancels bool
	Ready   []string // each once, in any order
}
