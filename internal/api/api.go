// Package api turns the calls of the wire contract into calls of the engine:
// it decodes and checks, calls, and encodes. What crosses from outside is
// checked here field by field; what a job may be is job.Validate's matter, and
// every rule is the engine's.
//
// A Service is served over HTTP by package server, and called directly by
// package embedded: its methods are those of the handler and of the client. WatchJobs, whose
// answer is a stream, is a plain loop here, and has a handler of its own.
package api

import (
	"context"
	"log/slog"

	"github.com/google/uuid"

	"github.com/errandhq/errand/gen/errand/v1/errandv1connect"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// Config sets a Service. The zero value is useful.
type Config struct {
	Version    string       // of the server, as GetServerInfo tells it
	Ledger     string       // "sqlite" or "postgres"
	Brokers    []string     // names of the carriers that the engine has
	Cache      string       // of its cache: "none" (the default), "memory" or "redis"
	MaxPayload int          // bytes; job.MaxPayload by default; the engine's own
	Logger     *slog.Logger // discards by default
}

// Service answers the calls of errand.v1.QueueService.
type Service struct {
	engine *engine.Engine
	conf   Config
	log    *slog.Logger
}

// A Service is the handler, and the client that needs no wire.
var (
	_ errandv1connect.QueueServiceHandler = (*Service)(nil)
	_ errandv1connect.QueueServiceClient  = (*Service)(nil)
)

// New returns a Service on e, which must be running before it is called.
func New(e *engine.Engine, c Config) *Service {
	if c.MaxPayload <= 0 {
		c.MaxPayload = job.MaxPayload
	}
	if c.Cache == "" {
		c.Cache = "none"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{engine: e, conf: c, log: c.Logger}
}

// maxMessage is what a message may have beside its payloads, in bytes: a
// thousand items with every field at its bound, or settlements with their
// errors and stacks.
const maxMessage = 12 << 20

// ReadMaxBytes is the bound on a request message: a batch of payloads, which
// JSON carries in base64, and everything else that the items may have.
func (s *Service) ReadMaxBytes() int { return s.maxBatchBytes()/3*4 + maxMessage }

// maxBatchBytes is the bound on the payloads of a call; one payload of the
// largest size always fits.
func (s *Service) maxBatchBytes() int { return max(job.MaxBatchBytes, s.conf.MaxPayload) }

// Call says who makes a call, and its name in the logs.
type Call struct {
	Caller    string // idempotency keys are scoped to it
	Role      string // as GetServerInfo tells it
	RequestID string
	// Trace and TraceState are the W3C traceparent and tracestate of the call
	// itself: those of jobs that have none.
	Trace, TraceState string
}

type callKey struct{}

// WithCall returns a context that carries c to the methods of a Service. A call
// without it has no caller's name, and every right.
func WithCall(ctx context.Context, c Call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// CallFrom returns what WithCall put in, with a request id in any case.
func CallFrom(ctx context.Context) Call {
	c := callOf(ctx)
	if c.RequestID == "" {
		c.RequestID = NewRequestID()
	}
	return c
}

// callOf is CallFrom for those who name the call to nobody: making an id takes
// longer than much of an enqueue.
func callOf(ctx context.Context) Call {
	c, ok := ctx.Value(callKey{}).(Call)
	if !ok {
		c.Role = "operator"
	}
	return c
}

// NewRequestID makes the name of a call.
func NewRequestID() string { return uuid.NewString() }
