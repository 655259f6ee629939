package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/broker/kafka"
	"github.com/errandhq/errand/broker/rabbitmq"
	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/cache/memory"
	"github.com/errandhq/errand/internal/cache/rediscache"
	"github.com/errandhq/errand/internal/config"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/postgres"
	"github.com/errandhq/errand/ledger/sqlite"
)

// This file alone names drivers.

// openLedger opens the ledger of a server.
func openLedger(ctx context.Context, addr config.Ledger, conf config.Server, log *slog.Logger) (ledger.Ledger, error) {
	if addr.Engine == config.Postgres {
		return postgres.Open(ctx, addr.DSN, postgres.Options{
			MaxConns: conf.LedgerConns, Migrate: postgres.MigrateMode(conf.Migrate), ListenDSN: conf.LedgerListen, Logger: log,
		})
	}
	return sqlite.Open(ctx, addr.Path, sqlite.Options{Migrate: sqlite.MigrateMode(conf.Migrate), Logger: log})
}

// openBrokers makes the carriers of a server, by route. None of them need be
// reachable now: queues are leased directly until it is.
func openBrokers(ctx context.Context, conf config.Server, log *slog.Logger) (map[string]broker.Broker, error) {
	addresses, err := conf.BrokerAddresses()
	if err != nil {
		return nil, usageError("%w", err)
	}
	brokers := map[string]broker.Broker{}
	for _, a := range addresses {
		b, err := openBroker(ctx, a, log)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("broker %s: %w", a, err), closeBrokers(brokers))
		}
		brokers[a.Carrier] = b
	}
	return brokers, nil
}

func openBroker(ctx context.Context, a config.Broker, log *slog.Logger) (broker.Broker, error) {
	if a.Carrier == config.Kafka {
		return kafka.Open(ctx, a.URL, kafka.Options{TTL: engine.RefTTL, Logger: log})
	}
	return rabbitmq.Open(ctx, a.URL, rabbitmq.Options{TTL: engine.RefTTL, Logger: log})
}

func closeBrokers(brokers map[string]broker.Broker) error {
	var errs []error
	for route, b := range brokers {
		if err := b.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", route, err))
		}
	}
	return errors.Join(errs...)
}

// openCache makes the cache of a server, nil for none.
func openCache(ctx context.Context, conf config.Server, l ledger.Ledger) (cache.Cache, error) {
	addr, err := config.ParseCache(conf.Cache)
	switch {
	case err != nil || addr.Kind == config.CacheNone:
		return nil, err
	case addr.Kind == config.CacheMemory:
		return memory.New(0), nil
	}
	name, err := l.Identity(ctx)
	if err != nil {
		return nil, fmt.Errorf("the ledger's name: %w", err)
	}
	return rediscache.New(addr.URL, name)
}

// examineCache asks a Redis about itself.
func examineCache(ctx context.Context, address string) (rediscache.Report, error) {
	return rediscache.Examine(ctx, address)
}

// migrateLedger applies pending migrations and returns their names.
func migrateLedger(ctx context.Context, addr config.Ledger) ([]string, error) {
	if addr.Engine == config.Postgres {
		return postgres.Migrate(ctx, addr.DSN)
	}
	return sqlite.Migrate(ctx, addr.Path)
}

// ledgerStatus lists all migrations.
func ledgerStatus(ctx context.Context, addr config.Ledger) ([]migrationView, error) {
	var views []migrationView
	add := func(name string, at time.Time) { views = append(views, migrationView{name, moment(at)}) }
	if addr.Engine == config.Postgres {
		steps, err := postgres.Status(ctx, addr.DSN)
		for _, s := range steps {
			add(s.Name, s.AppliedAt)
		}
		return views, err
	}
	steps, err := sqlite.Status(ctx, addr.Path)
	for _, s := range steps {
		add(s.Name, s.AppliedAt)
	}
	return views, err
}

// ledgerSQL is the text of all migrations.
func ledgerSQL(addr config.Ledger) string {
	if addr.Engine == config.Postgres {
		return postgres.Print()
	}
	return sqlite.Print()
}

// pinLedger opens a transaction that sees the database as it is now, and so holds
// vacuum back, until release.
func pinLedger(ctx context.Context, addr config.Ledger) (release func() error, err error) {
	conn, err := pgx.Connect(ctx, addr.DSN)
	if err != nil {
		return nil, err
	}
	release = func() error { return conn.Close(context.WithoutCancel(ctx)) }
	_, err = conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SELECT pg_current_snapshot()")
	if err != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}

// fenceLedger raises all tokens and returns how many jobs have one.
func fenceLedger(ctx context.Context, addr config.Ledger) (n int64, err error) {
	var l interface {
		Fence(context.Context) (int64, error)
		Close() error
	}
	if addr.Engine == config.Postgres {
		l, err = postgres.Open(ctx, addr.DSN, postgres.Options{Migrate: postgres.MigrateCheck})
	} else {
		l, err = sqlite.Open(ctx, addr.Path, sqlite.Options{Migrate: sqlite.MigrateCheck})
	}
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := l.Close(); err == nil {
			err = cerr
		}
	}()
	return l.Fence(ctx)
}
