package peers

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/errandhq/errand/internal/bench"
)

// rawSQLite is what SQLite itself can do of a queue's work, on one connection
// that syncs at every commit, in transactions of 500 jobs: rows are inserted,
// claimed, and moved to a history when they are finished.
type rawSQLite struct {
	mu sync.Mutex // SQLite has one writer
	db *sql.DB
	tx rawStatements
}

type rawStatements struct{ insert, claim, keep, remove *sql.Stmt }

const (
	rawSQLiteBatch = 500
	rawSQLiteSQL   = `
CREATE TABLE job (seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, state INTEGER NOT NULL DEFAULT 0, payload BLOB NOT NULL, created INTEGER NOT NULL);
CREATE INDEX job_ready ON job (seq) WHERE state = 0;
CREATE TABLE history (id BLOB, payload BLOB, created INTEGER, done INTEGER);`
)

func openRawSQLite(ctx context.Context, address string, _ bench.Plan) (bench.System, error) {
	db, err := sql.Open("sqlite", sqliteAddress(address))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	s := &rawSQLite{db: db}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

func (s *rawSQLite) prepare(ctx context.Context) error {
	if _, err := s.db.ExecContext(ctx, rawSQLiteSQL); err != nil {
		return err
	}
	for text, to := range map[string]**sql.Stmt{
		"INSERT INTO job (id, payload, created) VALUES (?, ?, ?)": &s.tx.insert,
		`UPDATE job SET state = 1 WHERE seq IN (SELECT seq FROM job WHERE state = 0 ORDER BY seq LIMIT ?)
			RETURNING seq, payload`: &s.tx.claim,
		"INSERT INTO history SELECT id, payload, created, ? FROM job WHERE seq = ?": &s.tx.keep,
		"DELETE FROM job WHERE seq = ?":                                             &s.tx.remove,
	} {
		var err error
		if *to, err = s.db.PrepareContext(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// do runs fn in a transaction of its own.
func (s *rawSQLite) do(ctx context.Context, fn func(tx *sql.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// Enqueue implements bench.System.
func (s *rawSQLite) Enqueue(ctx context.Context, payloads [][]byte) error {
	return s.do(ctx, func(tx *sql.Tx) error {
		insert := tx.StmtContext(ctx, s.tx.insert)
		for _, p := range payloads {
			id, err := uuid.NewV7()
			if err != nil {
				return err
			}
			if _, err := insert.ExecContext(ctx, id[:], p, time.Now().UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	})
}

// Work implements bench.System.
func (s *rawSQLite) Work(ctx context.Context, handle func([]byte)) (func() error, <-chan error, error) {
	working, stop := context.WithCancel(ctx)
	ended, failed := make(chan error, 1), make(chan error, 1)
	go func() {
		for working.Err() == nil {
			n, err := s.cycle(ctx, handle)
			if err != nil {
				failed <- err
				ended <- err
				return
			}
			if n == 0 {
				time.Sleep(time.Millisecond) // the pace of polling
			}
		}
		ended <- nil
	}()
	return func() error { stop(); return <-ended }, failed, nil
}

// cycle claims a batch and finishes it, in two transactions.
func (s *rawSQLite) cycle(ctx context.Context, handle func([]byte)) (int, error) {
	var claimed []int64
	err := s.do(ctx, func(tx *sql.Tx) error {
		rows, err := tx.StmtContext(ctx, s.tx.claim).QueryContext(ctx, rawSQLiteBatch)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var seq int64
			var payload []byte
			if err := rows.Scan(&seq, &payload); err != nil {
				return err
			}
			claimed = append(claimed, seq)
			handle(payload)
		}
		return rows.Err()
	})
	if err != nil || len(claimed) == 0 {
		return 0, err
	}
	return len(claimed), s.do(ctx, func(tx *sql.Tx) error {
		keep, remove := tx.StmtContext(ctx, s.tx.keep), tx.StmtContext(ctx, s.tx.remove)
		now := time.Now().UnixMilli()
		for _, seq := range claimed {
			if _, err := keep.ExecContext(ctx, now, seq); err != nil {
				return err
			}
			if _, err := remove.ExecContext(ctx, seq); err != nil {
				return err
			}
		}
		return nil
	})
}

// Close implements bench.System.
func (s *rawSQLite) Close() error { return s.db.Close() }
