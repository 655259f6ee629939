package peers

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver of goqite's own examples
	"maragu.dev/goqite"
	"maragu.dev/goqite/jobs"

	"github.com/errandhq/errand/internal/bench"
)

// goqiteSystem is goqite with its job runner. Its README opens SQLite by the cgo
// driver with a write-ahead log and one connection. That driver does not sync at
// each commit unless it is told to, so it is: all that is compared here is as
// durable. The runner polls, so it polls often.
type goqiteSystem struct {
	db    *sql.DB
	queue *goqite.Queue
}

func openGoqite(ctx context.Context, address string, _ bench.Plan) (bench.System, error) {
	db, err := sql.Open("sqlite3", address+"?_journal=WAL&_timeout=5000&_fk=true&_synchronous=FULL")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if err := goqiteSchema(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("schema: %w", err), db.Close())
	}
	// A message that is not deleted within the timeout comes again: the backlog
	// must be done by then.
	return &goqiteSystem{db: db, queue: goqite.New(goqite.NewOpts{DB: db, Name: "bench", Timeout: time.Minute})}, nil
}

// goqiteSchema applies the file that comes with the module, and is in no package.
func goqiteSchema(ctx context.Context, db *sql.DB) error {
	dir, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "maragu.dev/goqite").Output()
	if err != nil {
		return err
	}
	schema, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "schema_sqlite.sql"))
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, string(schema))
	return err
}

// Enqueue implements bench.System: many messages share a transaction.
func (s *goqiteSystem) Enqueue(ctx context.Context, payloads [][]byte) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for _, p := range payloads {
		if _, err := jobs.CreateTx(ctx, tx, s.queue, "bench", goqite.Message{Body: p}); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

// Work implements bench.System. The runner deletes each message when its job is
// done, and its end waits for that.
func (s *goqiteSystem) Work(ctx context.Context, handle func([]byte)) (func() error, <-chan error, error) {
	r := jobs.NewRunner(jobs.NewRunnerOpts{Limit: 10, PollInterval: time.Millisecond, Queue: s.queue})
	r.Register("bench", func(_ context.Context, payload []byte) error { handle(payload); return nil })
	working, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); r.Start(working) }()
	return func() error { stop(); <-ended; return nil }, nil, nil
}

// Close implements bench.System.
func (s *goqiteSystem) Close() error { return s.db.Close() }
