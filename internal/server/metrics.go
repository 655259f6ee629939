package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"connectrpc.com/connect"

	"github.com/errandhq/errand/internal/auth"
	"github.com/errandhq/errand/job"
)

// metricsServer serves the metrics on an address of their own, as monitoring
// systems like it: plain HTTP without tokens, where a network policy says who may
// come. Names of queues and kinds are all that can be learnt there.
type metricsServer struct {
	listener net.Listener
	http     *http.Server
}

func (s *Server) listenMetrics() (*metricsServer, error) {
	l, err := net.Listen("tcp", s.conf.MetricsListen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s for metrics: %w", s.conf.MetricsListen, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+auth.Metrics, s.conf.Metrics)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	var h http.Handler = mux
	if isLoopback(l.Addr()) {
		h = guardLocal(h)
	}
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return &metricsServer{listener: l, http: srv}, nil
}

// run serves until stop, and tells failed of an end before that.
func (m *metricsServer) run(failed chan<- error) {
	if err := m.http.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
		failed <- fmt.Errorf("metrics: %w", err)
	}
}

func (m *metricsServer) stop() { _ = m.http.Close() } // nothing is lost but a scrape

// MetricsAddr is where the metrics are served: of their own address, or with
// everything else; nil if nowhere.
func (s *Server) MetricsAddr() net.Addr {
	switch {
	case s.conf.Metrics == nil:
		return nil
	case s.metrics != nil:
		return s.metrics.listener.Addr()
	}
	return s.Addr()
}

// forMonitors lets through who may see metrics.
func (s *Server) forMonitors(next http.Handler) http.Handler {
	if s.tokens == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := s.tokens.Authenticate(r.Header.Get("Authorization"))
		if err == nil {
			err = caller.Authorize(auth.Metrics)
		}
		if rec, ok := r.Context().Value(recordKey{}).(*record); ok {
			rec.caller, rec.outcome = caller.Name, "ok"
			if err != nil {
				rec.outcome = connect.Code(job.CodeOf(err)).String()
			}
		}
		switch {
		case err == nil:
			next.ServeHTTP(w, r)
		case job.CodeOf(err) == job.PermissionDenied:
			say(w, http.StatusForbidden, err.Error())
		default:
			w.Header().Set("WWW-Authenticate", "Bearer")
			say(w, http.StatusUnauthorized, err.Error())
		}
	})
}
