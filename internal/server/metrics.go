package server

import (
	"net"
	"net/http"

	"connectrpc.com/connect"

	"github.com/errandhq/errand/internal/auth"
	"github.com/errandhq/errand/job"
)

// listenMetrics serves the metrics on an address of their own, as monitoring
// systems like it. Names of queues and kinds are all that can be learnt there.
func (s *Server) listenMetrics() (*sideServer, error) {
	return s.listenAside("metrics", s.conf.MetricsListen, func(mux *http.ServeMux) {
		mux.Handle("GET "+auth.Metrics, s.conf.Metrics)
	})
}

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
