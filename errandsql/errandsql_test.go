package errandsql_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/embedded"
	"github.com/errandhq/errand/errandsql"
	"github.com/errandhq/errand/internal/testenv"
)

type order struct{ ID int }

var ship = errand.NewTask[order]("order.ship")

func open(t *testing.T) (*errand.Client, *sql.DB) {
	t.Helper()
	dsn := testenv.Postgres(t)
	c, err := embedded.Open(t.Context(), embedded.Config{Ledger: dsn})
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(db.Close(), c.Close()); err != nil {
			t.Error(err)
		}
	})
	return c, db
}

func TestEnqueueTxAndCompleteTx(t *testing.T) {
	c, db := open(t)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	id, err := errandsql.EnqueueTx(t.Context(), tx, ship, order{1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Job(t.Context(), id); !errors.Is(err, errand.ErrNotFound) {
		t.Errorf("before the commit: %v, want ErrNotFound", err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	w := &errand.Worker{Client: c, Logger: slog.New(slog.DiscardHandler)}
	errand.Handle(w, ship, func(ctx context.Context, j *errand.Job[order]) error {
		return errandsql.CompleteTx(ctx, db, j.RawJob, "sent")
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	j, err := c.Wait(ctx, id)
	cancel()
	if rerr := <-ended; rerr != nil || err != nil {
		t.Fatal(rerr, err)
	}
	if j.State != errand.Succeeded || string(j.Result) != `"sent"` || w.Stats().Stale != 0 {
		t.Errorf("job %+v, stats %+v", j, w.Stats())
	}
}

func TestRefusals(t *testing.T) {
	c, db := open(t)
	held, err := ship.Enqueue(t.Context(), c, order{1}, errand.Unique("k"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = errandsql.EnqueueTx(t.Context(), db, ship, order{2}, errand.Unique("k", errand.RejectConflict))
	var e *errand.Error
	if !errors.Is(err, errand.ErrUniqueHeld) || !errors.As(err, &e) || e.Holder != held {
		t.Errorf("error %v, want ErrUniqueHeld by %v", err, held)
	}
	if err := errandsql.CompleteTx(t.Context(), db, &errand.RawJob{ID: held, Token: 1}, nil); !errors.Is(err, errand.ErrStale) {
		t.Errorf("error %v, want ErrStale", err)
	}
}
