package peers

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	_ "modernc.org/sqlite" // the driver of River's own SQLite examples

	"github.com/errandhq/errand/internal/bench"
)

// riverSystem is River, set as its own benchmark sets it (riverbench): 2000
// workers, a cooldown of 2 ms, polls every 20 ms beside LISTEN.
type riverSystem[TTx any] struct {
	driver riverdriver.Driver[TTx]
	client *river.Client[TTx] // that only inserts
	fast   bool               // InsertManyFast is COPY
	close  func() error
}

// riverArgs is a payload as River takes it.
type riverArgs struct{ raw json.RawMessage }

func (riverArgs) Kind() string                    { return "bench" }
func (a riverArgs) MarshalJSON() ([]byte, error)  { return a.raw, nil }
func (a *riverArgs) UnmarshalJSON(b []byte) error { a.raw = append([]byte(nil), b...); return nil }

// riverWorker hands payloads to the load.
type riverWorker struct {
	river.WorkerDefaults[riverArgs]
	handle func([]byte)
}

func (w *riverWorker) Work(_ context.Context, j *river.Job[riverArgs]) error {
	w.handle(j.Args.raw)
	return nil
}

func openRiver(ctx context.Context, address string, p bench.Plan) (bench.System, error) {
	conf, err := pgxpool.ParseConfig(address)
	if err != nil {
		return nil, err
	}
	conf.MaxConns = int32(max(16, p.Producers+4))
	pool, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, err
	}
	return newRiver(ctx, riverpgxv5.New(pool), true, func() error { pool.Close(); return nil })
}

// openRiverSQLite has one connection, as River's documentation says.
func openRiverSQLite(ctx context.Context, address string, _ bench.Plan) (bench.System, error) {
	db, err := sql.Open("sqlite", sqliteAddress(address))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return newRiver(ctx, riversqlite.New(db), false, db.Close)
}

func newRiver[TTx any](ctx context.Context, d riverdriver.Driver[TTx], fast bool, closeDB func() error) (bench.System, error) {
	s := &riverSystem[TTx]{driver: d, fast: fast, close: closeDB}
	err := s.open(ctx)
	if err != nil {
		return nil, errors.Join(err, closeDB())
	}
	return s, nil
}

func (s *riverSystem[TTx]) open(ctx context.Context) error {
	m, err := rivermigrate.New(s.driver, nil)
	if err != nil {
		return err
	}
	if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	s.client, err = river.NewClient(s.driver, &river.Config{Logger: slog.New(slog.DiscardHandler)})
	return err
}

// Enqueue implements bench.System.
func (s *riverSystem[TTx]) Enqueue(ctx context.Context, payloads [][]byte) error {
	if len(payloads) == 1 {
		_, err := s.client.Insert(ctx, riverArgs{raw: payloads[0]}, nil)
		return err
	}
	jobs := make([]river.InsertManyParams, len(payloads))
	for i, p := range payloads {
		jobs[i].Args = riverArgs{raw: p}
	}
	if s.fast {
		_, err := s.client.InsertManyFast(ctx, jobs)
		return err
	}
	_, err := s.client.InsertMany(ctx, jobs)
	return err
}

// Work implements bench.System. Stop waits for the completer.
func (s *riverSystem[TTx]) Work(ctx context.Context, handle func([]byte)) (func() error, <-chan error, error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &riverWorker{handle: handle})
	c, err := river.NewClient(s.driver, &river.Config{
		FetchCooldown: 2 * time.Millisecond, FetchPollInterval: 20 * time.Millisecond,
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2000}},
		Workers: workers, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, nil, err
	}
	if err := c.Start(ctx); err != nil {
		return nil, nil, err
	}
	return func() error { return c.Stop(context.WithoutCancel(ctx)) }, nil, nil
}

// Close implements bench.System.
func (s *riverSystem[TTx]) Close() error { return s.close() }
