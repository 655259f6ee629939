package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/bench"
	"github.com/errandhq/errand/internal/config"
	"github.com/errandhq/errand/job"
)

// benchTarget is what a run puts under load.
type benchTarget struct {
	open        func(ctx context.Context, scenario string) (bench.System, error)
	throwaway   bool // its jobs are gone with it
	pin         func(ctx context.Context) (release func() error, err error)
	environment benchEnvironment
}

// benchEnvironment is where the figures were taken, without which they say nothing.
type benchEnvironment struct {
	Version  string        `json:"version"`
	Commit   string        `json:"commit"`
	Go       string        `json:"go"`
	Platform string        `json:"platform"`
	CPU      string        `json:"cpu"`
	Cores    int           `json:"cores"`
	Ledger   string        `json:"ledger"` // sqlite or postgres
	Target   string        `json:"target"` // address of the ledger or server
	Broker   string        `json:"broker"` // rabbitmq or kafka; empty: leased directly
	Cache    string        `json:"cache"`  // memory, redis or none
	Server   string        `json:"server"` // version of the server; empty: in process
	Settings benchSettings `json:"settings"`
}

type benchSettings struct {
	Jobs            int     `json:"jobs"`
	Payload         int     `json:"payload"`
	Producers       int     `json:"producers"`
	Workers         int     `json:"workers"`
	Concurrency     int     `json:"concurrency"`
	Rate            float64 `json:"rate"` // zero: the scenario's own
	DurationSeconds float64 `json:"duration_seconds"`
}

// newBenchTarget finds out what the flags name, and that it is there.
func (a *app) newBenchTarget(ctx context.Context, b *benchFlags) (*benchTarget, error) {
	v, p := thisVersion(), b.plan
	t := &benchTarget{environment: benchEnvironment{
		Version: v.Version, Commit: v.Commit, Go: v.Go, Platform: v.Platform, CPU: bench.CPUModel(), Cores: runtime.NumCPU(),
		Settings: benchSettings{
			Jobs: p.Jobs, Payload: p.Payload, Producers: p.Producers, Workers: p.Workers, Concurrency: p.Concurrency,
			Rate: p.Rate, DurationSeconds: p.Duration.Seconds(),
		},
	}}
	log := slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	run, _, _ := strings.Cut(errand.NewID().String(), "-")
	of := func(scenario string) *bench.Errand {
		return &bench.Errand{Queue: "bench-" + run + "-" + scenario, Plan: b.plan, Logger: log}
	}
	conf, addr, err := b.settings()
	switch {
	case err != nil:
		return nil, usageError("--%w", err)
	case b.server:
		return t, a.benchServer(ctx, t, of)
	}
	t.environment.Ledger, t.environment.Target, t.environment.Cache = addr.Engine, addr.String(), conf.CacheKind()
	brokers, _ := conf.BrokerAddresses() // settings has checked them
	for _, one := range brokers {
		t.environment.Broker = one.Carrier
	}
	if b.ledger == "" {
		benchTemporary(t, conf, of, log)
		return t, nil
	}
	return t, benchLedger(ctx, t, conf, addr, of, log)
}

// benchServer aims at the server of --server.
func (a *app) benchServer(ctx context.Context, t *benchTarget, of func(string) *bench.Errand) error {
	c, info, err := a.patientClient(ctx)
	if err != nil {
		return err
	}
	t.environment.Ledger, t.environment.Target, t.environment.Server = info.Ledger, a.server, info.Version
	t.environment.Cache = info.Cache
	t.open = func(_ context.Context, scenario string) (_ bench.System, err error) {
		e := of(scenario)
		// Connections of their own, as producers and workers have that are
		// processes of their own.
		if e.Producer, err = a.dial(retryBriefly); err != nil {
			return nil, err
		}
		if e.Worker, err = a.dial(retryBriefly); err != nil {
			return nil, errors.Join(err, e.Producer.Close())
		}
		return e, nil
	}
	return c.Close()
}

// benchTemporary aims at a SQLite file that each scenario has for itself.
func benchTemporary(t *benchTarget, conf config.Server, of func(string) *bench.Errand, log *slog.Logger) {
	t.throwaway = true
	t.environment.Target = "a temporary file"
	t.open = func(ctx context.Context, scenario string) (bench.System, error) {
		dir, err := os.MkdirTemp("", "errand-bench-")
		if err != nil {
			return nil, err
		}
		e := of(scenario)
		e.OnClose = func() error { return os.RemoveAll(dir) }
		own := conf
		own.Data = dir
		n, err := openNode(ctx, own, log)
		if err != nil {
			return nil, errors.Join(err, e.OnClose())
		}
		e.Producer = n.client()
		e.Worker = e.Producer
		return e, nil
	}
}

// benchLedger aims at a ledger that is somebody's: nothing in it is dropped that
// its own servers would keep.
func benchLedger(ctx context.Context, t *benchTarget, conf config.Server, addr config.Ledger, of func(string) *bench.Errand, log *slog.Logger) error {
	if err := benchSchema(ctx, addr); err != nil {
		return err
	}
	conf.ArchiveKeep, conf.IdempotencyKeep = job.MaxDelay, job.MaxDelay
	t.open = func(ctx context.Context, scenario string) (bench.System, error) {
		n, err := openNode(ctx, conf, log)
		if err != nil {
			return nil, err
		}
		e := of(scenario)
		e.Producer = n.client()
		e.Worker = e.Producer
		return e, nil
	}
	if addr.Engine == config.Postgres {
		t.pin = func(ctx context.Context) (func() error, error) { return pinLedger(ctx, addr) }
	}
	return nil
}

// benchSchema refuses a ledger in use whose schema the load would change: an
// empty one is filled, and one that is up to date stays as it is.
func benchSchema(ctx context.Context, addr config.Ledger) error {
	steps, err := ledgerStatus(ctx, addr)
	if err != nil {
		return fmt.Errorf("ledger %s: %w", addr, err)
	}
	applied, pending := 0, 0
	for _, s := range steps {
		if s.AppliedAt == nil {
			pending++
		} else {
			applied++
		}
	}
	if applied > 0 && pending > 0 {
		return refused("ledger %s has %d migrations pending, and is in use: run 'errand migrate up' first", addr, pending)
	}
	return nil
}
