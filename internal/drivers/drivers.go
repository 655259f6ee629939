// Package drivers opens the parts that an engine stands on, by the addresses of
// a configuration. It alone knows which driver an address means; what only an
// operator asks of a driver, such as migrations, is in wire.go of the command.
package drivers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/broker/kafka"
	"github.com/errandhq/errand/broker/rabbitmq"
	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/cache/memory"
	"github.com/errandhq/errand/internal/cache/rediscache"
	"github.com/errandhq/errand/internal/config"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/postgres"
	"github.com/errandhq/errand/ledger/sqlite"
)

// Set is what an engine stands on.
type Set struct {
	Ledger  ledger.Ledger
	Brokers map[string]broker.Broker // by route
	Cache   cache.Cache              // nil: none
}

// Open opens all parts of a checked configuration. The ledger must be there;
// brokers and cache need not be reachable now: jobs go on without them. Errors name
// the part and its address, without its password.
func Open(ctx context.Context, conf config.Server, log *slog.Logger) (*Set, error) {
	addr, err := conf.LedgerAddress()
	if err != nil {
		return nil, invalid(err)
	}
	s := &Set{Brokers: map[string]broker.Broker{}}
	if s.Ledger, err = openLedger(ctx, addr, conf, log); err != nil {
		return nil, fmt.Errorf("ledger %s: %w", addr, err)
	}
	if err := s.openBrokers(ctx, conf, log); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.openCache(ctx, conf); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close closes all parts.
func (s *Set) Close() error {
	var errs []error
	for route, b := range s.Brokers {
		if err := b.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", route, err))
		}
	}
	errs = append(errs, s.Ledger.Close())
	if s.Cache != nil {
		errs = append(errs, s.Cache.Close())
	}
	return errors.Join(errs...)
}

func openLedger(ctx context.Context, addr config.Ledger, conf config.Server, log *slog.Logger) (ledger.Ledger, error) {
	if addr.Engine == config.Postgres {
		return postgres.Open(ctx, addr.DSN, postgres.Options{
			MaxConns: conf.LedgerConns, Migrate: postgres.MigrateMode(conf.Migrate), ListenDSN: conf.LedgerListen, Logger: log,
		})
	}
	return sqlite.Open(ctx, addr.Path, sqlite.Options{Migrate: sqlite.MigrateMode(conf.Migrate), Logger: log})
}

func (s *Set) openBrokers(ctx context.Context, conf config.Server, log *slog.Logger) error {
	addresses, err := conf.BrokerAddresses()
	if err != nil {
		return invalid(err)
	}
	for _, a := range addresses {
		b, err := Broker(ctx, a, log)
		if err != nil {
			return fmt.Errorf("broker %s: %w", a, err)
		}
		s.Brokers[a.Carrier] = b
	}
	return nil
}

// Broker makes one carrier.
func Broker(ctx context.Context, a config.Broker, log *slog.Logger) (broker.Broker, error) {
	if a.Carrier == config.Kafka {
		return kafka.Open(ctx, a.URL, kafka.Options{TTL: engine.RefTTL, Logger: log})
	}
	return rabbitmq.Open(ctx, a.URL, rabbitmq.Options{TTL: engine.RefTTL, Logger: log})
}

func (s *Set) openCache(ctx context.Context, conf config.Server) error {
	addr, err := config.ParseCache(conf.Cache)
	switch {
	case err != nil:
		return invalid(err)
	case addr.Kind == config.CacheNone:
		return nil
	case addr.Kind == config.CacheMemory:
		s.Cache = memory.New(0)
		return nil
	}
	name, err := s.Ledger.Identity(ctx)
	if err != nil {
		return fmt.Errorf("cache %s: the ledger's name: %w", addr, err)
	}
	view, err := rediscache.New(addr.URL, name)
	if err != nil {
		return invalid(fmt.Errorf("cache %s: %w", addr, err))
	}
	s.Cache = view
	return nil
}

// invalid says that the configuration is at fault.
func invalid(err error) error { return job.Errorf(job.InvalidArgument, job.ReasonBadField, "%w", err) }
