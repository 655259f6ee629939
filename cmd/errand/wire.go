package main

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/internal/cache/rediscache"
	"github.com/errandhq/errand/internal/config"
	"github.com/errandhq/errand/ledger/postgres"
	"github.com/errandhq/errand/ledger/sqlite"
)

// This file alone of the command names drivers. What a server stands on is opened by
// package drivers; here is what an operator asks of them.

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
