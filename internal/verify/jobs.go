package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	errand "github.com/errandhq/errand"
	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/internal/auth"
)

// kindOf names the kind of the jobs of a check.
func kindOf(check string) string { return "verify." + check }

// kinds are all kinds of the checks. What else begins with verify. is the user's.
var kinds = func() (all []string) {
	for _, check := range []string{
		"atomic", "bad", "bounds", "calls", "cancel", "dead", "doubled", "drain", "expiry", "failures", "growing",
		"held", "idempotency", "load", "lost", "order", "pill", "probe", "repeat", "stale", "unique",
	} {
		all = append(all, kindOf(check))
	}
	return all
}()

func isKind(kind string) bool { return slices.Contains(kinds, kind) }

// tag is on every canary: a job without it is nobody's to remove here, whatever its kind.
const tag = "errand-verify"

// remember keeps an id, so that the job is not left behind.
func (b *bench) remember(ids ...errand.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		b.ids[id] = true
	}
}

// params makes a job of a check, with an id of its own.
func (b *bench) params(check string, opts ...errand.EnqueueOption) errand.EnqueueParams {
	p := errand.NewParams(kindOf(check), []byte(`{}`), append([]errand.EnqueueOption{
		errand.Queue(b.conf.Queue), errand.WithID(errand.NewID()),
	}, opts...)...)
	p.Tags = append(p.Tags, tag)
	b.remember(p.ID)
	return p
}

// enqueue stores a job of a check.
func (b *bench) enqueue(ctx context.Context, check string, opts ...errand.EnqueueOption) (errand.ID, error) {
	p := b.params(check, opts...)
	r, err := b.client.Enqueue(ctx, p)
	if err != nil {
		return p.ID, fmt.Errorf("enqueue: %w", err)
	}
	if r.ID != p.ID {
		return p.ID, broken("an enqueue of the new id %s was answered with job %s", p.ID, r.ID)
	}
	return p.ID, nil
}

// enqueueTo stores a job and gives it to a hand of the check.
func (b *bench) enqueueTo(ctx context.Context, h *hand, check string, opts ...errand.EnqueueOption) (*errandv1.Job, error) {
	id, err := b.enqueue(ctx, check, opts...)
	if err != nil {
		return nil, err
	}
	j, err := h.one(ctx)
	if err == nil && j.GetId() != id.String() {
		return nil, broken("job %s was ready alone, and %s was given out", id, j.GetId())
	}
	return j, err
}

// job is a job as the ledger has it. That an accepted one is not there is a broken promise.
func (b *bench) job(ctx context.Context, id errand.ID) (*errand.JobInfo, error) {
	j, err := b.client.Job(ctx, id)
	if errors.Is(err, errand.ErrNotFound) {
		return nil, broken("job %s was accepted, and the ledger does not have it", id)
	}
	return j, err
}

// is wants a job to be in a state now.
func (b *bench) is(ctx context.Context, id errand.ID, want errand.State) (*errand.JobInfo, error) {
	j, err := b.job(ctx, id)
	if err == nil && j.State != want {
		return j, broken("job %s is %s (%s), attempt %d, token %d; want %s", id, j.State, j.Reason, j.Attempt, j.Token, want)
	}
	return j, err
}

// await waits until a job is as wanted.
func (b *bench) await(ctx context.Context, id errand.ID, within time.Duration, what string, good func(*errand.JobInfo) bool) (*errand.JobInfo, error) {
	for deadline := time.Now().Add(within); ; {
		j, err := b.job(ctx, id)
		if err != nil || good(j) {
			return j, err
		}
		if time.Now().After(deadline) {
			return j, broken("job %s is not %s after %s: it is %s (%s), attempt %d, crashes %d, token %d",
				id, what, within.Round(time.Millisecond), j.State, j.Reason, j.Attempt, j.Crashes, j.Token)
		}
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return j, err
		}
	}
}

// wait is the pace of looking again.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// parse reads the id of a job that was given out.
func parse(j *errandv1.Job) (errand.ID, error) {
	id, err := errand.ParseID(j.GetId())
	if err != nil {
		return id, broken("a job was given out with the id %q", j.GetId())
	}
	return id, nil
}

