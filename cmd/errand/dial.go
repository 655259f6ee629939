package main

import (
	"context"
	"log/slog"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/otlp"
)

// How long calls are retried while no server can be reached: a person at a
// terminal wants to know soon, a long import or a worker outlives a restart.
const (
	retryBriefly = 2 * time.Second
	retryLong    = 2 * time.Minute
)

// dial returns a client of the server that the flags name. It makes no
// connection yet.
func (a *app) dial(retryFor time.Duration) (*errand.Client, error) {
	opts := []errand.DialOption{errand.WithRetryFor(retryFor)}
	if a.tokenFile != "" {
		opts = append(opts, errand.WithTokenFile(a.tokenFile))
	}
	if a.ca != "" {
		opts = append(opts, errand.WithCA(a.ca))
	}
	c, err := errand.Dial(a.server, opts...)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	return c, nil
}

// instrument makes a client tell what it does to whom the environment names.
// The providers are closed when its last worker has ended.
func instrument(ctx context.Context, c *errand.Client, log *slog.Logger) (*otlp.Providers, error) {
	p, err := otlp.FromEnv(ctx, thisVersion().Version, log)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	return p, c.Instrument(p.Tracer, p.Meter)
}

// withClient runs fn with a client for a few short calls.
func (a *app) withClient(fn func(c *errand.Client) error) error {
	c, err := a.dial(retryBriefly)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return fn(c)
}

// patientClient returns a client that outlives a restart of the server, once
// it has found that there is a server and what it says of itself.
func (a *app) patientClient(ctx context.Context) (*errand.Client, errand.ServerInfo, error) {
	var info errand.ServerInfo
	err := a.withClient(func(c *errand.Client) (err error) {
		info, err = c.ServerInfo(ctx)
		return err
	})
	if err != nil {
		return nil, info, err
	}
	c, err := a.dial(retryLong)
	return c, info, err
}
