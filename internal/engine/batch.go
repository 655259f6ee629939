package engine

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/errandhq/errand/job"
)

// The bounds of what may wait for a batcher: a few seconds' work of a ledger.
const (
	maxWaitingItems = 50 * job.MaxBatch
	maxWaitingBytes = 16 * job.MaxBatchBytes
)

// batcher lets calls that arrive together share one commit. What gathers while
// a commit is under way is the next batch: there is no timer, so a lone call
// never waits for company, but by doWithin. One batch holds at most job.MaxBatch items and
// job.MaxBatchBytes, unless a single call brings more by itself; a call is never split, so it stays as
// atomic as commit is.
type batcher[Q, A any] struct {
	name   string
	commit func(context.Context, []Q) ([]A, error)
	weigh  func(Q) int

	mu      sync.Mutex
	waiting []*ticket[Q, A]
	items   int
	bytes   int
	ended   bool
	bell    chan struct{}
	alarm   *time.Timer // rings the bell for those who gather; nil: none does

	resuming atomic.Int64  // callers that were answered and have not run since
	resumed  chan struct{} // rung by the last of them
}

// ticket is one call in the queue of a batcher.
type ticket[Q, A any] struct {
	items   []Q
	bytes   int
	fate    fate
	done    chan struct{}
	answers []A
	err     error
}

// fate is how far a ticket has come; the batcher's lock guards it.
type fate int

const (
	isWaiting  fate = iota
	isTaken         // part of a batch: may be committed
	isAnswered      // its caller goes on
	isLeft          // taken, and nobody waits for the answer
)

func newBatcher[Q, A any](name string, commit func(context.Context, []Q) ([]A, error), weigh func(Q) int) *batcher[Q, A] {
	return &batcher[Q, A]{name: name, commit: commit, weigh: weigh, bell: make(chan struct{}, 1), resumed: make(chan struct{}, 1)}
}

// do has items committed and returns their answers. If ctx ends first: an
// error with code Canceled or DeadlineExceeded if nothing was done, and
// job.ErrUnknown if the items are part of a commit under way.
func (b *batcher[Q, A]) do(ctx context.Context, items []Q) ([]A, error) {
	return b.doWithin(ctx, items, 0, nil)
}

// doWithin is do for a call that can wait for company: for at most within, until
// another call is committed at once, or until hurry is closed.
func (b *batcher[Q, A]) doWithin(ctx context.Context, items []Q, within time.Duration, hurry <-chan struct{}) ([]A, error) {
	t := &ticket[Q, A]{items: items, done: make(chan struct{})}
	for _, i := range items {
		t.bytes += b.weigh(i)
	}
	if err := b.add(t, within); err != nil {
		return nil, err
	}
	select {
	case <-hurry:
		ring(b.bell)
	case <-t.done:
	case <-ctx.Done():
	}
	select {
	case <-t.done:
		return b.resume(t)
	case <-ctx.Done():
	}
	switch b.giveUp(t) {
	case isWaiting:
		return nil, ended(ctx)
	case isAnswered:
		<-t.done
		return b.resume(t)
	default:
		return nil, job.ErrUnknown
	}
}

// resume goes on with the answer.
func (b *batcher[Q, A]) resume(t *ticket[Q, A]) ([]A, error) {
	if b.resuming.Add(-1) == 0 {
		ring(b.resumed)
	}
	return t.answers, t.err
}

func (b *batcher[Q, A]) add(t *ticket[Q, A], within time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.ended:
		return errStopped()
	case len(b.waiting) > 0 && (b.items+len(t.items) > maxWaitingItems || b.bytes+t.bytes > maxWaitingBytes):
		return job.Errorf(job.Unavailable, job.ReasonLedgerDown, "%s: %d items wait for the ledger already: try again", b.name, b.items)
	}
	b.waiting = append(b.waiting, t)
	b.items += len(t.items)
	b.bytes += t.bytes
	switch {
	case within <= 0:
		ring(b.bell)
	case b.alarm == nil:
		b.alarm = time.AfterFunc(within, func() { ring(b.bell) })
	}
	return nil
}

// giveUp takes t out of the queue, if it is still there, and returns how far it had come.
func (b *batcher[Q, A]) giveUp(t *ticket[Q, A]) fate {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch t.fate {
	case isTaken:
		t.fate = isLeft
		return isTaken
	case isAnswered:
		return isAnswered
	}
	for i, w := range b.waiting {
		if w == t {
			b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
			b.items -= len(t.items)
			b.bytes -= t.bytes
			break
		}
	}
	return isWaiting
}

