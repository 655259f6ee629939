package verify

import (
	"context"
	"fmt"
	"time"

	errand "github.com/errandhq/errand"
	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// gentle are the checks of promises 5 and 6.
var gentle = []check{
	{5, "a draining worker's jobs", drained},
	{6, "failures and dead letters", failures},
	{6, "a poison pill", pill},
	{4, "cancellation", cancellation},
	{4, "expiry", expiry},
}

// drained leaves with a job whose handler has not returned.
func drained(ctx context.Context, b *bench) (string, error) {
	const check = "drain"
	within := b.ttl + 2*time.Second + slack
	if err := b.timeFor("the return of jobs whose worker has left", within); err != nil {
		return "", err
	}
	h, err := b.hand(ctx, check)
	if err != nil {
		return "", err
	}
	j, err := b.enqueueTo(ctx, h, check)
	if err != nil {
		return "", err
	}
	id, err := parse(j)
	if err != nil {
		return "", err
	}
	if err := h.close(ctx, true); err != nil {
		return "", err
	}
	left := time.Now()
	free := func(i *errand.JobInfo) bool { return i.State == errand.Ready }
	info, err := b.await(ctx, id, within, "ready again after its worker had left", free)
	if err != nil {
		return "", err
	}
	if info.Attempt != 0 || info.Crashes != 0 {
		return "", broken("job %s was charged for a deploy: attempt %d, crashes %d", id, info.Attempt, info.Crashes)
	}
	return fmt.Sprintf("given back %s after its worker had left, uncharged", time.Since(left).Round(100*time.Millisecond)), nil
}

// failures uses up a job's attempts, and discards another.
func failures(ctx context.Context, b *bench) (string, error) {
	const check = "failures"
	h, err := b.hand(ctx, check)
	if err != nil {
		return "", err
	}
	j, err := b.enqueueTo(ctx, h, check, errand.MaxAttempts(2))
	if err != nil {
		return "", err
	}
	id, err := parse(j)
	if err != nil {
		return "", err
	}
	if err := h.accepted(ctx, failure(j), errandv1.JobState_JOB_STATE_SCHEDULED, errandv1.JobState_JOB_STATE_READY); err != nil {
		return "", err
	}
	if j, err = h.one(ctx); err != nil {
		return "", err
	}
	if err := h.accepted(ctx, failure(j), errandv1.JobState_JOB_STATE_DEAD); err != nil {
		return "", err
	}
	info, err := b.is(ctx, id, errand.Dead)
	if err != nil {
		return "", err
	}
	if info.Reason != "attempts" || info.Attempt != 2 || info.Crashes != 0 || len(info.Errors) != 2 {
		return "", broken("after two failures of two job %s is dead for %q, attempt %d, crashes %d, with %d errors", id, info.Reason, info.Attempt, info.Crashes, len(info.Errors))
	}
	if j, err = b.enqueueTo(ctx, h, check); err != nil {
		return "", err
	}
	if err := h.accepted(ctx, outcome(j, errandv1.Outcome_OUTCOME_DISCARD), errandv1.JobState_JOB_STATE_DEAD); err != nil {
		return "", err
	}
	return "two failures of two are a dead letter with both errors, and no crash; a discard is one at once", nil
}

// pill kills its worker again and again, until it is a dead letter.
func pill(ctx context.Context, b *bench) (string, error) {
	const check, most = "pill", 3 // crashes, where the server's limit is the default
	each := b.ttl + 2*time.Second + slack
	if err := b.timeFor(fmt.Sprintf("%d crashes", most), most*each); err != nil {
		return "", err
	}
	id, err := b.enqueue(ctx, check)
	if err != nil {
		return "", err
	}
	for n := 1; n <= most; n++ {
		h, err := b.hand(ctx, check)
		if err != nil {
			return "", err
		}
		if _, err := h.one(ctx); err != nil {
			return "", err
		}
		h.abandon()
		over := func(i *errand.JobInfo) bool { return i.State != errand.Running }
		j, err := b.await(ctx, id, each, fmt.Sprintf("taken from its dead worker (crash %d)", n), over)
		switch {
		case err != nil:
			return "", b.braked(ctx, err)
		case j.Crashes != n:
			return "", broken("job %s has %d crashes after its worker died %d times", id, j.Crashes, n)
		case j.State == errand.Dead && j.Reason == "crashed":
			return fmt.Sprintf("a dead letter after %d crashes, with that reason", n), nil
		case j.State != errand.Ready:
			return "", broken("job %s is %s (%s) after its worker died", id, j.State, j.Reason)
		}
	}
	return "", skipped("after %d crashes it is not a dead letter: this server's limit is higher", most)
}

// cancellation cancels a job that waits, one that runs and then fails, and one that runs and
// succeeds all the same.
func cancellation(ctx context.Context, b *bench) (string, error) {
	const check = "cancel"
	waiting, err := b.enqueue(ctx, check, errand.In(noRush))
	if err != nil {
		return "", err
	}
	if _, err := b.client.Cancel(ctx, waiting); err != nil {
		return "", refusedOr(err, "the cancellation of the scheduled job %s was refused: %v", waiting, err)
	}
	if _, err := b.is(ctx, waiting, errand.Cancelled); err != nil {
		return "", err
	}
	h, err := b.hand(ctx, check)
	if err != nil {
		return "", err
	}
	for _, c := range []struct {
		outcome errandv1.Outcome
		want    errandv1.JobState
	}{
		{errandv1.Outcome_OUTCOME_FAIL, errandv1.JobState_JOB_STATE_CANCELLED},
		{errandv1.Outcome_OUTCOME_SUCCEED, errandv1.JobState_JOB_STATE_SUCCEEDED},
	} {
		if err := b.cancelRunning(ctx, h, check, c.outcome, c.want); err != nil {
			return "", err
		}
	}
	return "a waiting job at once; a running one's worker is told, a failure then ends it cancelled, and success wins", nil
}

func (b *bench) cancelRunning(ctx context.Context, h *hand, check string, o errandv1.Outcome, want errandv1.JobState) error {
	j, err := b.enqueueTo(ctx, h, check)
	if err != nil {
		return err
	}
	id, err := parse(j)
	if err != nil {
		return err
	}
	if _, err := b.client.Cancel(ctx, id); err != nil {
		return refusedOr(err, "the cancellation of the running job %s was refused: %v", id, err)
	}
	for deadline := time.Now().Add(b.ttl/3 + slack); !h.toldToCancel(id); {
		if time.Now().After(deadline) {
			return broken("the holder of job %s was not told of its cancellation", id)
		}
		if _, err := h.extend(ctx, nil); err != nil {
			return err
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return h.accepted(ctx, outcome(j, o), want)
}

// expiry lets a job wait for too long.
func expiry(ctx context.Context, b *bench) (string, error) {
	id, err := b.enqueue(ctx, "expiry", errand.ExpiresIn(time.Second))
	if err != nil {
		return "", err
	}
	j, err := b.await(ctx, id, 15*time.Second, "cancelled, having expired after a second", func(i *errand.JobInfo) bool { return i.State == errand.Cancelled })
	if err == nil && j.Reason != "expired" {
		return "", broken("job %s expired and is cancelled for %q", id, j.Reason)
	}
	return "a job that was not begun in time is cancelled, with that reason", err
}
