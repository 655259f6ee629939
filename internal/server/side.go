package server

import (
	"errors"
	"fmt"
	"net"
	"net/http"
)

// sideServer serves something on an address of its own, without tokens: a
// network policy, or certificates of callers, say who may come.
type sideServer struct {
	name     string
	listener net.Listener
	http     *http.Server
}

// listenAside opens an address for what routes adds; the health checks are
// there too.
func (s *Server) listenAside(name, addr string, routes func(*http.ServeMux)) (*sideServer, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s for %s: %w", addr, name, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	routes(mux)
	var h http.Handler = mux
	if isLoopback(l.Addr()) {
		h = guardLocal(h)
	}
	return &sideServer{name: name, listener: l, http: s.httpServer(h)}, nil
}

// run serves until stop, and tells failed of an end before that.
func (a *sideServer) run(failed chan<- error) {
	serve := a.http.Serve
	if a.http.TLSConfig != nil {
		serve = func(l net.Listener) error { return a.http.ServeTLS(l, "", "") }
	}
	if err := serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
		failed <- fmt.Errorf("%s: %w", a.name, err)
	}
}

func (a *sideServer) stop() { _ = a.http.Close() } // nothing is lost but a question that will be asked again
