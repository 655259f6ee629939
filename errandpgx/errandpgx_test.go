package errandpgx_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/embedded"
	"github.com/errandhq/errand/errandpgx"
	"github.com/errandhq/errand/internal/testenv"
)

type order struct{ ID int }

var ship = errand.NewTask[order]("order.ship", errand.Queue("shipping"), errand.Priority(2), errand.Timeout(90*time.Second))

// open starts Errand on a fresh database and connects to it.
func open(t *testing.T) (*errand.Client, *pgx.Conn) {
	t.Helper()
	dsn := testenv.Postgres(t)
	c, err := embedded.Open(t.Context(), embedded.Config{Ledger: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return c, conn
}

func begin(t *testing.T, conn *pgx.Conn) pgx.Tx {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

// work runs a worker with h until the job is final.
func work(t *testing.T, c *errand.Client, id errand.ID, h func(context.Context, *errand.Job[order]) error) *errand.JobInfo {
	t.Helper()
	w := &errand.Worker{Client: c, Queues: []string{"shipping"}, Logger: slog.New(slog.DiscardHandler)}
	errand.Handle(w, ship, h)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	j, err := c.Wait(ctx, id)
	cancel()
	if rerr := <-ended; rerr != nil {
		t.Error(rerr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestEnqueueTxIsPartOfTheTransaction(t *testing.T) {
	c, conn := open(t)
	tx := begin(t, conn)
	gone, err := errandpgx.EnqueueTx(t.Context(), tx, ship, order{1})
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Job(t.Context(), gone); !errors.Is(err, errand.ErrNotFound) {
		t.Errorf("after a roll-back: %v, want ErrNotFound", err)
	}
	tx = begin(t, conn)
	id, err := errandpgx.EnqueueTx(t.Context(), tx, ship, order{2}, errand.Tags("a"), errand.Unique("o2"), errand.ExpiresIn(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Job(t.Context(), id); !errors.Is(err, errand.ErrNotFound) {
		t.Errorf("before the commit: %v, want ErrNotFound", err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Wake(t.Context(), "shipping"); err != nil {
		t.Fatal(err)
	}
	j := work(t, c, id, func(_ context.Context, j *errand.Job[order]) error { return j.SetResult(j.Args.ID) })
	if j.State != errand.Succeeded || string(j.Result) != "2" || j.Priority != 2 || j.Timeout != 90*time.Second ||
		len(j.Tags) != 1 || j.UniqueKey != "o2" || j.ExpiresAt.IsZero() {
		t.Errorf("job %+v", j)
	}
}

func TestEnqueueTxRefusals(t *testing.T) {
	c, conn := open(t)
	held, err := ship.Enqueue(t.Context(), c, order{1}, errand.Unique("k"))
	if err != nil {
		t.Fatal(err)
	}
	tx := begin(t, conn)
	if id, err := errandpgx.EnqueueTx(t.Context(), tx, ship, order{2}, errand.Unique("k")); err != nil || id != held {
		t.Errorf("skip: %v %v, want the holder %v", id, err, held)
	}
	_, err = errandpgx.EnqueueTx(t.Context(), tx, ship, order{2}, errand.Unique("k", errand.RejectConflict))
	var e *errand.Error
	if !errors.Is(err, errand.ErrUniqueHeld) || !errors.As(err, &e) || e.Holder != held {
		t.Errorf("reject: %v, want ErrUniqueHeld by %v", err, held)
	}
	_ = tx.Rollback(t.Context())
	for name, opts := range map[string][]errand.EnqueueOption{
		"priority": {errand.Priority(99)}, "delay": {errand.In(-time.Second)}, "both": {errand.In(time.Second), errand.At(time.Now())},
	} {
		_, err := errandpgx.EnqueueTx(t.Context(), conn, ship, order{3}, opts...)
		if !errors.As(err, &e) || e.Code != errand.CodeInvalidArgument || e.Reason != errand.ReasonBadField {
			t.Errorf("%s: %v, want a bad field", name, err)
		}
	}
}

// TestEnqueueTxRepeatedWithItsID: an id that the caller made is stored once.
func TestEnqueueTxRepeatedWithItsID(t *testing.T) {
	_, conn := open(t)
	own := errand.NewID()
	p, err := ship.Params(order{1}, errand.WithID(own))
	if err != nil {
		t.Fatal(err)
	}
	for i, duplicate := range []bool{false, true} {
		r, err := errandpgx.EnqueueParamsTx(t.Context(), conn, p)
		if err != nil || r.ID != own || r.Duplicate != duplicate {
			t.Errorf("try %d: %+v %v", i, r, err)
		}
	}
}

// TestCompleteTx: the handler's write and the end of its job are one; the
// worker's settle afterwards finds it done, and that is success.
func TestCompleteTx(t *testing.T) {
	c, conn := open(t)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE shipped (id int, attempt int)"); err != nil {
		t.Fatal(err)
	}
	id, err := ship.Enqueue(t.Context(), c, order{7}, errand.MaxAttempts(3))
	if err != nil {
		t.Fatal(err)
	}
	j := work(t, c, id, func(ctx context.Context, j *errand.Job[order]) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		if _, err := tx.Exec(ctx, "INSERT INTO shipped VALUES ($1, $2)", j.Args.ID, j.Attempt); err != nil {
			return err
		}
		if err := errandpgx.CompleteTx(ctx, tx, j.RawJob, map[string]int{"n": 1}); err != nil {
			return err
		}
		if j.Attempt == 1 {
			return errand.RetryIn(time.Millisecond, errors.New("rolled back"))
		}
		return tx.Commit(ctx)
	})
	if j.State != errand.Succeeded || j.Attempt != 2 || string(j.Result) != `{"n":1}` || len(j.Errors) != 1 {
		t.Errorf("job %+v", j)
	}
	var n, attempt int
	if err := conn.QueryRow(t.Context(), "SELECT count(*), max(attempt) FROM shipped").Scan(&n, &attempt); err != nil || n != 1 || attempt != 2 {
		t.Errorf("%d rows of attempt %d, %v: want one of the second", n, attempt, err)
	}
}

func TestCompleteTxStale(t *testing.T) {
	c, conn := open(t)
	id, err := ship.Enqueue(t.Context(), c, order{1})
	if err != nil {
		t.Fatal(err)
	}
	if err := errandpgx.CompleteTx(t.Context(), conn, &errand.RawJob{ID: id, Token: 5}, nil); !errors.Is(err, errand.ErrStale) {
		t.Errorf("error %v, want ErrStale", err)
	}
}

// What transactions of the caller's own make and complete is told of too.
func TestInsightsTellOfTransactions(t *testing.T) {
	c, conn := open(t)
	tx := begin(t, conn)
	id, err := errandpgx.EnqueueTx(t.Context(), tx, ship, order{1})
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	work(t, c, id, func(ctx context.Context, j *errand.Job[order]) error {
		tx := begin(t, conn)
		if err := errandpgx.CompleteTx(ctx, tx, j.RawJob, nil); err != nil {
			return err
		}
		return tx.Commit(ctx)
	})
	in, err := c.Insights(t.Context(), errand.InsightsQuery{Queue: "shipping"})
	if err != nil {
		t.Fatal(err)
	}
	if len(in.Kinds) != 1 || in.Kinds[0].Counts.Started != 1 || in.Kinds[0].Counts.Succeeded != 1 {
		t.Errorf("insights %+v", in.Kinds)
	}
}
