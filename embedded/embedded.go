// Package embedded runs Errand inside the caller's process: the same rules on
// the same ledgers, by direct calls, with no server to start and nothing on the
// network. What is written against the *errand.Client that Open returns runs
// unchanged against a server later: only Open becomes errand.Dial.
//
// A SQLite file belongs to one process at a time. A PostgreSQL database may be
// shared by any number of processes, embedded or servers, all alike.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/api"
	"github.com/errandhq/errand/internal/config"
	"github.com/errandhq/errand/internal/drivers"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/internal/metrics"
	"github.com/errandhq/errand/internal/tracing"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Config sets an embedded Errand. Ledger or Path is needed; every other zero
// value means the default.
type Config struct {
	Ledger string // sqlite:PATH or postgres://…
	Path   string // short for Ledger "sqlite:" + Path
	Cache  string // of job states: memory (the default), none, or a Redis that processes share, redis://… or rediss://…

	// Brokers carry refs of ready jobs between the processes of one PostgreSQL:
	// amqp://…, kafka://HOST,HOST…, at most one of each kind. None of them need be
	// reachable at Open; jobs go on without them.
	Brokers []string
	// DefaultRoute is the route of queues without one of their own: "direct",
	// "rabbitmq" or "kafka". Empty: the broker, if exactly one is named, else direct.
	DefaultRoute string

	SessionTTL      time.Duration    // 30 s: a worker not heard of for so long is dead
	PollInterval    time.Duration    // 500 ms: how late new work of other processes is noticed, at worst
	MaxPayload      int              // 1 MiB, in bytes
	MaxDepth        map[string]int64 // no bound: scheduled and ready jobs a queue; "*" for all others
	CacheTTL        time.Duration    // 5 min: how long the cache keeps final states
	CrashLimit      int              // 3: crashes that make a job dead
	BackoffBase     time.Duration    // 1 s: ceiling of the delay before the second attempt
	BackoffCap      time.Duration    // 1 h: no retry waits longer
	ArchiveKeep     time.Duration    // 24 h: how long succeeded and cancelled jobs are kept
	DeadKeep        time.Duration    // for ever: how long dead letters are kept
	IdempotencyKeep time.Duration    // 24 h: how long idempotency keys are kept
	Logger          *slog.Logger     // discards

	// TracerProvider and MeterProvider, of which either may be nil, hear of
	// enqueues, waits and attempts: see errand.Client.Instrument.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider

	// Registerer, unless it is nil, is given the metrics that a server has at /metrics
	// (docs/observability.md), until the client's Close. Several engines of one
	// process need labels to tell them apart, by prometheus.WrapRegistererWith.
	Registerer prometheus.Registerer
}

// Open opens the ledger, which is made or brought up to date as needed, and
// starts an engine on it. The engine runs until the client's Close, which
// answers the calls under way, stops the engine and closes the ledger: stop
// workers first. ctx bounds Open alone.
//
// Errors are *errand.Error: ReasonLedgerLocked if another process has the
// SQLite file, ReasonLedgerDown if PostgreSQL cannot be reached, InvalidArgument
// for a setting out of its bounds.
func Open(ctx context.Context, c Config) (*errand.Client, error) {
	settings, addr, err := c.settings()
	if err != nil {
		return nil, &errand.Error{Code: errand.CodeInvalidArgument, Reason: errand.Reason(job.ReasonBadField), Message: err.Error(), Err: err}
	}
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	parts, err := drivers.Open(ctx, settings, log)
	if err != nil {
		return nil, openError(err)
	}
	conf := settings.Engine(log)
	conf.Brokers, conf.Cache = parts.Brokers, parts.Cache
	if c.TracerProvider != nil {
		conf.Observers = append(conf.Observers, tracing.NewWaits(c.TracerProvider))
	}
	e, unregister, err := c.newEngine(parts.Ledger, addr.Engine, conf)
	if err != nil {
		return nil, errors.Join(err, parts.Close())
	}
	svc := api.New(e, api.Config{
		Version: errand.Version, Ledger: addr.Engine, Brokers: slices.Sorted(maps.Keys(parts.Brokers)),
		Cache: settings.CacheKind(), MaxPayload: int(settings.MaxPayload), Logger: log,
	})
	in := start(e, svc, func() error {
		unregister()
		return parts.Close()
	})
	client := errand.NewClient(in, in.close)
	if err := client.Instrument(c.TracerProvider, c.MeterProvider); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return client, nil
}

// newEngine returns an engine on l, measured if that is wanted, and what makes
// the registry forget its metrics.
func (c Config) newEngine(l ledger.Ledger, name string, conf engine.Config) (e *engine.Engine, unregister func(), err error) {
	if c.Registerer == nil {
		return engine.New(l, conf), func() {}, nil
	}
	m := metrics.New(metrics.Config{Version: errand.Version, Ledger: name})
	m.Examine(l)
	conf.Observers = append(conf.Observers, m)
	e = engine.New(m.Time(l), conf)
	m.Attach(e)
	all := m.Collector()
	if err := c.Registerer.Register(all); err != nil {
		return nil, nil, &errand.Error{
			Code: errand.CodeInvalidArgument, Reason: errand.Reason(job.ReasonBadField),
			Message: fmt.Sprintf("the field Registerer: %v", err), Err: err,
		}
	}
	return e, func() { c.Registerer.Unregister(all) }, nil
}

// settings checks c as the settings of a server are checked.
func (c Config) settings() (config.Server, config.Ledger, error) {
	s := config.Default()
	s.Ledger = c.Ledger
	if c.Path != "" {
		if c.Ledger != "" {
			return s, config.Ledger{}, fmt.Errorf("the fields Ledger and Path are both set: set one of the two")
		}
		s.Ledger = config.SQLite + ":" + c.Path
	}
	if s.Ledger == "" {
		return s, config.Ledger{}, fmt.Errorf("no ledger is named: set Path to a file's name, or Ledger")
	}
	for to, from := range map[*time.Duration]time.Duration{
		&s.SessionTTL: c.SessionTTL, &s.PollInterval: c.PollInterval,
		&s.CacheTTL: c.CacheTTL, &s.BackoffBase: c.BackoffBase, &s.BackoffCap: c.BackoffCap,
		&s.ArchiveKeep: c.ArchiveKeep, &s.DeadKeep: c.DeadKeep, &s.IdempotencyKeep: c.IdempotencyKeep,
	} {
		if from != 0 {
			*to = from
		}
	}
	if c.MaxPayload != 0 {
		s.MaxPayload = config.Size(c.MaxPayload)
	}
	if c.CrashLimit != 0 {
		s.CrashLimit = c.CrashLimit
	}
	if c.Cache != "" {
		s.Cache = c.Cache
	}
	s.MaxDepth, s.Broker, s.DefaultRoute = c.MaxDepth, c.Brokers, c.DefaultRoute
	if err := s.Check(); err != nil {
		return s, config.Ledger{}, err
	}
	addr, err := s.LedgerAddress()
	return s, addr, err
}

// openError speaks to the program's author, who may see what went wrong, but
// not the address's password.
func openError(err error) error {
	return &errand.Error{
		Code: errand.Code(job.CodeOf(err)), Reason: errand.Reason(job.ReasonOf(err)),
		Message: fmt.Sprintf("open %v", err), Err: err,
	}
}

// start runs the engine until the service's close, which calls free last.
func start(e *engine.Engine, svc *api.Service, free func() error) *service {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	s := &service{api: svc}
	s.close = sync.OnceValue(func() error {
		s.shut()
		e.Drain()
		s.calls.Wait()
		stop()
		return errors.Join(<-ended, free())
	})
	return s
}
