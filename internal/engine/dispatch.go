package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"

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
// comes, unless its session's last claim left nothing there, when the queue is woken and
// when the pulse has seen ready jobs in it, cleared when a claim found nothing. A claim is made for
// marked waiters only, so an empty queue costs none, and nothing spins.
type dispatcher struct {
	mu      sync.Mutex
	waiters []*waiter // the longest without an answer first
	gen     uint64    // grows with each wake: a mark is the generation that set it
	polled  bool      // the marks may be of a poll only: one request shows whether there is any work
	dry     dryness
	ended   bool
	bell    chan struct{}
}

// waiter is one Lease call.
type waiter struct {
	session  job.ID
	call     int64
	turn     int64 // grows with each claim but those by refs
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
	dry  bool // the queue had no more for the session
	err  error
}

// want is what a waiter asks of a queue; waiters with the same want are served in turn.
type want struct{ queue, kinds string }

// try is one request of a claim. With refs it asks for those jobs alone.
type try struct {
	w    *waiter
	want want
	refs []ledger.Ref
}

func newDispatcher() *dispatcher {
	return &dispatcher{bell: make(chan struct{}, 1), dry: newDryness()}
}

// join adds a waiter, which will be tried at once for those of its queues that
// are not carried and may have something for it, and a canary for all.
func (d *dispatcher) join(w *waiter, carried func(queue string) bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return errStopped()
	}
	if len(d.waiters) >= maxLeaseWaiter {
		return job.Errorf(job.ResourceExhausted, "", "%d calls wait for jobs already: try again later, or another server", len(d.waiters))
	}
	d.gen++
	for i, q := range w.queues {
		if w.once || w.ofCanary() || !carried(q) && !d.dry.holds(w.ask(q)) {
			w.marks[i] = d.gen
		}
	}
	d.waiters = append(d.waiters, w)
	ring(d.bell)
	return nil
}

func (w *waiter) ask(queue string) ask { return ask{w.session, want{queue, w.kindsKey}} }

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

// wake marks the waiters of queues, but for those for canaries: there is one canary a
// second at most, and a claim for each wake that finds none costs as much as one that
// brings jobs.
func (d *dispatcher) wake(queues []string) {
	d.mark(queues, func(w *waiter, q string) bool { return !w.ofCanary() && slices.Contains(queues, q) })
}

// wakeCanaries marks the waiters for canaries of queues.
func (d *dispatcher) wakeCanaries(queues []string) {
	d.mark(queues, func(w *waiter, q string) bool { return w.ofCanary() && slices.Contains(queues, q) })
}

// poll marks all waiters of queues that have ready jobs, those for canaries too, though they may be none that
// any of them may get.
func (d *dispatcher) poll(ready []string) {
	if len(ready) == 0 {
		return
	}
	d.mu.Lock()
	d.polled = true
	d.mu.Unlock()
	d.mark(ready, func(_ *waiter, q string) bool { return slices.Contains(ready, q) })
}

// ask returns what somebody waits for: the pulse will tell of it. What is known of all
// else is forgotten, for it does not: other kinds of the same queues too.
func (d *dispatcher) ask() []ledger.Head {
	d.mu.Lock()
	defer d.mu.Unlock()
	wants := map[want]bool{}
	var heads []ledger.Head
	for _, w := range d.waiters {
		for _, q := range w.queues {
			if it := (want{q, w.kindsKey}); !wants[it] {
				wants[it] = true
				heads = append(heads, ledger.Head{Queue: q, Kinds: w.kinds})
			}
		}
	}
	d.dry.keep(wants)
	return heads
}

func (d *dispatcher) wakeAll() {
	d.mark(nil, func(*waiter, string) bool { return true })
}

// wakeRest marks those waiters of a carried queue who ask for what does not go by its carrier.
func (d *dispatcher) wakeRest(queue string, c crew) {
	d.mark([]string{queue}, func(w *waiter, q string) bool {
		if q != queue {
			return false
		}
		rest, all := c.rest(w.kinds)
		return !w.ofCanary() && (all || len(rest) > 0)
	})
}

