package job

import (
	"errors"
	"fmt"
)

// Code classifies an error. The values are those of gRPC and Connect, so that
// an error crosses the wire without translation.
type Code uint8

// The codes that Errand uses.
const (
	Canceled           Code = 1
	Unknown            Code = 2
	InvalidArgument    Code = 3
	DeadlineExceeded   Code = 4
	NotFound           Code = 5
	AlreadyExists      Code = 6
	PermissionDenied   Code = 7
	ResourceExhausted  Code = 8
	FailedPrecondition Code = 9
	Aborted            Code = 10
	OutOfRange         Code = 11
	Unimplemented      Code = 12
	Internal           Code = 13
	Unavailable        Code = 14
	Unauthenticated    Code = 16
)

// Reason is the stable, machine-readable cause of an error, as AIP-193 asks:
// clients branch on it, people read the message.
type Reason string

// The reasons that Errand answers with. docs/protocol.md lists them for
// authors of clients.
const (
	ReasonBadID            Reason = "BAD_ID"
	ReasonBadField         Reason = "BAD_FIELD"          // a field is missing, malformed or out of its bounds
	ReasonTooLarge         Reason = "TOO_LARGE"          // a payload, result or batch is over its bound
	ReasonBadPageToken     Reason = "BAD_PAGE_TOKEN"     // not ours, or of another query
	ReasonNotFound         Reason = "JOB_NOT_FOUND"      // no such job in the ledger
	ReasonQueueNotFound    Reason = "QUEUE_NOT_FOUND"    // no job, worker or setting names the queue
	ReasonIDTaken          Reason = "ID_TAKEN"           // the id exists with other content
	ReasonKeyReused        Reason = "IDEMPOTENCY_REUSED" // the idempotency key came with other content
	ReasonUniqueHeld       Reason = "UNIQUE_KEY_HELD"    // another job holds the unique key; Holder names it
	ReasonKeyBusy          Reason = "UNIQUE_KEY_BUSY"    // an open transaction holds the unique key; try again
	ReasonQueueFull        Reason = "QUEUE_FULL"         // max_depth is reached
	ReasonStaleToken       Reason = "STALE_TOKEN"        // the lease has gone to another holder, or has ended
	ReasonSessionLost      Reason = "SESSION_LOST"       // the session is dead, closed or was never opened
	ReasonBadTransition    Reason = "BAD_TRANSITION"     // the job's state does not allow it
	ReasonBusy             Reason = "JOB_BUSY"           // a row lock is held; try again
	ReasonLedgerDown       Reason = "LEDGER_UNAVAILABLE" // nothing was changed; try again
	ReasonUnknownOutcome   Reason = "OUTCOME_UNKNOWN"    // the commit's answer was lost; repeating with the same ids is safe
	ReasonShuttingDown     Reason = "SHUTTING_DOWN"      // the server is draining; try another
	ReasonLedgerLocked     Reason = "LEDGER_LOCKED"      // another process owns the SQLite file
	ReasonSchemaTooNew     Reason = "SCHEMA_TOO_NEW"     // the database was migrated by a newer Errand
	ReasonSchemaTooOld     Reason = "SCHEMA_TOO_OLD"     // migrations are pending and --migrate=check is set
	ReasonNoBroker         Reason = "NO_BROKER"          // the route's broker is none of this server's
	ReasonBrokerDown       Reason = "BROKER_UNAVAILABLE" // the carrier cannot be reached; jobs go on without it
	ReasonBrokerRefused    Reason = "BROKER_REFUSED"     // the carrier refuses, and will again until an operator acts; jobs go on without it
	ReasonUnauthenticated  Reason = "UNAUTHENTICATED"
	ReasonPermissionDenied Reason = "PERMISSION_DENIED"
)

// Error is the one error type of Errand's own refusals. Holder names the job
// that is in the way, where one is.
type Error struct {
	Code    Code
	Reason  Reason
	Message string
	Holder  ID
	Err     error // the cause, for logs; never shown to remote callers
}

// Errorf makes an Error. A %w in the format becomes its cause.
func Errorf(c Code, r Reason, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: c, Reason: r, Message: err.Error(), Err: errors.Unwrap(err)}
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is makes two Errors equal when code and reason are, so that errors.Is works
// against the sentinels below.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Reason == e.Reason
}

// The refusals that callers branch on.
var (
	ErrNotFound    = Errorf(NotFound, ReasonNotFound, "no such job")
	ErrStale       = Errorf(FailedPrecondition, ReasonStaleToken, "the lease has gone: its token is stale")
	ErrSessionLost = Errorf(FailedPrecondition, ReasonSessionLost, "the session is dead or unknown: open a new one")
	ErrBusy        = Errorf(Aborted, ReasonBusy, "the job is locked by another transaction: try again")
	ErrUnknown     = Errorf(Unknown, ReasonUnknownOutcome, "the outcome is unknown: repeat with the same ids")
)

// CodeOf returns the code of err: that of the *Error in its chain, or Internal.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// ReasonOf returns the reason of the *Error in err's chain, or "".
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}
