package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/job"
)

// errorDomain is the domain of every reason in a google.rpc.ErrorInfo.
const errorDomain = "errand"

// fail makes the wire's error of err, which ended the call named. A refusal
// keeps its words; what may speak of our insides (a driver's words, a path, an
// address) goes to the log under the request's id, and the caller gets the id.
func (s *Service) fail(ctx context.Context, call string, err error) error {
	code, p := s.describe(ctx, call, err)
	return wireError(code, p)
}

// problem is fail for one item of a call that went well; nil for nil.
func (s *Service) problem(ctx context.Context, call string, err error) *errandv1.Problem {
	if err == nil {
		return nil
	}
	_, p := s.describe(ctx, call, err)
	return p
}

func (s *Service) describe(ctx context.Context, call string, err error) (connect.Code, *errandv1.Problem) {
	var e *job.Error
	switch {
	case errors.As(err, &e) && !opaque(e):
		return refusal(err, e)
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return plain(connect.CodeCanceled, "", "the call was cancelled")
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil:
		return plain(connect.CodeDeadlineExceeded, "", "the call's deadline has passed")
	}
	c := CallFrom(ctx)
	s.log.ErrorContext(ctx, "call failed", "call", call, "request_id", c.RequestID, "caller", c.Caller, "error", err)
	if e == nil {
		return plain(connect.CodeInternal, "", fmt.Sprintf("internal error; the server's log has it as request %s", c.RequestID))
	}
	return plain(connect.Code(e.Code), e.Reason, fmt.Sprintf("%s; the server's log has it as request %s", publicText(e), c.RequestID))
}

// opaque reports whether the words of e may hold what is not for callers:
// trouble of ours, with a cause.
func opaque(e *job.Error) bool {
	switch e.Code {
	case job.Unavailable, job.Unknown, job.Internal:
		return e.Err != nil
	default:
		return false
	}
}

// publicText says for callers what an opaque error means for them.
func publicText(e *job.Error) string {
	switch e.Reason {
	case job.ReasonLedgerDown:
		return "the ledger cannot be reached: nothing was changed, try again"
	case job.ReasonUnknownOutcome:
		return "the outcome is unknown: repeat with the same ids"
	case job.ReasonShuttingDown:
		return "the server is shutting down: try another"
	}
	if e.Code == job.Unavailable {
		return "the server cannot serve at present: try again"
	}
	return "internal error"
}

// refusal keeps an error's own words; of bad input also those of the errors
// around it, which say where it was.
func refusal(err error, e *job.Error) (connect.Code, *errandv1.Problem) {
	text := e.Message
	if e.Code == job.InvalidArgument {
		text = err.Error()
	}
	code, p := plain(connect.Code(e.Code), e.Reason, text)
	if !e.Holder.IsZero() {
		p.HolderId = e.Holder.String()
	}
	return code, p
}

func plain(code connect.Code, r job.Reason, text string) (connect.Code, *errandv1.Problem) {
	return code, &errandv1.Problem{Code: code.String(), Reason: string(r), Message: text}
}

// wireError puts the reason into two details: Errand's own Problem, which needs
// no other contract, and google.rpc.ErrorInfo, which tools of gRPC know.
func wireError(code connect.Code, p *errandv1.Problem) error {
	err := connect.NewError(code, errors.New(p.GetMessage()))
	if p.GetReason() == "" {
		return err
	}
	info := &errdetails.ErrorInfo{Reason: p.GetReason(), Domain: errorDomain}
	if p.GetHolderId() != "" {
		info.Metadata = map[string]string{"holder": p.GetHolderId()}
	}
	for _, m := range []proto.Message{p, info} {
		if d, derr := connect.NewErrorDetail(m); derr == nil {
			err.AddDetail(d)
		}
	}
	return err
}

// Error makes the wire's error of a refusal that was decided before the call
// reached a Service, such as that of a token.
func Error(e *job.Error) error { return wireError(refusal(e, e)) }

// badField refuses a field of a request. field is its path, as in items[3].delay.
func badField(field, format string, args ...any) error {
	return job.Errorf(job.InvalidArgument, job.ReasonBadField, "%s: %s", field, fmt.Sprintf(format, args...))
}

func tooLarge(field, format string, args ...any) error {
	return job.Errorf(job.InvalidArgument, job.ReasonTooLarge, "%s: %s", field, fmt.Sprintf(format, args...))
}
