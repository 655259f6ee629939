package engine

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// depthAge is how old the counts may be by which max_depth is judged.
const depthAge = time.Second

// depth bounds the queues. What a queue holds is taken to be the ledger's
// count, at most a second old, and what this process has let in since: so the
// bound is kept to within what other processes add in a second, and no enqueue
// counts anything.
type depth struct {
	most map[string]int64

	mu       sync.Mutex
	counted  map[string]int64 // by the ledger: scheduled and ready
	at       time.Duration
	known    bool
	open     map[string]int64 // let in, not committed yet
	since    map[string]int64 // committed since the count began
	counting sync.Mutex
}

func newDepth(most map[string]int64) *depth {
	return &depth{most: most, open: map[string]int64{}, since: map[string]int64{}}
}

// bound returns the bound of a queue; 0 is none.
func (d *depth) bound(queue string) int64 {
	if n, ok := d.most[queue]; ok {
		return n
	}
	return d.most["*"]
}

// room is what one call has reserved in the queues.
type room map[string]int64

// admit returns the places of the rows that their queues have room for, with
// the room reserved, and puts the refusal into the answers of the others. A row
// that is known already takes no room. The caller gives the room to depth.settle.
func (e *Engine) admit(ctx context.Context, rows []ledger.Item, answers []Enqueued) ([]int, room, error) {
	admitted := make([]int, 0, len(rows))
	if len(e.depth.most) == 0 {
		for i := range rows {
			admitted = append(admitted, i)
		}
		return admitted, nil, nil
	}
	if err := e.depth.refresh(ctx, e); err != nil {
		return nil, nil, err
	}
	taken, refused, again := e.depth.reserve(rows)
	known, err := e.known(ctx, again)
	if err != nil {
		e.depth.settle(taken, false)
		return nil, nil, err
	}
	for i := range rows {
		q := rows[i].Job.Queue
		if refused[i] && !known[rows[i].Job.ID] {
			answers[i] = Enqueued{Err: job.Errorf(job.ResourceExhausted, job.ReasonQueueFull,
				"queue %q holds its %d jobs: try again later", q, e.depth.bound(q))}
			continue
		}
		admitted = append(admitted, i)
	}
	return admitted, taken, nil
}

// known tells which of the ids the ledger has: they are repeated enqueues,
// owed their first answer even where the queue is full.
func (e *Engine) known(ctx context.Context, ids []job.ID) (map[job.ID]bool, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	jobs, err := e.ledger.Get(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("look for repeated jobs: %w", err)
	}
	known := make(map[job.ID]bool, len(jobs))
	for i := range jobs {
		known[jobs[i].ID] = true
	}
	return known, nil
}

// reserve takes room for each row and says which found none; again names those
// of them that may be repeated.
func (d *depth) reserve(rows []ledger.Item) (taken room, refused []bool, again []job.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	taken, refused = room{}, make([]bool, len(rows))
	for i := range rows {
		q := rows[i].Job.Queue
		bound := d.bound(q)
		switch {
		case bound <= 0:
		case d.counted[q]+d.since[q]+d.open[q] < bound:
			d.open[q]++
			taken[q]++
		default:
			refused[i] = true
			if !rows[i].Fresh {
				again = append(again, rows[i].Job.ID)
			}
		}
	}
	return taken, refused, again
}

// settle turns reserved room into jobs that were stored, or gives it back.
func (d *depth) settle(taken room, stored bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for q, n := range taken {
		if d.open[q] -= n; d.open[q] == 0 {
			delete(d.open, q)
		}
		if stored {
			d.since[q] += n
		}
	}
}

// refresh counts anew if the counts are too old. What is committed while it
// counts may be counted twice, for a second: never too little.
func (d *depth) refresh(ctx context.Context, e *Engine) error {
	d.counting.Lock()
	defer d.counting.Unlock()
	d.mu.Lock()
	fresh := d.known && e.conf.Monotonic()-d.at < depthAge
	before := maps.Clone(d.since)
	d.mu.Unlock()
	if fresh {
		return nil
	}
	at := e.conf.Monotonic()
	counts, err := e.ledger.Counts(ctx)
	if err != nil {
		return fmt.Errorf("count the queues: %w", err)
	}
	counted := map[string]int64{}
	for _, c := range counts {
		if c.State == job.Scheduled || c.State == job.Ready {
			counted[c.Queue] += c.N
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counted, d.at, d.known = counted, at, true
	for q, n := range before {
		if d.since[q] -= n; d.since[q] <= 0 {
			delete(d.since, q)
		}
	}
	return nil
}
