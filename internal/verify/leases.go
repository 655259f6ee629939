package verify

import (
	"context"
	"fmt"
	"slices"
	"time"

	errand "github.com/errandhq/errand"
	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// leases are the checks of promise 2.
var leases = []check{
	{2, "load with lost answers", underLoad},
	{2, "a held job is nobody else's", heldJob},
	{2, "a dead worker's jobs", deadWorker},
	{2, "a lost lease", lostLease},
}

// noRush is the delay of jobs that nobody is to begin.
const noRush = time.Hour

// slack is added to what a promise says in seconds, for the network and this machine.
const slack = 3 * time.Second

// timeFor skips a check that takes longer by its nature than this run may.
func (b *bench) timeFor(what string, takes time.Duration) error {
	if need := takes + 10*time.Second; b.conf.Timeout < need {
		return skipped("%s: up to %s here; give --timeout %s", what, takes, need.Round(time.Second))
	}
	return nil
}

// heldJob keeps a job for longer than the time-to-live, renewing, while another hand asks for it.
func heldJob(ctx context.Context, b *bench) (string, error) {
	const check = "held"
	long := b.ttl + b.ttl/2
	if err := b.timeFor("holding a job for longer than a session lasts", long); err != nil {
		return "", err
	}
	holder, err := b.hand(ctx, check)
	if err != nil {
		return "", err
	}
	j, err := b.enqueueTo(ctx, holder, check)
	if err != nil {
		return "", err
	}
	other, err := b.hand(ctx, check)
	if err != nil {
		return "", err
	}
	for end := time.Now().Add(long); time.Now().Before(end); {
		got, err := other.lease(ctx, 1, min(2*time.Second, long))
		if err != nil {
			return "", err
		}
		if len(got) > 0 {
			return "", broken("job %s, held by a live session under token %d, was given to another under token %d", j.GetId(), j.GetToken(), got[0].GetToken())
		}
	}
	if err := holder.succeed(ctx, j); err != nil {
		return "", err
	}
	return fmt.Sprintf("held and renewed for %s, with another worker asking; then settled", long.Round(100*time.Millisecond)), nil
}

// deadWorker falls silent with two jobs. They are ready again in time, charged as
// crashes, under new tokens; they are suspects, of which a session gets one at a time; and
// the dead one's late result is refused.
func deadWorker(ctx context.Context, b *bench) (string, error) {
	const check = "dead"
	within := b.ttl + 2*time.Second
	if err := b.timeFor("the rescue of a dead worker's jobs", within+slack); err != nil {
		return "", err
	}
	dead, err := b.hand(ctx, check)
	if err != nil {
		return "", err
	}
	for range 2 {
		if _, err := b.enqueue(ctx, check); err != nil {
			return "", err
		}
	}
	jobs, err := dead.take(ctx, 2)
	if err != nil {
		return "", err
	}
	dead.abandon()
	silent := time.Now()
	for _, j := range jobs {
		id, err := parse(j)
		if err != nil {
			return "", err
		}
		free := func(i *errand.JobInfo) bool { return i.State != errand.Running }
		info, err := b.await(ctx, id, within+slack-time.Since(silent), fmt.Sprintf("ready again, its worker silent for longer than %s", within), free)
		if err != nil {
			return "", b.braked(ctx, err)
		}
		if info.State == errand.Dead && info.Reason == "crashed" {
			return "", skipped("this server lets no job outlive a crash: it was a dead letter %s after its worker's last word", time.Since(silent).Round(time.Millisecond))
		}
		if info.State != errand.Ready || info.Crashes != 1 {
			return "", broken("job %s is %s with %d crashes after its worker died once", j.GetId(), info.State, info.Crashes)
		}
	}
	took := time.Since(silent)
	if err := b.late(ctx, dead, jobs[0]); err != nil {
		return "", err
	}
	if err := b.suspects(ctx, check, jobs); err != nil {
		return "", err
	}
	return fmt.Sprintf("ready again %s after the last word (time-to-live %s), one crash charged; a late result was refused; a session got one suspect at a time",
		took.Round(100*time.Millisecond), b.ttl), nil
}

// braked excuses err where the server says that it holds a mass rescue back.
func (b *bench) braked(ctx context.Context, err error) error {
	info, ierr := b.client.ServerInfo(ctx)
	if ierr == nil && info.Brake {
		return skipped("the brake is on: over half of all workers of this deployment died at once, and rescues are held back")
	}
	return err
}

// late settles for a dead session.
func (b *bench) late(ctx context.Context, dead *hand, j *errandv1.Job) error {
	id, err := parse(j)
	if err != nil {
		return err
	}
	r, err := dead.settle(ctx, success(j))
	if err == nil && r.GetProblem() == nil {
		return broken("a dead session's result for job %s, under token %d, was taken", j.GetId(), j.GetToken())
	}
	if err != nil && errand.ErrorOf(err).Reason != errand.ReasonSessionLost {
		return err
	}
	_, err = b.is(ctx, id, errand.Ready)
	return err
}

// suspects works two jobs off that have crashed once.
func (b *bench) suspects(ctx context.Context, check string, before []*errandv1.Job) error {
	h, err := b.hand(ctx, check)
	if err != nil {
		return err
	}
	for range before {
		got, err := h.lease(ctx, len(before), 2*time.Second)
		for deadline := time.Now().Add(b.patience()); err == nil && len(got) == 0; got, err = h.lease(ctx, len(before), 2*time.Second) {
			if time.Now().After(deadline) {
				return broken("a job that had crashed once was given to nobody within %s", b.patience())
			}
		}
		if err != nil {
			return err
		}
		if len(got) > 1 {
			return broken("a session was given %d jobs at once that had crashed before", len(got))
		}
		at := slices.IndexFunc(before, func(j *errandv1.Job) bool { return j.GetId() == got[0].GetId() })
		if at < 0 || got[0].GetToken() <= before[at].GetToken() {
			return broken("job %s was given out under token %d after token %v", got[0].GetId(), got[0].GetToken(), before)
		}
		if err := h.succeed(ctx, got[0]); err != nil {
			return err
		}
	}
	return nil
}

// lostLease repeats a Lease as after a lost answer, and then leaves one answer
// unheard: the job comes back uncharged.
func lostLease(ctx context.Context, b *bench) (string, error) {
	const check = "lost"
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
	again, err := b.svc.Lease(ctx, h.leaseRequest(h.leased, 1, 0))
	if err != nil {
		return "", err
	}
	if got := again.GetJobs(); len(got) != 1 || got[0].GetId() != j.GetId() || got[0].GetToken() != j.GetToken() {
		return "", broken("a repeated Lease was answered with %v; the first answer was job %s under token %d", got, j.GetId(), j.GetToken())
	}
	h.forget(j.GetId())
	if _, err := h.extend(ctx, nil); err != nil {
		return "", err
	}
	free := func(i *errand.JobInfo) bool { return i.State == errand.Ready }
	info, err := b.await(ctx, id, slack, "ready again, its holder having said that it does not hold it", free)
	if err != nil {
		return "", err
	}
	if info.Attempt != 0 || info.Crashes != 0 {
		return "", broken("job %s was charged for a lost answer: attempt %d, crashes %d", id, info.Attempt, info.Crashes)
	}
	second, err := h.one(ctx)
	if err != nil {
		return "", err
	}
	if second.GetToken() <= j.GetToken() {
		return "", broken("job %s was given out under token %d after token %d", id, second.GetToken(), j.GetToken())
	}
	if err := h.succeed(ctx, second); err != nil {
		return "", err
	}
	return "a repeated Lease got the same job; one whose answer was lost came back, uncharged, under a larger token", nil
}