// expel marks the waiters whose sessions are not live in a list of all: a claim tells them so.
func (d *dispatcher) expel(list []ledger.Session) {
	live := make(map[job.ID]bool, len(list))
	for i := range list {
		live[list[i].ID] = list[i].State == ledger.SessionLive
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gen++
	for _, w := range d.waiters {
		if !live[w.session] { // or it was opened since, and the claim finds nothing
			w.marks[0] = d.gen
			ring(d.bell)
		}
	}
}

// mark is the one place where a wake is taken in: for those that wait, and for those
// that come later. Without queues it is one of all.
func (d *dispatcher) mark(queues []string, which func(w *waiter, queue string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gen++
	if queues == nil {
		d.dry.wakeAll(d.gen)
	}
	for _, q := range queues {
		d.dry.wake(q, d.gen)
	}
	any := false
	for _, w := range d.waiters {
		for i, q := range w.queues {
			if which(w, q) {
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
	alike, most := map[want]int{}, roundAlike
	if d.polled {
		d.polled, most = false, 1
	}
	for _, w := range d.waiters {
		i := slices.IndexFunc(w.marks, func(m uint64) bool { return m > 0 })
		if i < 0 || w.flying {
			continue
		}
		t := try{w: w, want: want{queue: w.queues[i], kinds: w.kindsKey}}
		if alike[t.want]++; alike[t.want] > most {
			continue
		}
		w.marks[i], w.flying = 0, true
		w.turn++
		if tries = append(tries, t); len(tries) == roundRequests {
			break
		}
	}
	return tries, d.gen
}

// land hands the answers of a round out. A want that found nothing is cleared
// from all marks up to gen: none of its like will find more. Those that
// got nothing go behind those that were not tried. It returns those that
// still wait: for the time of the claim they were out of carriers' sight.
func (d *dispatcher) land(tries []try, gen uint64, answers []leased) (waiting []*waiter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	tired := map[want]bool{}
	for k, t := range tries {
		t.w.flying = false
		if t.w.gone {
			continue // the dispatcher has ended: the session's next Extend gives the jobs back
		}
		a := answers[k]
		if a.err == nil && len(a.jobs) == 0 {
			tired[t.want] = true
		}
		if a.dry {
			d.dry.leave(t.w.ask(t.want.queue), gen)
		}
		if a.err != nil || len(a.jobs) > 0 || t.w.leaving {
			t.w.reply(a)
			continue
		}
		waiting = append(waiting, t.w)
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
		if w.once && !marked && !w.gone && !w.flying {
			w.reply(leased{})
		}
		if marked && !w.gone {
			ring(d.bell) // it was in the claim of another
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
	return waiting
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
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.bell:
		}
		for ctx.Err() == nil {
			tries, gen := d.round()
			if len(tries) == 0 {
				break
			}
			e.expectWaiters(d.land(tries, gen, e.claim(ctx, tries))...)
		}
	}
}

// claim makes one Claim for all tries.
func (e *Engine) claim(ctx context.Context, tries []try) []leased {
	ctx, cancel := patient(ctx)
	defer cancel()
	answers := make([]leased, len(tries))
	claimed, err := e.claimOnce(ctx, tries)
	for k, t := range tries {
		if err != nil {
			answers[k].err = err
			continue
		}
		answers[k] = leased{jobs: claimed[k].Jobs, err: claimed[k].Err, dry: e.leftNothing(t, claimed[k])}
	}
	return answers
}

// leftNothing reports whether a try asked for all that its want may get directly, and got it.
func (e *Engine) leftNothing(t try, c ledger.Claimed) bool {
	return c.Err == nil && !c.More && len(c.Jobs) < t.w.max && len(t.refs) == 0 && !e.carried(t.want.queue)
}

func (e *Engine) claimOnce(ctx context.Context, tries []try) ([]ledger.Claimed, error) {
	now, err := e.clock.now(ctx)
	if err != nil {
		return nil, err
	}
	var reqs []ledger.Claim
	from := make([]int, len(tries)+1)
	for k, t := range tries {
		reqs = append(reqs, e.claimsOf(t)...)
		from[k+1] = len(reqs)
	}
	claimed, err := e.ledger.Claim(ctx, now, reqs)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	if len(claimed) != len(reqs) {
		return nil, job.Errorf(job.Internal, "", "lease: %d answers to %d claims", len(claimed), len(reqs))
	}
	e.observeClaimed(now, claimed)
	joined := make([]ledger.Claimed, len(tries))
	for k := range tries {
		joined[k] = merge(claimed[from[k]:from[k+1]])
	}
	return joined, nil
}

// claimsOf makes the requests of a try. Of a queue whose refs a carrier brings
// only what never goes by a carrier is asked for: suspects, kinds that not every worker
// of the queue takes, and canaries.
func (e *Engine) claimsOf(t try) []ledger.Claim {
	c := ledger.Claim{
		Session: t.w.session, Call: t.w.call, Queue: t.want.queue, Kinds: t.w.kinds,
		Max: t.w.max, MaxBytes: job.MaxBatchBytes, Refs: t.refs,
	}
	if len(t.refs) > 0 || t.w.once || t.w.ofCanary() || !e.carried(t.want.queue) {
		return []ledger.Claim{c}
	}
	rest, all := e.routing.crew(t.want.queue).rest(t.w.kinds)
	if all {
		return []ledger.Claim{c}
	}
	suspect := c
	suspect.SuspectsOnly, suspect.Max, suspect.MaxBytes = true, 1, e.conf.MaxPayload
	c.Kinds = rest
	switch {
	case len(rest) == 0 || c.Max == 1 && t.w.turn%2 == 0: // one hand: now for the one, now for the other
		return []ledger.Claim{suspect}
	case c.Max == 1:
		return []ledger.Claim{c}
	}
	c.Max, c.MaxBytes = c.Max-1, c.MaxBytes-suspect.MaxBytes
	return []ledger.Claim{suspect, c}
}

// merge makes one answer of the answers to a try's requests.
func merge(parts []ledger.Claimed) ledger.Claimed {
	all := parts[0]
	for _, p := range parts[1:] {
		all.Jobs, all.More = append(all.Jobs, p.Jobs...), all.More || p.More
		if all.Err == nil {
			all.Err = p.Err
		}
	}
	return all
}
