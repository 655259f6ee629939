// Command transactional shows a job that exists if, and only if, the writes it
// belongs to do, and a handler whose writes and whose job end as one. Name a PostgreSQL
// database in DATABASE_URL; Errand keeps its tables there in a schema of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/embedded"
	"github.com/errandhq/errand/errandpgx"
)

// Order is the payload of the job.
type Order struct {
	ID int64 `json:"id"`
}

var ship = errand.NewTask[Order]("order.ship")

func main() {
	if err := run(context.Background(), os.Getenv("DATABASE_URL")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url string) error {
	if url == "" {
		return errors.New("DATABASE_URL is not set")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS example_order (id bigserial PRIMARY KEY, item text, shipped boolean DEFAULT false)`); err != nil {
		return err
	}
	c, err := embedded.Open(ctx, embedded.Config{Ledger: url}) // or errand.Dial, with a server on that database
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	id, err := buy(ctx, pool, "a lamp")
	if err != nil {
		return err
	}
	if err := c.Wake(ctx, "default"); err != nil { // optional: else it is found within half a second
		return err
	}
	return carryOut(ctx, c, pool, id)
}

// buy stores an order and the job that ships it, or neither.
func buy(ctx context.Context, pool *pgxpool.Pool, item string) (id errand.ID, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var o Order
		if err := tx.QueryRow(ctx, `INSERT INTO example_order (item) VALUES ($1) RETURNING id`, item).Scan(&o.ID); err != nil {
			return err
		}
		id, err = errandpgx.EnqueueTx(ctx, tx, ship, o)
		return err
	})
	return id, err
}

// carryOut works until the job is done.
func carryOut(ctx context.Context, c *errand.Client, pool *pgxpool.Pool, id errand.ID) error {
	w := &errand.Worker{Client: c}
	errand.Handle(w, ship, func(ctx context.Context, j *errand.Job[Order]) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `UPDATE example_order SET shipped = true WHERE id = $1`, j.Args.ID); err != nil {
				return err
			}
			return errandpgx.CompleteTx(ctx, tx, j.RawJob, "shipped")
		})
	})
	working, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- w.Run(working) }()
	j, err := c.Wait(ctx, id)
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	fmt.Printf("job %s %s: %s\n", j.ID, j.State, j.Result)
	return nil
}
