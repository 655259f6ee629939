package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/api"
	"github.com/errandhq/errand/internal/canary"
	"github.com/errandhq/errand/internal/config"
	"github.com/errandhq/errand/internal/drivers"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/internal/local"
	"github.com/errandhq/errand/internal/metrics"
	"github.com/errandhq/errand/internal/otlp"
	"github.com/errandhq/errand/internal/server"
	"github.com/errandhq/errand/internal/tracing"
	"github.com/errandhq/errand/ledger"
)

// node is a server with everything under it: what serve and dev run.
type node struct {
	parts   *drivers.Set
	engine  *engine.Engine
	service *api.Service
	server  *server.Server
	meters  *metrics.Metrics // nil: nothing is measured
	canary  *canary.Canaries // nil: none
	traces  *otlp.Providers
}

// newNode opens the parts and listens. Nothing is served yet; run does that,
// or close frees it.
func newNode(ctx context.Context, conf config.Server, log *slog.Logger) (*node, error) {
	n, err := openNode(ctx, conf, log)
	if err != nil {
		return nil, err
	}
	sc := server.Config{
		Listen: conf.Listen, TokenFile: conf.AuthTokenFile, TLSCert: conf.TLSCert, TLSKey: conf.TLSKey,
		TLSInFront: conf.TLSInFront, DrainDelay: conf.DrainDelay, Grace: conf.Grace, Logger: log,
		ScalerListen: conf.ScalerListen, ScalerClientCA: conf.ScalerClientCA,
	}
	if n.meters != nil {
		sc.Metrics, sc.MetricsListen = n.meters.Handler(), conf.MetricsListen
		sc.Interceptors = append(sc.Interceptors, n.meters.Calls())
	}
	if n.server, err = server.New(n.service, n.engine, sc); err != nil {
		return nil, errors.Join(serverError(err), n.closeParts())
	}
	if len(conf.Canary) > 0 {
		n.canary = canary.New(n.engine, errand.NewClient(n.service, nil), n.meters, conf.Canary, log)
	}
	return n, nil
}

// openNode opens the parts of a node that has no server.
func openNode(ctx context.Context, conf config.Server, log *slog.Logger) (*node, error) {
	addr, err := conf.LedgerAddress()
	if err != nil {
		return nil, usageError("%w", err)
	}
	if conf.Ledger == "" {
		if err := os.MkdirAll(conf.Data, 0o700); err != nil {
			return nil, fmt.Errorf("data directory: %w", err)
		}
	}
	parts, err := drivers.Open(ctx, conf, log)
	if err != nil {
		return nil, err
	}
	n := &node{parts: parts}
	if n.traces, err = otlp.FromEnv(ctx, thisVersion().Version, log); err != nil {
		return nil, errors.Join(&exitError{code: exitUsage, err: err}, n.closeParts())
	}
	settings, m := conf.Engine(log), newMetrics(conf, addr, parts.Ledger)
	settings.Brokers, settings.Cache = parts.Brokers, parts.Cache
	if n.traces.Tracer != nil {
		settings.Observers = append(settings.Observers, tracing.NewWaits(n.traces.Tracer))
	}
	if m == nil {
		n.engine = engine.New(parts.Ledger, settings)
	} else {
		settings.Observers = append(settings.Observers, m)
		n.engine = engine.New(m.Time(parts.Ledger), settings)
		m.Attach(n.engine)
	}
	n.service = api.New(n.engine, api.Config{
		Version: thisVersion().Version, Ledger: addr.Engine, Brokers: slices.Sorted(maps.Keys(parts.Brokers)),
		Cache: conf.CacheKind(), MaxPayload: int(conf.MaxPayload), Logger: log,
	})
	n.meters = m
	return n, nil
}

// newMetrics makes the metrics of a server on l, or nil if none are wanted.
func newMetrics(conf config.Server, addr config.Ledger, l ledger.Ledger) *metrics.Metrics {
	if !conf.Metrics {
		return nil
	}
	m := metrics.New(metrics.Config{Version: thisVersion().Version, Ledger: addr.Engine, Names: conf.MetricsNames})
	m.Examine(l)
	return m
}

// serverError tells a configuration that is refused from a machine that cannot
// do what it is told, such as a port in use.
func serverError(err error) error {
	var system *net.OpError
	var file *os.PathError
	if errors.As(err, &system) || errors.As(err, &file) {
		return err
	}
	return &exitError{code: exitUsage, err: err}
}

// run serves until ctx ends and then drains: first the calls, then the engine,
// then what it stood on.
func (n *node) run(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- n.engine.Run(running) }()
	flown := make(chan error, 1)
	flying, land := context.WithCancel(ctx)
	go func() { flown <- n.fly(flying) }()
	err := n.server.Run(ctx)
	land()
	err = errors.Join(err, <-flown)
	stop()
	return errors.Join(err, <-ended, n.closeParts())
}

// fly sends canaries until ctx ends, if there are any.
func (n *node) fly(ctx context.Context) error {
	if n.canary == nil {
		return nil
	}
	return n.canary.Run(ctx)
}

// client runs the engine of a node that has no server, and returns a client of it
// by direct calls, whose Close ends all of it.
func (n *node) client() *errand.Client {
	running, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.engine.Run(running) }()
	return errand.NewClient(local.Service{Service: n.service}, func() error {
		n.engine.Drain()
		stop()
		return errors.Join(<-ended, n.closeParts())
	})
}

// close frees a node that was never run.
func (n *node) close() error { return errors.Join(n.server.Close(), n.closeParts()) }

// closeParts closes what the engine stood on.
func (n *node) closeParts() error {
	err := n.parts.Close()
	if n.traces != nil {
		n.traces.Close()
	}
	return err
}