// take removes the next batch from the queue.
func (b *batcher[Q, A]) take() []*ticket[Q, A] {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disarm()
	n, items, bytes := 0, 0, 0
	for _, t := range b.waiting {
		if n > 0 && (items+len(t.items) > job.MaxBatch || bytes+t.bytes > job.MaxBatchBytes) {
			break
		}
		t.fate = isTaken
		items += len(t.items)
		bytes += t.bytes
		n++
	}
	batch := append([]*ticket[Q, A](nil), b.waiting[:n]...)
	clear(b.waiting[:n])
	b.waiting = b.waiting[n:]
	if len(b.waiting) == 0 {
		b.waiting = nil
	}
	b.items -= items
	b.bytes -= bytes
	return batch
}

func (b *batcher[Q, A]) disarm() {
	if b.alarm != nil {
		b.alarm.Stop()
		b.alarm = nil
	}
}

// run is the batcher's loop. When ctx ends, a commit under way is brought to
// its end, and whoever still waits is told that nothing was done.
func (b *batcher[Q, A]) run(ctx context.Context) {
	defer b.end()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.bell:
		}
		b.gather()
		for batch := b.take(); len(batch) > 0; batch = b.take() {
			b.serve(ctx, batch)
			if ctx.Err() != nil {
				return
			}
			b.gather()
		}
	}
}

// gather lets callers that were answered by the last commit come back, which those
// that enqueue one job after another do at once and together: else the next batch
// would be closed behind the first of them, and be a part of what it may be. It waits for each of
// them to run, not for what it does then, so nobody is held up by a slow one.
func (b *batcher[Q, A]) gather() {
	runtime.Gosched()
	if b.resuming.Load() == 0 {
		return
	}
	for b.resuming.Load() > 0 {
		<-b.resumed
	}
	runtime.Gosched() // the last of them
}

// serve commits a batch. An error that says that nothing was changed, and that
// the ledger is there, may be one caller's own: then each is tried alone, so
// that it does not spoil its neighbours' calls.
func (b *batcher[Q, A]) serve(ctx context.Context, batch []*ticket[Q, A]) {
	items := batch[0].items
	if len(batch) > 1 {
		n := 0
		for _, t := range batch {
			n += len(t.items)
		}
		items = make([]Q, 0, n)
		for _, t := range batch {
			items = append(items, t.items...)
		}
	}
	answers, err := b.try(ctx, items)
	if err != nil && len(batch) > 1 && !errors.Is(err, job.ErrUnknown) && job.CodeOf(err) != job.Unavailable && !isTimeout(err) {
		for _, t := range batch {
			b.serve(ctx, []*ticket[Q, A]{t})
		}
		return
	}
	for _, t := range batch {
		if err != nil {
			t.err = err
		} else {
			t.answers, answers = answers[:len(t.items):len(t.items)], answers[len(t.items):]
		}
	}
	b.answer(batch)
}

// answer has the callers go on with what their tickets say.
func (b *batcher[Q, A]) answer(batch []*ticket[Q, A]) {
	b.mu.Lock()
	for _, t := range batch {
		if t.fate != isLeft {
			t.fate = isAnswered
			b.resuming.Add(1)
		}
	}
	b.mu.Unlock() // first: they come back for it
	for _, t := range batch {
		close(t.done)
	}
}

func (b *batcher[Q, A]) try(ctx context.Context, items []Q) ([]A, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	answers, err := b.commit(ctx, items)
	if err == nil && len(answers) != len(items) {
		err = job.Errorf(job.Internal, "", "%s: %d answers to %d items", b.name, len(answers), len(items))
	}
	if err != nil && isTimeout(err) && job.ReasonOf(err) == "" {
		// Patience ran out in the middle of it: who knows what was committed.
		err = job.ErrUnknown
	}
	return answers, err
}

// end refuses whoever waits, and everyone after.
func (b *batcher[Q, A]) end() {
	b.mu.Lock()
	b.ended = true
	b.disarm()
	refused := b.waiting
	b.waiting, b.items, b.bytes = nil, 0, 0
	b.mu.Unlock()
	for _, t := range refused {
		t.err = errStopped()
	}
	b.answer(refused)
}

func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// ended is the error of a call whose own context ended before anything was done.
func ended(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return job.Errorf(job.DeadlineExceeded, "", "gave up waiting, nothing was changed: %w", ctx.Err())
	}
	return job.Errorf(job.Canceled, "", "gave up waiting, nothing was changed: %w", ctx.Err())
}

func errStopped() error {
	return job.Errorf(job.Unavailable, job.ReasonShuttingDown, "the server is stopping: nothing was changed, try another")
}
