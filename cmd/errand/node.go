package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"

	"github.com/errandhq/errand/internal/api"
	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/config"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/internal/server"
	"github.com/errandhq/errand/ledger"
)

// node is a server with everything under it: what serve and dev run.
type node struct {
	ledger  ledger.Ledger
	cache   cache.Cache // nil: none
	engine  *engine.Engine
	service *api.Service
	server  *server.Server
}

// newNode opens the ledger and listens. Nothing is served yet; run does that,
// or close frees it.
func newNode(ctx context.Context, conf config.Server, log *slog.Logger) (*node, error) {
	addr, err := conf.LedgerAddress()
	if err != nil {
		return nil, usageError("%w", err)
	}
	if conf.Ledger == "" {
		if err := os.MkdirAll(conf.Data, 0o700); err != nil {
			return nil, fmt.Errorf("data directory: %w", err)
		}
	}
	l, err := openLedger(ctx, addr, conf, log)
	if err != nil {
		return nil, fmt.Errorf("ledger %s: %w", addr, err)
	}
	n := &node{ledger: l}
	if n.cache, err = openCache(ctx, conf, l); err != nil {
		return nil, errors.Join(&exitError{code: exitUsage, err: fmt.Errorf("cache: %w", err)}, l.Close())
	}
	settings := conf.Engine(log)
	settings.Cache = n.cache
	n.engine = engine.New(l, settings)
	n.service = api.New(n.engine, api.Config{
		Version: thisVersion().Version, Ledger: addr.Engine, Cache: conf.CacheKind(), MaxPayload: int(conf.MaxPayload), Logger: log,
	})
	n.server, err = server.New(n.service, n.engine, server.Config{
		Listen: conf.Listen, TokenFile: conf.AuthTokenFile, TLSCert: conf.TLSCert, TLSKey: conf.TLSKey,
		TLSInFront: conf.TLSInFront, DrainDelay: conf.DrainDelay, Grace: conf.Grace, Logger: log,
	})
	if err != nil {
		return nil, errors.Join(serverError(err), n.closeParts())
	}
	return n, nil
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
// then the ledger and the cache.
func (n *node) run(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- n.engine.Run(running) }()
	err := n.server.Run(ctx)
	stop()
	return errors.Join(err, <-ended, n.closeParts())
}

// close frees a node that was never run.
func (n *node) close() error { return errors.Join(n.server.Close(), n.closeParts()) }

// closeParts closes what the engine stands on.
func (n *node) closeParts() error {
	err := n.ledger.Close()
	if n.cache != nil {
		err = errors.Join(err, n.cache.Close())
	}
	return err
}

// newLogger writes logs for people or for machines.
func newLogger(w io.Writer, conf config.Server) *slog.Logger {
	opts := &slog.HandlerOptions{Level: conf.Level()}
	if conf.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