// tidying bounds the removal of what was left.
const tidying = 20 * time.Second

// clear ends the sessions and the jobs of the run, and tells what became of them.
func (b *bench) clear(ctx context.Context, r *Report) {
	ctx, cancel := context.WithTimeout(ctx, tidying)
	defer cancel()
	for _, h := range b.hands {
		h.silent()
	}
	stored, found, err := b.tidy(ctx)
	if err != nil {
		r.Left = []string{"not known, for the server did not answer: the next run on this queue removes them"}
		return
	}
	for _, j := range found {
		if j.State == errand.Succeeded || j.State == errand.Cancelled {
			r.Retained++
		} else {
			r.Left = append(r.Left, j.ID.String())
		}
	}
	r.Jobs, r.Deleted = len(stored), len(stored)-len(found)
}

// tidy ends sessions and jobs, and returns the jobs there were and those that are left.
func (b *bench) tidy(ctx context.Context) (stored, found []*errand.JobInfo, err error) {
	brief, cancel := context.WithTimeout(ctx, tidying/4)
	defer cancel()
	if stored, err = b.present(brief); err != nil {
		return nil, nil, err
	}
	for _, h := range b.hands {
		h.letGo(ctx)
	}
	if err := b.end(ctx); err != nil {
		return nil, nil, err
	}
	found, err = b.present(ctx)
	return stored, found, err
}

// letGo gives back what a hand still holds and closes its session.
func (h *hand) letGo(ctx context.Context) {
	h.silent()
	if h.closed {
		return
	}
	h.mu.Lock()
	held := maps.Clone(h.held)
	h.mu.Unlock()
	if h.dead {
		held = nil // the server takes it, or has done so
	}
	for id, token := range held {
		// What it held may have gone to another: then there is nothing to give back.
		_, _ = h.settle(ctx, &errandv1.Settlement{Id: id, Token: token, Outcome: errandv1.Outcome_OUTCOME_RELEASE})
	}
	_ = h.close(ctx, true) // what could not be given back, the server takes
}

// end ends all jobs of the run: an operator's are deleted, others cancelled, which leaves
// them to the retention. What runs still has its session's end to wait for.
func (b *bench) end(ctx context.Context) error {
	for {
		found, err := b.present(ctx)
		if err != nil {
			return err
		}
		var ids []errand.ID
		running := false
		for _, j := range found {
			final := j.State == errand.Succeeded || j.State == errand.Cancelled
			if b.operator() || !final {
				ids = append(ids, j.ID)
			}
			running = running || j.State == errand.Running
		}
		if len(ids) == 0 {
			return nil
		}
		if err := b.remove(ctx, ids); err != nil {
			return err
		}
		if running {
			if err := wait(ctx, 250*time.Millisecond); err != nil {
				return fmt.Errorf("jobs of this run still have a holder: %w", err)
			}
		}
	}
}

func (b *bench) operator() bool { return b.role&auth.Operator != 0 }

// remove deletes or cancels. That a job moved meanwhile is seen by the next look.
func (b *bench) remove(ctx context.Context, ids []errand.ID) error {
	for page := range slices.Chunk(ids, 1000) {
		if b.operator() {
			if _, err := b.client.DeleteMany(ctx, page...); err != nil {
				return fmt.Errorf("delete canaries: %w", err)
			}
		}
		// A running one cannot be deleted; so its next end is its last.
		if _, err := b.client.CancelMany(ctx, page...); err != nil {
			return fmt.Errorf("cancel canaries: %w", err)
		}
	}
	return nil
}

// present are the jobs of the run that the ledger has.
func (b *bench) present(ctx context.Context) (found []*errand.JobInfo, err error) {
	b.mu.Lock()
	ids := slices.Collect(maps.Keys(b.ids))
	b.mu.Unlock()
	for page := range slices.Chunk(ids, 1000) {
		jobs, err := b.client.Jobs(ctx, page...)
		if err != nil {
			return nil, err
		}
		found = append(found, jobs...)
	}
	return found, nil
}
