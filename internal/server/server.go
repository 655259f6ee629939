// Package server puts the API on the network: one HTTP server that speaks gRPC,
// gRPC-Web and JSON on one port, says whether it is healthy and ready, knows its
// callers, and stops without losing a call.
//
// What it promises by default: nobody but programs of this machine can call it.
// A listen address that others can reach needs tokens and TLS, and a browser on
// this machine cannot be made to call it by a page from elsewhere (guard.go).
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/errandhq/errand/internal/api"
	"github.com/errandhq/errand/internal/auth"
	"github.com/errandhq/errand/internal/engine"
)

// Bounds of a connection. Long polls last at most a minute, so the times are
// longer than that: they end connections that nobody reads or writes.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 2 * time.Minute
	writeTimeout      = 3 * time.Minute
	idleTimeout       = 3 * time.Minute
	maxHeaderBytes    = 64 << 10
	maxStreams        = 1000 // calls at a time on one HTTP/2 connection
)

// DefaultListen is where a server listens unless told otherwise.
const DefaultListen = "127.0.0.1:7420"

// DefaultGrace is how long a stopping server waits for its calls.
const DefaultGrace = 30 * time.Second

// Config sets a Server. The zero value is a server on DefaultListen without
// tokens or TLS.
type Config struct {
	Listen     string        // host:port; port 0 takes a free one; DefaultListen by default
	TokenFile  string        // empty: every caller may do everything
	TLSCert    string        // files in PEM; both or none
	TLSKey     string        //
	TLSInFront bool          // a proxy in front ends TLS: tokens may come in the clear
	DrainDelay time.Duration // how long readiness is false before calls are turned away; none by default
	Grace      time.Duration // bound on the whole stop; DefaultGrace by default
	Logger     *slog.Logger  // discards by default

	// Metrics answers GET /metrics; nil: nobody does. With tokens it needs one
	// with role monitor, viewer or operator, unless MetricsListen is set: then it
	// has that address to itself, without tokens or TLS, and nothing but it
	// and the health checks is served there.
	Metrics       http.Handler
	MetricsListen string                // host:port; empty: with everything else
	Interceptors  []connect.Interceptor // around every call of the service

	// ScalerListen, if set, is host:port of an address on which KEDA's service is
	// served to callers without tokens, which KEDA has no way to send; it is served with
	// everything else in any case. It has TLS if the server has. ScalerClientCA is a
	// file of certificates (PEM) of which callers there must show one, or one issued by them.
	ScalerListen   string
	ScalerClientCA string
}

// Server is the HTTP server of one engine.
type Server struct {
	conf     Config
	engine   *engine.Engine
	log      *slog.Logger
	tokens   *auth.Tokens  // nil: no authentication
	certs    *certificates // nil: no TLS
	listener net.Listener
	http     *http.Server
	metrics  *sideServer // nil: not on an address of their own
	scaler   *sideServer // likewise
	draining atomic.Bool
	tasks    sync.WaitGroup // watchers of files
}

// New checks the configuration, reads the files it names and listens, so that
// all that is wrong is known before anything is served. It refuses an address
// that others can reach unless it is authenticated and encrypted. The engine
// must be running by the time that Run is called; it stays the caller's.
func New(svc *api.Service, e *engine.Engine, c Config) (*Server, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	s := &Server{conf: c, engine: e, log: c.Logger}
	var err error
	if c.TokenFile != "" {
		if s.tokens, err = auth.Load(c.TokenFile, c.Logger); err != nil {
			return nil, err
		}
	}
	if c.TLSCert != "" {
		if s.certs, err = loadCertificates(c.TLSCert, c.TLSKey, c.Logger); err != nil {
			return nil, err
		}
	}
	if s.listener, err = net.Listen("tcp", c.Listen); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", c.Listen, err)
	}
	if err := c.checkExposure(isLoopback(s.listener.Addr())); err != nil {
		return nil, errors.Join(err, s.listener.Close())
	}
	if err := s.listenAsides(svc); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.http = s.httpServer(s.routes(svc))
	if s.certs != nil {
		s.http.TLSConfig = s.certs.config()
	}
	return s, nil
}

