// Package history judges what became of jobs. A History is what was promised
// to producers, what workers wrote down of their runs, and what the ledger says in
// the end; Judge holds each against the others. It asks nobody: whoever recorded the
// history, a test that killed processes or a user's `errand verify`, gets the same verdict.
package history

import (
	"encoding/json"

	errand "github.com/errandhq/errand"
)

// History is what was recorded of some jobs. Times are nanoseconds of one
// monotonic clock.
type History struct {
	// Accepted are the jobs whose enqueue has returned without an error.
	Accepted map[errand.ID]Promise
	// Jobs are all that the ledger holds in the end, as it lists them.
	Jobs []*errand.JobInfo
	// Runs are those of handlers, as workers wrote them down.
	Runs []Run
	// Ends are the final states that watchers heard of, as far as they did.
	Ends []End
	// Frozen says that a process was stopped for longer than its lease: then runs of a
	// job may overlap, and the token alone protects.
	Frozen bool
	// Bounds is how many less urgent jobs of a queue may begin while a more
	// urgent one waits. In a queue without a bound order is not judged.
	Bounds map[string]int
	// Disturbed are times at which a queue's order is not judged.
	Disturbed []Interval
}

// Promise is what was asked for with an accepted job.
type Promise struct {
	Queue    string
	Priority int
	// At is when the enqueue returned; zero if the job was not to be begun at once.
	At int64
	// Deadly says that the job may end dead: its handler gives up, or kills its worker.
	Deadly bool
}

// Run is one run of a handler.
type Run struct {
	Job    errand.ID
	Token  int64
	Worker string
	Start  int64
	End    int64 // zero: it never returned
	Failed bool  // it returned an error
}

// End is a final state of a job that a watcher heard of.
type End struct {
	Job     errand.ID
	State   errand.State
	Version int64
}

// Interval is a stretch of time of one queue, or of all if that is empty.
type Interval struct {
	Queue    string
	From, To int64
}

// Mark is the result that a handler leaves, so that the ledger tells whose
// result it took.
type Mark struct {
	Token int64 `json:"token"`
}

// MarkOf reads the mark of a job's result; ok is false if there is none.
func MarkOf(j *errand.JobInfo) (m Mark, ok bool) {
	err := json.Unmarshal(j.Result, &m)
	return m, err == nil && m.Token > 0
}
