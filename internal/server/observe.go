package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/errandhq/errand/internal/api"
	"github.com/errandhq/errand/internal/auth"
	"github.com/errandhq/errand/job"
)

// requestIDHeader names a call, for whoever compares a client's log with ours.
const requestIDHeader = "X-Request-Id"

// record gathers what the access log tells of one request.
type record struct {
	requestID string
	caller    string
	outcome   string // a code's name
}

type recordKey struct{}

// observe gives each request its id and writes the access log, at debug.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &record{requestID: r.Header.Get(requestIDHeader)}
		if !plainID(rec.requestID) {
			rec.requestID = api.NewRequestID()
		}
		w.Header().Set(requestIDHeader, rec.requestID)
		start := time.Now()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), recordKey{}, rec)))
		if s.log.Enabled(r.Context(), slog.LevelDebug) {
			s.log.Debug("request", "path", r.URL.Path, "proto", r.Proto, "remote", r.RemoteAddr, "caller", rec.caller,
				"outcome", rec.outcome, "request_id", rec.requestID, "took", time.Since(start))
		}
	})
}

// plainID accepts a caller's own request id if it can go into any log.
func plainID(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

// admit decides, before a message is read, who calls and whether they may.
func (s *Server) admit(ctx context.Context, spec connect.Spec, _ connect.Peer, h http.Header) (context.Context, error) {
	rec, ok := ctx.Value(recordKey{}).(*record)
	if !ok {
		rec = &record{requestID: api.NewRequestID()}
	}
	// Without tokens everyone is the operator, and idempotency keys have one scope.
	caller := auth.Caller{Role: auth.Operator}
	if s.tokens != nil {
		var err error
		if caller, err = s.tokens.Authenticate(h.Get("Authorization")); err == nil {
			rec.caller = caller.Name
			err = caller.Authorize(spec.Procedure)
		}
		if err != nil {
			rec.outcome = connect.Code(job.CodeOf(err)).String()
			return ctx, refuse(err)
		}
	}
	call := api.Call{Caller: caller.Name, Role: caller.Role.String(), RequestID: rec.requestID, Trace: h.Get("Traceparent")}
	if call.Trace != "" {
		call.TraceState = strings.Join(h.Values("Tracestate"), ",") // it may come in several
	}
	return api.WithCall(ctx, call), nil
}

// refuse makes the wire's error of auth's.
func refuse(err error) error {
	var e *job.Error
	if !errors.As(err, &e) {
		return connect.NewError(connect.CodeInternal, errors.New("internal error"))
	}
	return api.Error(e)
}

// noteOutcome tells the access log how a call ended.
type noteOutcome struct{}

// WrapUnary implements connect.Interceptor.
func (noteOutcome) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		resp, err := next(ctx, r)
		note(ctx, err)
		return resp, err
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (noteOutcome) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (noteOutcome) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		err := next(ctx, c)
		note(ctx, err)
		return err
	}
}

func note(ctx context.Context, err error) {
	rec, ok := ctx.Value(recordKey{}).(*record)
	if !ok {
		return
	}
	rec.outcome = "ok"
	if err != nil {
		rec.outcome = connect.CodeOf(err).String()
	}
}

func stack() string { return string(debug.Stack()) }
