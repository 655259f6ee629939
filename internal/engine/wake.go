package engine

import (
	"context"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
)

// wakeDebounce is how long wakes for other processes are gathered: a message
// for every commit would cost more than it brings.
const wakeDebounce = 5 * time.Millisecond

// waker gathers the queues that other processes should look at.
type waker struct {
	mu     sync.Mutex
	queues map[string]struct{}
	bell   chan struct{}
}

func newWaker() *waker {
	return &waker{queues: map[string]struct{}{}, bell: make(chan struct{}, 1)}
}

func (w *waker) add(queues []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range queues {
		w.queues[q] = struct{}{}
	}
	ring(w.bell)
}

func (w *waker) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	queues := make([]string, 0, len(w.queues))
	for q := range w.queues {
		queues = append(queues, q)
	}
	clear(w.queues)
	return queues
}

// wake makes work in queues found: at once by this process's own waiters, a
// few milliseconds later by those of others.
func (e *Engine) wake(queues ...string) {
	if len(queues) == 0 {
		return
	}
	e.rouse(queues)
	e.waker.add(queues)
}

// work is where jobs have become ready. Of a canary only this process's own waiters for
// canaries hear at once: it is mostly for them. Those of others find it by their poll.
type work struct{ queues, canaries []string }

func (w *work) add(j *job.Job) {
	if j.Kind == job.KindCanary {
		w.canaries = add(w.canaries, j.Queue)
	} else {
		w.queues = add(w.queues, j.Queue)
	}
}

func (e *Engine) wakeFor(w work) {
	e.wake(w.queues...)
	if len(w.canaries) > 0 {
		e.dispatch.wakeCanaries(w.canaries)
	}
}

// rouse tells whoever is concerned in this process that queues have work: the
// relay of those that are carried, the waiting workers of all others, and of
// those whose carrier is not there; and workers of kinds that it does not take.
func (e *Engine) rouse(queues []string) {
	if len(e.conf.Brokers) == 0 {
		e.dispatch.wake(queues)
		return
	}
	var direct []string
	for _, q := range queues {
		_, b := e.carrier(q)
		if b != nil {
			e.relay.wake(q)
		}
		if b == nil || !e.expectRefs(q) {
			direct = append(direct, q)
		} else if c := e.routing.crew(q); c.mixed {
			e.dispatch.wakeRest(q, c)
		}
	}
	if len(direct) > 0 {
		e.dispatch.wake(direct)
	}
}

// Wake makes jobs of a transaction of the caller's (EnqueueTx) found at once,
// when called after its commit. Such jobs are scheduled for their own now, so
// they are promoted first.
func (e *Engine) Wake(_ context.Context, queues []string) error {
	if len(queues) > job.MaxBatch {
		return job.Errorf(job.InvalidArgument, job.ReasonTooLarge, "%d queues; at most %d are allowed", len(queues), job.MaxBatch)
	}
	for _, q := range queues {
		if err := job.CheckName("queue", q); err != nil {
			return err
		}
	}
	e.promoter.kick()
	e.wake(queues...)
	return nil
}

func (e *Engine) runWaker(ctx context.Context) {
	ill := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.waker.bell:
		}
		if !pause(ctx, wakeDebounce) {
			return
		}
		call, cancel := context.WithTimeout(ctx, ledgerPatience)
		err := e.ledger.Wake(call, e.waker.take())
		cancel()
		if ctx.Err() == nil {
			ill = e.report("wake", ill, err)
		}
	}
}

// runListener hears the wakes of other processes. While the line is down the
// poll interval alone finds their work.
func (e *Engine) runListener(ctx context.Context) {
	ill := false
	for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
		began := e.conf.Monotonic()
		err := e.ledger.Listen(ctx, func(queue string) {
			if queue == "" {
				e.dispatch.wakeAll()
				ring(e.relay.bell)
				return
			}
			e.rouse([]string{queue})
		})
		if ctx.Err() != nil {
			return
		}
		ill = e.report("listen", ill, err)
		if e.conf.Monotonic()-began > time.Minute {
			wait = 100 * time.Millisecond
		}
		e.dispatch.wakeAll()
		if !pause(ctx, wait) {
			return
		}
	}
}

// pause waits for d and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
