package verify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	errand "github.com/errandhq/errand"
)

// truth are the checks of promise 4 that look at all jobs of the queue, when nothing
// moves there any more.
var truth = []check{
	{4, "the view agrees with the ledger", viewAgrees},
	{4, "the counters agree with the ledger", countersAgree},
}

// viewAgrees compares the states that the cache serves with the ledger's.
func viewAgrees(ctx context.Context, b *bench) (string, error) {
	found, err := b.present(ctx)
	if err != nil {
		return "", err
	}
	ids := make([]errand.ID, len(found))
	for i, j := range found {
		ids[i] = j.ID
	}
	differ := ""
	for deadline := time.Now().Add(5 * time.Second); ; {
		if differ, err = b.differ(ctx, ids); err != nil {
			return "", err
		}
		if differ == "" {
			return fmt.Sprintf("of %d jobs", len(ids)), nil
		}
		if time.Now().After(deadline) {
			return "", broken("%s, for 5s", differ)
		}
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return "", err
		}
	}
}

// differ names a job of which view and ledger say different things.
func (b *bench) differ(ctx context.Context, ids []errand.ID) (string, error) {
	for page := range slices.Chunk(ids, 1000) {
		fast, err := b.client.States(ctx, page...)
		if err != nil {
			return "", err
		}
		view := make(map[errand.ID]errand.JobState, len(fast))
		for _, s := range fast {
			view[s.ID] = s
		}
		jobs, err := b.client.Jobs(ctx, page...)
		if err != nil {
			return "", err
		}
		for _, j := range jobs {
			if s := view[j.ID]; s.State != j.State || s.Version != j.Version {
				return fmt.Sprintf("job %s is %q (version %d) in the view and %q (version %d) in the ledger", j.ID, s.State, s.Version, j.State, j.Version), nil
			}
		}
	}
	return "", nil
}

// countersAgree compares the queue's counters with what the ledger lists.
func countersAgree(ctx context.Context, b *bench) (string, error) {
	for deadline := time.Now().Add(10 * time.Second); ; {
		counted, err := b.counted(ctx)
		if err != nil {
			return "", err
		}
		listed, n, err := b.listed(ctx)
		if err != nil {
			return "", err
		}
		if maps.Equal(counted, listed) {
			return fmt.Sprintf("of %d jobs in the queue", n), nil
		}
		if time.Now().After(deadline) {
			return "", broken("the counters of queue %s say %v; the ledger lists %v", b.conf.Queue, counted, listed)
		}
		if err := wait(ctx, 200*time.Millisecond); err != nil {
			return "", err
		}
	}
}

// counted are the queue's counters by state, without those that are zero.
func (b *bench) counted(ctx context.Context) (map[errand.State]int64, error) {
	queues, err := b.client.Queues(ctx)
	counts := map[errand.State]int64{}
	for _, q := range queues {
		if q.Queue != b.conf.Queue {
			continue
		}
		for state, n := range map[errand.State]int64{
			errand.Scheduled: q.Scheduled, errand.Ready: q.Ready, errand.Running: q.Running,
			errand.Succeeded: q.Succeeded, errand.Dead: q.Dead, errand.Cancelled: q.Cancelled,
		} {
			if n != 0 {
				counts[state] = n
			}
		}
	}
	return counts, err
}

// listed are the queue's jobs by state.
func (b *bench) listed(ctx context.Context) (counts map[errand.State]int64, n int, err error) {
	counts = map[errand.State]int64{}
	for j, err := range b.client.List(ctx, errand.ListQuery{Queue: b.conf.Queue, PageSize: 1000}) {
		if err != nil {
			return nil, 0, err
		}
		counts[j.State]++
		n++
	}
	return counts, n, nil
}
