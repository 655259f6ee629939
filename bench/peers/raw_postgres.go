package peers

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/errandhq/errand/internal/bench"
)

// rawPostgres is what PostgreSQL itself can do of a queue's work: rows go in by
// COPY, are claimed by an UPDATE that skips locked rows, and move to a history
// in the statement that finishes them. No lease, no retry, no fairness.
type rawPostgres struct{ pool *pgxpool.Pool }

const (
	rawBatch       = 1000
	rawConsumers   = 2 // as many as the machine has cores
	rawPostgresSQL = `
CREATE TABLE job (id uuid PRIMARY KEY, state smallint NOT NULL DEFAULT 0, seq bigint GENERATED ALWAYS AS IDENTITY,
	payload bytea NOT NULL, created timestamptz NOT NULL DEFAULT now());
CREATE INDEX job_ready ON job (seq) WHERE state = 0;
CREATE TABLE history (id uuid, payload bytea, created timestamptz, done timestamptz);`
	rawClaim = `UPDATE job SET state = 1 WHERE id = ANY(ARRAY(
	SELECT id FROM job WHERE state = 0 ORDER BY seq LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING id, payload`
	rawFinish = `WITH d AS (DELETE FROM job WHERE id = ANY($1) AND state = 1 RETURNING id, payload, created)
INSERT INTO history SELECT id, payload, created, now() FROM d`
)

func openRawPostgres(ctx context.Context, address string, p bench.Plan) (bench.System, error) {
	conf, err := pgxpool.ParseConfig(address)
	if err != nil {
		return nil, err
	}
	conf.MaxConns = int32(p.Producers + rawConsumers)
	pool, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, rawPostgresSQL); err != nil {
		pool.Close()
		return nil, err
	}
	return &rawPostgres{pool: pool}, nil
}

// Enqueue implements bench.System.
func (s *rawPostgres) Enqueue(ctx context.Context, payloads [][]byte) error {
	if len(payloads) == 1 {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		_, err = s.pool.Exec(ctx, "INSERT INTO job (id, payload) VALUES ($1, $2)", id, payloads[0])
		return err
	}
	_, err := s.pool.CopyFrom(ctx, pgx.Identifier{"job"}, []string{"id", "payload"},
		pgx.CopyFromSlice(len(payloads), func(i int) ([]any, error) {
			id, err := uuid.NewV7()
			return []any{id, payloads[i]}, err
		}))
	return err
}

// Work implements bench.System.
func (s *rawPostgres) Work(ctx context.Context, handle func([]byte)) (func() error, <-chan error, error) {
	working, stop := context.WithCancel(ctx)
	failed := make(chan error, rawConsumers)
	var g errgroup.Group
	for range rawConsumers {
		g.Go(func() error {
			for working.Err() == nil {
				// Not working: what was claimed is finished.
				n, err := s.cycle(ctx, handle)
				if err != nil {
					failed <- err
					return err
				}
				if n == 0 {
					time.Sleep(time.Millisecond) // the pace of polling
				}
			}
			return nil
		})
	}
	return func() error { stop(); return g.Wait() }, failed, nil
}

// cycle claims a batch and finishes it.
func (s *rawPostgres) cycle(ctx context.Context, handle func([]byte)) (int, error) {
	rows, err := s.pool.Query(ctx, rawClaim, rawBatch)
	if err != nil {
		return 0, err
	}
	var ids []uuid.UUID
	var id uuid.UUID
	var payload []byte
	_, err = pgx.ForEachRow(rows, []any{&id, &payload}, func() error {
		ids = append(ids, id)
		handle(payload)
		return nil
	})
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	tag, err := s.pool.Exec(ctx, rawFinish, ids)
	if err == nil && tag.RowsAffected() != int64(len(ids)) {
		err = fmt.Errorf("%d of %d rows were finished", tag.RowsAffected(), len(ids))
	}
	return len(ids), err
}

// Close implements bench.System.
func (s *rawPostgres) Close() error { s.pool.Close(); return nil }
