package errand

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// Code classifies an Error. The values are those of gRPC and Connect.
type Code = connect.Code

// The codes that Errand answers with.
const (
	CodeCanceled           = connect.CodeCanceled
	CodeUnknown            = connect.CodeUnknown
	CodeInvalidArgument    = connect.CodeInvalidArgument
	CodeDeadlineExceeded   = connect.CodeDeadlineExceeded
	CodeNotFound           = connect.CodeNotFound
	CodeAlreadyExists      = connect.CodeAlreadyExists
	CodePermissionDenied   = connect.CodePermissionDenied
	CodeResourceExhausted  = connect.CodeResourceExhausted
	CodeFailedPrecondition = connect.CodeFailedPrecondition
	CodeAborted            = connect.CodeAborted
	CodeInternal           = connect.CodeInternal
	CodeUnavailable        = connect.CodeUnavailable
	CodeUnauthenticated    = connect.CodeUnauthenticated
)

// Reason is the stable, machine-readable cause of an Error.
type Reason string

// The reasons a program may want to branch on; docs/protocol.md has them all.
const (
	ReasonBadID          Reason = "BAD_ID"
	ReasonBadField       Reason = "BAD_FIELD"
	ReasonTooLarge       Reason = "TOO_LARGE"
	ReasonNotFound       Reason = "JOB_NOT_FOUND"
	ReasonQueueNotFound  Reason = "QUEUE_NOT_FOUND"
	ReasonIDTaken        Reason = "ID_TAKEN"
	ReasonKeyReused      Reason = "IDEMPOTENCY_REUSED"
	ReasonUniqueHeld     Reason = "UNIQUE_KEY_HELD"
	ReasonKeyBusy        Reason = "UNIQUE_KEY_BUSY"
	ReasonQueueFull      Reason = "QUEUE_FULL"
	ReasonStaleToken     Reason = "STALE_TOKEN"
	ReasonSessionLost    Reason = "SESSION_LOST"
	ReasonBadTransition  Reason = "BAD_TRANSITION"
	ReasonBusy           Reason = "JOB_BUSY"
	ReasonLedgerDown     Reason = "LEDGER_UNAVAILABLE"
	ReasonUnknownOutcome Reason = "OUTCOME_UNKNOWN"
	ReasonShuttingDown   Reason = "SHUTTING_DOWN"
	ReasonLedgerLocked   Reason = "LEDGER_LOCKED"
)

// Error is the one error type of Errand's refusals; use errors.As to see its
// fields, and errors.Is with the sentinels below.
type Error struct {
	Code    Code
	Reason  Reason // "" where the error is not Errand's own, such as a refused connection
	Message string // for people
	Holder  ID     // the job in the way: of ReasonUniqueHeld, ReasonKeyReused, …
	IDs     []ID   // of ErrUnknown: the jobs whose fate is not known
	Err     error  // the cause, where there is one
}

// Error implements error.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code.String()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches by reason, or by code where target has no reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	if !ok {
		return false
	}
	if t.Reason != "" {
		return e.Reason == t.Reason
	}
	return e.Code == t.Code
}

// The errors that callers branch on, with errors.Is.
var (
	// ErrNotFound: no such job.
	ErrNotFound error = &Error{Code: CodeNotFound, Reason: ReasonNotFound, Message: "no such job"}
	// ErrUnknown: the enqueue may have happened, or not. Its Error has the IDs:
	// repeating the enqueue with them (WithID) is safe.
	ErrUnknown error = &Error{Code: CodeUnknown, Reason: ReasonUnknownOutcome, Message: "the outcome is unknown"}
	// ErrAlreadyExists: a unique key is held, or the id or idempotency key came
	// with other content before.
	ErrAlreadyExists error = &Error{Code: CodeAlreadyExists, Message: "already exists"}
	// ErrUniqueHeld: another job, Error.Holder, holds the unique key.
	ErrUniqueHeld error = &Error{Code: CodeAlreadyExists, Reason: ReasonUniqueHeld, Message: "the unique key is held"}
	// ErrQueueFull: the queue has reached its max_depth.
	ErrQueueFull error = &Error{Code: CodeResourceExhausted, Reason: ReasonQueueFull, Message: "the queue is full"}
	// ErrStale: the lease has gone to another holder, or has ended.
	ErrStale error = &Error{Code: CodeFailedPrecondition, Reason: ReasonStaleToken, Message: "the lease has gone"}
	// ErrSessionLost: the worker's session is dead or unknown.
	ErrSessionLost error = &Error{Code: CodeFailedPrecondition, Reason: ReasonSessionLost, Message: "the session is lost"}
	// ErrUnavailable: no server could be reached, or none could serve; nothing was changed.
	ErrUnavailable error = &Error{Code: CodeUnavailable, Message: "no server is available"}
)

// ErrorOf returns what an error says, whether it is a Client's or of a call of the
// Client's Service; nil for nil. Of an error that is neither the Code is CodeUnknown
// and the Reason empty.
func ErrorOf(err error) *Error {
	var e *Error
	_ = errors.As(fromWire(err), &e) // fromWire makes one of any error
	return e
}

// fromWire makes an *Error of what a call returned. The reason comes as a
// Problem among the error's details.
func fromWire(err error) error {
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		switch {
		case errors.Is(err, context.Canceled):
			return &Error{Code: CodeCanceled, Message: err.Error(), Err: err}
		case errors.Is(err, context.DeadlineExceeded):
			return &Error{Code: CodeDeadlineExceeded, Message: err.Error(), Err: err}
		}
		return &Error{Code: CodeUnknown, Message: err.Error(), Err: err}
	}
	e := &Error{Code: ce.Code(), Message: ce.Message(), Err: err}
	for _, d := range ce.Details() {
		v, derr := d.Value()
		if derr != nil {
			continue // a detail of a newer server
		}
		if p, ok := v.(*errandv1.Problem); ok {
			e.Reason, e.Holder = Reason(p.GetReason()), wireID(p.GetHolderId())
		}
	}
	return e
}

// fromProblem makes an *Error of an answer about one item, or nil.
func fromProblem(p *errandv1.Problem) error {
	if p == nil {
		return nil
	}
	e := &Error{Code: CodeUnknown, Reason: Reason(p.GetReason()), Message: p.GetMessage(), Holder: wireID(p.GetHolderId())}
	var c Code
	if err := c.UnmarshalText([]byte(p.GetCode())); err == nil {
		e.Code = c
	}
	return e
}

// unknownOutcome is ErrUnknown for these jobs, with the last try's error.
func unknownOutcome(ids []ID, cause error) error {
	return &Error{
		Code: CodeUnknown, Reason: ReasonUnknownOutcome, IDs: ids, Err: cause,
		Message: fmt.Sprintf("the outcome is unknown, repeating with the same ids is safe: %v", cause),
	}
}
