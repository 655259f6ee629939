package errandtest_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/errandtest"
)

type mail struct{ To string }

var send = errand.NewTask[mail]("mail.send", errand.MaxAttempts(2))

func worker(h func(context.Context, *errand.Job[mail]) error) *errand.Worker {
	w := &errand.Worker{Logger: slog.New(slog.DiscardHandler)}
	errand.Handle(w, send, h)
	return w
}

func TestWorkOneCarriesOutOneJob(t *testing.T) {
	q := errandtest.New(t)
	for _, to := range []string{"ann", "bob"} {
		if _, err := send.Enqueue(t.Context(), q.Client, mail{to}); err != nil {
			t.Fatal(err)
		}
	}
	errandtest.RequireEnqueued(q, send, func(m mail) bool { return m.To == "bob" })
	errandtest.RequireNotEnqueued(q, send, func(m mail) bool { return m.To == "eve" })
	var sent []string
	w := worker(func(_ context.Context, j *errand.Job[mail]) error {
		sent = append(sent, j.Args.To)
		return j.SetResult(len(sent))
	})
	j := q.WorkOne(w)
	if j.State != errand.Succeeded || string(j.Result) != "1" || len(sent) != 1 || sent[0] != "ann" {
		t.Errorf("job %+v, sent %q: want ann's, done", j, sent)
	}
	q.WorkAll(w)
	if len(sent) != 2 {
		t.Errorf("sent %q", sent)
	}
}

func TestAdvanceMakesDelayedJobsAndRetriesDue(t *testing.T) {
	q := errandtest.New(t)
	id, err := send.Enqueue(t.Context(), q.Client, mail{"ann"}, errand.In(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	runs := 0
	w := worker(func(context.Context, *errand.Job[mail]) error {
		runs++
		return errand.RetryIn(time.Hour, errors.New("no line"))
	})
	q.WorkAll(w)
	if runs != 0 {
		t.Fatal("a job ran a day early")
	}
	q.Advance(25 * time.Hour)
	q.WorkAll(w)
	if runs != 1 {
		t.Fatalf("%d runs after a day, want 1", runs)
	}
	q.Advance(2 * time.Hour)
	if j := q.WorkOne(w); j.ID != id || j.State != errand.Dead || j.Reason != "attempts" || len(j.Errors) != 2 {
		t.Errorf("job %+v, want dead with two errors", j)
	}
}