// listenAsides opens the addresses beside the server's own.
func (s *Server) listenAsides(svc *api.Service) (err error) {
	if s.conf.Metrics != nil && s.conf.MetricsListen != "" {
		if s.metrics, err = s.listenMetrics(); err != nil {
			return err
		}
	}
	if s.conf.ScalerListen != "" {
		if s.scaler, err = s.listenScaler(svc); err != nil {
			return err
		}
	}
	return nil
}

// asides are the servers beside the server itself.
func (s *Server) asides() (list []*sideServer) {
	for _, one := range []*sideServer{s.metrics, s.scaler} {
		if one != nil {
			list = append(list, one)
		}
	}
	return list
}

// httpServer has the bounds, and speaks the protocols, that hold on every
// address. TLS is set where it is wanted.
func (s *Server) httpServer(h http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC without TLS
	return &http.Server{
		Handler: h, Protocols: protocols,
		ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// URL is the base address for clients on this machine.
func (s *Server) URL() string {
	scheme := "http"
	if s.certs != nil {
		scheme = "https"
	}
	return scheme + "://" + s.Addr().String()
}

// Run serves until ctx ends, and then stops as drain says. It returns nil after
// an orderly stop, even if calls had to be cut off, and the error that ended
// the server otherwise. It is called once.
func (s *Server) Run(ctx context.Context) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer s.tasks.Wait()
	defer cancel()
	s.http.BaseContext = func(net.Listener) context.Context { return base }
	s.watchFiles(base)

	served := make(chan error, 3)
	go func() { served <- s.serve() }()
	for _, one := range s.asides() {
		one.http.BaseContext = s.http.BaseContext
		defer one.stop()
		s.tasks.Go(func() { one.run(served) })
	}
	s.log.Info("serving", "address", s.URL(), "authentication", s.tokens != nil, "tls", s.certs != nil)
	select {
	case err := <-served:
		_ = s.http.Close() // the error before it is the one to tell
		return fmt.Errorf("serve on %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	s.drain(cancel)
	<-served // of the calls: what is beside them is served to the end
	s.log.Info("stopped serving")
	return nil
}

func (s *Server) serve() error {
	if s.certs != nil {
		return s.http.ServeTLS(s.listener, "", "")
	}
	return s.http.Serve(s.listener)
}

// Close frees the listener of a server that was never run.
func (s *Server) Close() error {
	err := s.listener.Close()
	for _, one := range s.asides() {
		err = errors.Join(err, one.listener.Close())
	}
	return err
}

// drain stops in an order that loses nothing: readiness turns false, so that
// balancers look elsewhere; after DrainDelay the engine answers all long polls
// and the server takes no new connection; calls under way end; what has
// not ended when the grace is over is cut off by cancel.
func (s *Server) drain(cancel context.CancelFunc) {
	grace, stop := context.WithTimeout(context.Background(), s.conf.Grace)
	defer stop()
	s.draining.Store(true)
	s.log.Info("draining: not ready any more", "delay", s.conf.DrainDelay, "grace", s.conf.Grace)
	delay := time.NewTimer(s.conf.DrainDelay)
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-grace.Done():
	}
	s.engine.Drain()
	if err := s.http.Shutdown(grace); err != nil {
		s.log.Warn("calls were cut off at the end of the grace", "error", err)
		cancel()
		_ = s.http.Close() // its error says no more than the warning
	}
}

// watchFiles takes up new tokens and certificates as they appear, and at SIGHUP.
func (s *Server) watchFiles(ctx context.Context) {
	watch := func(run func(context.Context, <-chan os.Signal)) {
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP)
		s.tasks.Go(func() {
			defer signal.Stop(hup)
			run(ctx, hup)
		})
	}
	if s.tokens != nil {
		watch(s.tokens.Watch)
	}
	if s.certs != nil {
		watch(s.certs.watch)
	}
}
