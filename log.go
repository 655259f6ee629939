package errand

import (
	"context"
	"log/slog"
)

type jobKey struct{}

// jobFrom returns the job of a handler's context, or nil.
func jobFrom(ctx context.Context) *RawJob {
	j, _ := ctx.Value(jobKey{}).(*RawJob)
	return j
}

func (j *RawJob) logAttrs() []slog.Attr {
	return []slog.Attr{
		slog.String("job", j.ID.String()), slog.String("kind", j.Kind),
		slog.String("queue", j.Queue), slog.Int("attempt", j.Attempt),
	}
}

// Logger returns the worker's logger with the job, kind, queue and attempt of
// the handler that ctx belongs to; slog.Default() outside of one.
func Logger(ctx context.Context) *slog.Logger {
	j := jobFrom(ctx)
	if j == nil || j.lease == nil {
		return slog.Default()
	}
	return slog.New(j.lease.s.r.log.Handler().WithAttrs(j.logAttrs()))
}

// LogHandler wraps a slog.Handler so that records logged with a handler's
// context (slog.InfoContext and the like) carry job, kind, queue and attempt.
func LogHandler(next slog.Handler) slog.Handler { return logHandler{next} }

type logHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	if j := jobFrom(ctx); j != nil {
		r = r.Clone()
		r.AddAttrs(j.logAttrs()...)
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h logHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(as)}
}

// WithGroup implements slog.Handler.
func (h logHandler) WithGroup(name string) slog.Handler { return logHandler{h.Handler.WithGroup(name)} }
