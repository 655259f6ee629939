// Package job is Errand's vocabulary: what a job is, the states it goes
// through, the events that move it, and the rules of each move. It is pure: no
// clock, no input or output, the standard library only. Ledgers store what it
// says; the engine decides by it.
package job

import (
	"fmt"
	"time"
)

// KindsOfErrand begins the names of kinds that are Errand's own: producers may
// not use them.
const KindsOfErrand = "errand."

// KindCanary is the kind of the jobs by which a server tests its own queues.
// They do nothing, and count as nobody's work.
const KindCanary = KindsOfErrand + "canary"

// CallUntold is the Job.Call of a job that its worker completed in a transaction
// of its own, which no server saw, until a server has counted it.
const CallUntold = -1

// State is where a job stands. The numbers are stored; they never change.
type State uint8

// The states of design §4. Deleted is never stored: a job that Step leaves in
// it is removed by the ledger.
const (
	Scheduled State = 1 // waits for RunAt
	Ready     State = 2 // may be leased
	Running   State = 3 // leased to a session
	Succeeded State = 4 // final, kept in the archive
	Dead      State = 5 // a dead letter: kept until a person or a rule removes it
	Cancelled State = 6 // final, kept in the archive
	Deleted   State = 7
)

var stateNames = [...]string{"", "scheduled", "ready", "running", "succeeded", "dead", "cancelled", "deleted"}

// String returns the state's name as the API and the command line show it.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// ParseState is the inverse of String for the six stored states.
func ParseState(name string) (State, error) {
	for s := Scheduled; s <= Cancelled; s++ {
		if stateNames[s] == name {
			return s, nil
		}
	}
	return 0, Errorf(InvalidArgument, ReasonBadField,
		"state %q is not one of scheduled, ready, running, succeeded, dead, cancelled", clip(name, 64))
}

// Final reports whether the job has left the hot table: succeeded, cancelled
// or dead.
func (s State) Final() bool { return s == Succeeded || s == Dead || s == Cancelled }

// Event is what happens to a job. The numbers are stored (SettledAs).
type Event uint8

// The events of design §4.
const (
	Due     Event = 1  // RunAt has come
	Lease   Event = 2  // a session takes it
	Succeed Event = 3  // the handler returned nil
	Fail    Event = 4  // the handler returned an error or panicked: retry by policy
	Discard Event = 5  // the handler asked for no more tries
	Snooze  Event = 6  // the handler asked to be called later; no attempt is charged
	Release Event = 7  // given back: drain, lost reply, self-fencing; no attempt is charged
	Crash   Event = 8  // its session died
	Cancel  Event = 9  // a person or a program asked for it
	Expire  Event = 10 // ExpiresAt passed before it was leased
	Redrive Event = 11 // a dead letter is tried again
	Delete  Event = 12
)

var eventNames = [...]string{"", "due", "lease", "succeed", "fail", "discard", "snooze", "release", "crash",
	"cancel", "expire", "redrive", "delete"}

// String returns the event's name.
func (e Event) String() string {
	if int(e) < len(eventNames) {
		return eventNames[e]
	}
	return fmt.Sprintf("event(%d)", uint8(e))
}

// UniqueMode says how long a job holds its unique key. The numbers are stored.
type UniqueMode uint8

// The unique modes of design §3.1.
const (
	NotUnique   UniqueMode = 0
	WhileQueued UniqueMode = 1 // until the first lease
	UntilDone   UniqueMode = 2 // through retries, until succeeded, cancelled or dead
	ForWindow   UniqueMode = 3 // for UniqueFor from the enqueue, whatever becomes of the job
)

// Lane orders ready jobs within their queue and kind: lower lanes first, then
// by Seq. Lanes 0 to 9 are the priorities.
type Lane int8

// The lanes in front of the priorities. Suspects have a lane of their own so
// that a claim can take at most one for a session (promise 6).
const (
	LaneSuspect Lane = -2 // has crashed a worker before
	LaneFront   Lane = -1 // ready again by release or rescue
	LaneLast    Lane = 9
)

// Job is one job, as the ledger keeps it. Times have microsecond resolution;
// a zero time means "not set".
type Job struct {
	ID          ID
	Queue       string
	Kind        string
	Payload     []byte
	ContentType string // "application/json" by default
	Priority    int    // 0 first … 9 last
	Tags        []string
	Trace       string // W3C traceparent of the enqueue
	Digest      int64  // of what the producer asked for: tells a repeated enqueue from another with its id

	State     State
	Lane      Lane  // meaningful while Ready
	Seq       int64 // drawn by the ledger when the job becomes ready; 0 asks it to draw one
	CreatedAt time.Time
	RunAt     time.Time // when it is, or became, claimable
	ExpiresAt time.Time // zero: never
	LeasedAt  time.Time // the last lease; zero: never leased
	DoneAt    time.Time // when it became succeeded, dead or cancelled

	Attempt     int
	MaxAttempts int
	Crashes     int
	Redrives    int
	Timeout     time.Duration // zero: none

	UniqueKey  string
	UniqueMode UniqueMode
	UniqueFor  time.Duration // with ForWindow

	Session         ID    // holder while Running
	Call            int64 // the number of the session's Lease call that took it; CallUntold: see there
	Token           int64 // fencing token: grows by one with each lease, never falls
	Version         int64 // grows with every change
	SettledToken    int64 // token of the last lease that its holder settled
	SettledAs       Event // and how
	CancelRequested bool  // while Running
	Reason          string

	Result   []byte
	Progress []byte
	Errors   []Failure
}

// Why a job is dead or cancelled (Job.Reason).
const (
	WhyAttempts  = "attempts"  // no attempts left
	WhyDiscarded = "discarded" // the handler said so
	WhyCrashed   = "crashed"   // it took its worker down too often
	WhyCancelled = "cancelled" // on request
	WhyExpired   = "expired"   // ExpiresAt passed
)

// Failure is one attempt that went wrong. The JSON form is stored.
type Failure struct {
	Attempt int       `json:"attempt"`
	Message string    `json:"message"`
	Stack   string    `json:"stack,omitempty"`
	At      time.Time `json:"at"`
	Worker  string    `json:"worker,omitempty"`
	Crash   bool      `json:"crash,omitempty"`
}

// LastError returns the message of the newest failure, or "".
func (j *Job) LastError() string {
	if n := len(j.Errors); n > 0 {
		return j.Errors[n-1].Message
	}
	return ""
}

// HoldsKey reports whether the job in its present state holds its unique key.
// A ForWindow key is never freed by a state: it ends with its time.
func (j *Job) HoldsKey() bool {
	switch j.UniqueMode {
	case WhileQueued:
		return (j.State == Scheduled || j.State == Ready) && j.LeasedAt.IsZero()
	case UntilDone:
		return j.State == Scheduled || j.State == Ready || j.State == Running
	default:
		return false
	}
}
