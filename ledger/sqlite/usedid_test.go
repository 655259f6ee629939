package sqlite_test

import (
	"testing"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// A client may wrongly call an id fresh that the archive has. The job runs
// again; its success must be stored like any other, and not stand in the way
// of those that share the call.
func TestUsedIDCalledFresh(t *testing.T) {
	l := open(t)
	ctx, now := t.Context(), time.Now().UTC().Truncate(time.Microsecond)
	session := job.ID{15: 1}
	if err := l.OpenSession(ctx, ledger.Session{ID: session, OpenedAt: now, BeatAt: now}); err != nil {
		t.Fatal(err)
	}
	j := job.Job{
		ID: job.ID{15: 2}, Queue: "q", Kind: "k", State: job.Ready, MaxAttempts: 1, Version: 1,
		CreatedAt: now, RunAt: now, ContentType: job.DefaultContentType,
	}
	for range 2 {
		if _, err := l.Insert(ctx, now, []ledger.Item{{Job: j, Fresh: true}}); err != nil {
			t.Fatal(err)
		}
		got, err := l.Claim(ctx, now, []ledger.Claim{{Session: session, Call: 1, Queue: "q", Max: 1, MaxBytes: job.MaxBatchBytes}})
		if err != nil || len(got[0].Jobs) != 1 {
			t.Fatalf("claim: %v, %v", got, err)
		}
		done, err := l.Succeed(ctx, now, []ledger.Success{{ID: j.ID, Token: got[0].Jobs[0].Token}})
		if err != nil || !done[0].OK {
			t.Fatalf("succeed: %v, %v", done, err)
		}
	}
}
