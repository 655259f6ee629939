package errand

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// Why a handler's context ended: context.Cause(ctx) tells.
var (
	// ErrTimeout: the attempt's Timeout has passed.
	ErrTimeout = errors.New("errand: the job's timeout has passed")
	// ErrCancelled: somebody cancelled the job.
	ErrCancelled = errors.New("errand: the job was cancelled")
	// ErrLeaseLost: the job is, or may soon be, somebody else's. What the
	// handler does from now on may happen beside its successor.
	ErrLeaseLost = errors.New("errand: the lease is lost")
	// ErrShutdown: the worker's grace is nearly over.
	ErrShutdown = errors.New("errand: the worker is shutting down")
)

// verdict is what a handler asks for by the error it returns.
type verdict struct {
	outcome errandv1.Outcome
	delay   time.Duration
	err     error
}

// Error implements error.
func (v *verdict) Error() string {
	if v.err != nil {
		return v.err.Error()
	}
	if v.outcome == errandv1.Outcome_OUTCOME_SNOOZE {
		return "snooze for " + v.delay.String()
	}
	return "the handler gave no reason"
}

// Unwrap returns the handler's own error.
func (v *verdict) Unwrap() error { return v.err }

// Discard makes a handler's error final: the job becomes a dead letter, however
// many attempts are left.
func Discard(err error) error {
	return &verdict{outcome: errandv1.Outcome_OUTCOME_DISCARD, err: err}
}

// RetryIn makes a handler's error a failed attempt whose retry comes after d,
// instead of after the usual back-off.
func RetryIn(d time.Duration, err error) error {
	return &verdict{outcome: errandv1.Outcome_OUTCOME_FAIL, delay: max(d, time.Microsecond), err: err}
}

// Snooze runs the job again after d, and charges no attempt: nothing went wrong,
// it is only too early.
func Snooze(d time.Duration) error {
	return &verdict{outcome: errandv1.Outcome_OUTCOME_SNOOZE, delay: max(d, time.Microsecond)}
}

// The bounds on what a settlement carries, in bytes.
const (
	maxResult   = 256 << 10
	maxMessage  = 4 << 10
	maxStack    = 8 << 10
	maxProgress = 1 << 10
)

// settlementOf says what the handler's error means. An attempt that the
// worker itself broke off, to fence itself or to stop, is given back
// uncharged, unless the handler came to an end of its own all the same.
func settlementOf(ctx context.Context, timeout time.Duration, err error) *errandv1.Settlement {
	cause := context.Cause(ctx)
	broken := errors.Is(cause, ErrLeaseLost) || errors.Is(cause, ErrShutdown)
	var v *verdict
	asked := errors.As(err, &v)
	if broken && (!asked || v.outcome == errandv1.Outcome_OUTCOME_FAIL) {
		return &errandv1.Settlement{Outcome: errandv1.Outcome_OUTCOME_RELEASE}
	}
	st := &errandv1.Settlement{Outcome: errandv1.Outcome_OUTCOME_FAIL, Error: clipText(err.Error(), maxMessage)}
	if asked {
		st.Outcome, st.Delay = v.outcome, wireDuration(v.delay)
	}
	if errors.Is(cause, ErrTimeout) && !asked {
		st.Error = clipText(fmt.Sprintf("timed out after %s: %v", timeout, err), maxMessage)
	}
	return st
}

// panicked is the settlement of a handler that panicked with v.
func panicked(v any, stack []byte) *errandv1.Settlement {
	return &errandv1.Settlement{
		Outcome: errandv1.Outcome_OUTCOME_FAIL,
		Error:   clipText(fmt.Sprintf("panic: %v", v), maxMessage),
		Stack:   clipText(string(stack), maxStack),
	}
}

// clipText makes s fit for the wire: valid UTF-8, at most n bytes, its beginning.
func clipText(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
