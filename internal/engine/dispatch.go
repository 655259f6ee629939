package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// The size of a round: so many requests share a Claim, and of those that want
// the same thing so few that one new job does not make a hundred idle workers
// ask for it.
const (
	roundRequests = 16
	roundAlike    = 4
)

// dispatcher claims jobs for all Lease calls that wait in this process. Each
// waiter has a mark for each of its queues that may have work: set when it
// comes, when the queue is woken and at every poll interval, cleared when a claim
// found nothing. A claim is made for marked waiters only, so an empty queue
// costs one claim an interval, and nothing spins.
type dispatcher struct {
	mu      sync.Mutex
	waiters []*waiter // the longest without an answer first
	gen     uint64    // grows with each wake: a mark is the generation that set it
	ended   bool
	bell    chan struct{}
}

// waiter is one Lease call.
type waiter struct {
	session  job.ID
	call     int64
	queues   []string
	kinds    []string
	kindsKey string
	max      int
	once     bool // answer at once, jobs or not
	marks    []uint64
	flying   bool // in a claim under way
	leaving  bool // its caller takes that claim's answer, whatever it is
	gone     bool // has its answer, or has left
	answer   chan leased
}

type leased struct {
	jobs []job.Job
	err  error
}

// want is what a waiter asks of a queue; waiters with the same want are served in turn.
type want struct{ queue, kinds string }

// try is one request of a round.
type try struct {
	w    *waiter
	want want
}

func newDispatcher() *dispatcher {
	return &dispatcher{bell: make(chan struct{}, 1)}
}

// join adds a waiter, which will be tried at once.
func (d *dispatcher) join(w *waiter) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return errStopped()
	}
	if len(d.waiters) >= maxLeaseWaiter {
		return job.Errorf(job.ResourceExhausted, "", "%d calls wait for jobs already: try again later, or another server", len(d.waiters))
	}
	d.gen++
	for i := range w.marks {
		w.marks[i] = d.gen
	}
	d.waiters = append(d.waiters, w)
	ring(d.bell)
	return nil
}

// leave removes a waiter, or reports that its answer is on its way: that of
// the claim under way, even if it brings nothing.
func (d *dispatcher) leave(w *waiter) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w.flying || w.gone {
		w.leaving = true
		return false
	}
	w.gone = true
	d.waiters = slices.DeleteFunc(d.waiters, func(x *waiter) bool { return x == w })
	return true
}

// wake marks the waiters of queues.
func (d *dispatcher) wake(queues []string) {
	d.mark(func(q string) bool { return slices.Contains(queues, q) })
}

func (d *dispatcher) wakeAll() {
	d.mark(func(string) bool { return true })
}

func (d *dispatcher) mark(which func(queue string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gen++
	any := false
	for _, w := range d.waiters {
		for i, q := range w.queues {
			if which(q) {
				w.marks[i] = d.gen
				any = true
			}
		}
	}
	if any {
		ring(d.bell)
	}
}

// round chooses the requests of the next claim, and says in which generation.
func (d *dispatcher) round() ([]try, uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var tries []try
	alike := map[want]int{}
	for _, w := range d.waiters {
		i := slices.IndexFunc(w.marks, func(m uint64) bool { return m > 0 })
		if i < 0 {
			continue
		}
		t := try{w: w, want: want{w.queues[i], w.kindsKey}}
		if alike[t.want]++; alike[t.want] > roundAlike {
			continue
		}
		w.marks[i], w.flying = 0, true
		if tries = append(tries, t); len(tries) == roundRequests {
			break
		}
	}
	return tries, d.gen
}

// land hands the answers of a round out. A want that found nothing is cleared
// from all marks up to gen: none of its like will find more. Those that
// got nothing go behind those that were not tried.
func (d *dispatcher) land(tries []try, gen uint64, answers []leased) {
	d.mu.Lock()
	defer d.mu.Unlock()
	tired := map[want]bool{}
	for k, t := range tries {
		t.w.flying = false
		a := answers[k]
		if a.err == nil && len(a.jobs) == 0 {
			tired[t.want] = true
		}
		if a.err != nil || len(a.jobs) > 0 || t.w.leaving {
			t.w.reply(a)
		}
	}
	var first, last []*waiter
	for _, w := range d.waiters {
		marked := false
		for i, q := range w.queues {
			if w.marks[i] > 0 && w.marks[i] <= gen && tired[want{q, w.kindsKey}] {
				w.marks[i] = 0
			}
			marked = marked || w.marks[i] > 0
		}
		if w.once && !marked && !w.gone {
			w.reply(leased{})
		}
		switch {
		case w.gone:
		case slices.ContainsFunc(tries, func(t try) bool { return t.w == w }):
			last = append(last, w)
		default:
			first = append(first, w)
		}
	}
	d.waiters = append(first, last...)
}

func (w *waiter) reply(a leased) {
	w.gone = true
	w.answer <- a
}

// end answers all waiters, and refuses new ones.
func (d *dispatcher) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	for _, w := range d.waiters {
		w.reply(leased{err: errStopped()})
	}
	d.waiters = nil
}

// runDispatch claims while any waiter is marked.
func (e *Engine) runDispatch(ctx context.Context) {
	d := e.dispatch
	defer d.end()
	poll := time.NewTicker(e.conf.PollInterval)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
			d.wakeAll()
		case <-d.bell:
		}
		for ctx.Err() == nil {
			tries, gen := d.round()
			if len(tries) == 0 {
				break
			}
			d.land(tries, gen, e.claim(ctx, tries))
		}
	}
}

// claim makes one Claim for all tries.
func (e *Engine) claim(ctx context.Context, tries []try) []leased {
	ctx, cancel := patient(ctx)
	defer cancel()
	answers := make([]leased, len(tries))
	claimed, err := e.claimOnce(ctx, tries)
	for k := range tries {
		if err != nil {
			answers[k].err = err
			continue
		}
		answers[k] = leased{jobs: claimed[k].Jobs, err: claimed[k].Err}
	}
	return answers
}

func (e *Engine) claimOnce(ctx context.Context, tries []try) ([]ledger.Claimed, error) {
	now, err := e.clock.now(ctx)
	if err != nil {
		return nil, err
	}
	reqs := make([]ledger.Claim, len(tries))
	for k, t := range tries {
		reqs[k] = ledger.Claim{
			Session: t.w.session, Call: t.w.call, Queue: t.want.queue, Kinds: t.w.kinds,
			Max: t.w.max, MaxBytes: job.MaxBatchBytes,
		}
	}
	claimed, err := e.ledger.Claim(ctx, now, reqs)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	if len(claimed) != len(reqs) {
		return nil, job.Errorf(job.Internal, "", "lease: %d answers to %d claims", len(claimed), len(reqs))
	}
	e.observeClaimed(claimed)
	return claimed, nil
}
