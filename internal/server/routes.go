package server

import (
	"context"
	"fmt"
	"net/http"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	"github.com/errandhq/errand/gen/errand/v1/errandv1connect"
	"github.com/errandhq/errand/gen/keda/externalscaler/externalscalerconnect"
	"github.com/errandhq/errand/internal/api"
	"github.com/errandhq/errand/internal/auth"
)

// compressFrom is the size from which answers are compressed for who asks for it:
// a short one takes longer to compress than to send.
const compressFrom = 4 << 10

// routes lists all that the server answers to.
func (s *Server) routes(svc *api.Service) http.Handler {
	mux := http.NewServeMux()
	options := []connect.HandlerOption{
		withStrictJSON(),
		connect.WithCompressMinBytes(compressFrom),
		connect.WithReadMaxBytes(svc.ReadMaxBytes()),
		connect.WithRequestGate(s.admit),
		connect.WithInterceptors(append([]connect.Interceptor{noteOutcome{}}, s.conf.Interceptors...)...),
		connect.WithRecover(s.recovered),
	}
	mux.Handle(errandv1connect.NewQueueServiceHandler(svc, options...))
	path, watch := errandv1connect.NewWatchServiceHandler(svc.WatchHandler(), options...)
	mux.Handle(path, withoutEnd(watch))
	mux.Handle(externalScaler(svc, options...))
	mux.Handle("GET "+auth.Scaling, s.scaling(svc))
	reflector := grpcreflect.NewStaticReflector(errandv1connect.QueueServiceName, errandv1connect.WatchServiceName,
		externalscalerconnect.ExternalScalerName, grpchealth.HealthV1ServiceName)
	mux.Handle(grpcreflect.NewHandlerV1(reflector, options...))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, options...))
	// Health is for balancers, which have no token.
	mux.Handle(grpchealth.NewHandler(health{s}))
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	if s.conf.Metrics != nil && s.metrics == nil {
		mux.Handle("GET "+auth.Metrics, s.forMonitors(s.conf.Metrics))
	}

	var h http.Handler = mux
	if s.tokens == nil {
		h = guardLocal(h)
	}
	return s.observe(h)
}

// recovered answers a call whose handler panicked. The stack goes to the log.
func (s *Server) recovered(ctx context.Context, spec connect.Spec, _ http.Header, p any) error {
	c := api.CallFrom(ctx)
	s.log.ErrorContext(ctx, "call panicked", "call", spec.Procedure, "request_id", c.RequestID, "panic", p, "stack", stack())
	return connect.NewError(connect.CodeInternal,
		fmt.Errorf("internal error; the server's log has it as request %s", c.RequestID))
}

// healthz answers as long as the process does: it is for restarting one that hangs.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	say(w, http.StatusOK, "ok")
}

// readyz says whether this server should be sent calls. Why not is in the log:
// anyone may ask.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	switch err := s.ready(r.Context()); {
	case s.draining.Load():
		say(w, http.StatusServiceUnavailable, "draining")
	case err != nil:
		s.log.Warn("not ready", "error", err)
		say(w, http.StatusServiceUnavailable, "not ready")
	default:
		say(w, http.StatusOK, "ready")
	}
}

func (s *Server) ready(ctx context.Context) error {
	if s.draining.Load() {
		return fmt.Errorf("draining")
	}
	return s.engine.Ready(ctx)
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, text) // the caller has gone: nobody to tell
}

// health answers grpc.health.v1 as readyz does.
type health struct{ s *Server }

// Check implements grpchealth.Checker, for the whole server and for its services.
func (h health) Check(ctx context.Context, r *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if r.Service != "" && r.Service != errandv1connect.QueueServiceName && r.Service != errandv1connect.WatchServiceName &&
		r.Service != externalscalerconnect.ExternalScalerName {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("unknown service %q", r.Service))
	}
	status := grpchealth.StatusServing
	if h.s.ready(ctx) != nil {
		status = grpchealth.StatusNotServing
	}
	return &grpchealth.CheckResponse{Status: status}, nil
}
