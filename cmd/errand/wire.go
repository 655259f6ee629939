package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/cache/memory"
	"github.com/errandhq/errand/internal/cache/rediscache"
	"github.com/errandhq/errand/internal/config"
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
