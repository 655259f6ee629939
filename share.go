package errand

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// The bounds of what shares a call.
const (
	sharedItems = 100
	sharedBytes = 1 << 20
	sharedCalls = 2 // under way at once, but for those that are full

	// After so long without an answer, or another call, what comes does not wait for
	// those under way: perhaps their server answers no more.
	callPatience = time.Second
)

// sharer lets single enqueues that come together share a call to the server: what a
// call costs on its way is many times what a job costs. What gathers while calls are
// under way goes with the next, so a lone enqueue never waits for company, and a full
// call for nothing.
//
// Each enqueue keeps its own bound in time and its own retries, and a call has as much
// time as the most patient of them. One that is refused is told so, and no other for its
// sake.
type sharer struct {
	send func(context.Context, *errandv1.EnqueueRequest) (*errandv1.EnqueueResponse, error)

	mu      sync.Mutex
	waiting []*sharedItem
	calls   int
	began   time.Time // the last of them
}

// sharedItem is one enqueue in the queue of a sharer.
type sharedItem struct {
	item   *errandv1.EnqueueItem
	until  time.Time   // when its try ends
	call   *sharedCall // that takes it; nil: none yet
	done   chan struct{}
	result *errandv1.EnqueueResult
	err    error
}

// sharedCall ends when nobody waits for it any more.
type sharedCall struct {
	ctx    context.Context
	cancel context.CancelFunc
	wanted int
}

// fits reports whether a job may share a call. One with a key may have to wait
// for another holder of the key, and nobody else is to wait with it.
func (p *EnqueueParams) fits() bool {
	return p.UniqueKey == "" && p.IdempotencyKey == "" && len(p.Payload) <= sharedBytes/sharedItems
}

// enqueue is one try of one job; the deadline of ctx is that of the try.
func (s *sharer) enqueue(ctx context.Context, it *errandv1.EnqueueItem) (*errandv1.EnqueueResponse, error) {
	until, _ := ctx.Deadline()
	one := &sharedItem{item: it, until: until, done: make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, one)
	if s.calls < sharedCalls || len(s.waiting)%sharedItems == 0 || time.Since(s.began) > callPatience {
		s.calls++
		s.began = time.Now()
		go s.run()
	}
	s.mu.Unlock()
	select {
	case <-one.done:
	case <-ctx.Done():
		s.leave(one)
		return nil, ctx.Err()
	}
	if one.err != nil {
		return nil, one.err
	}
	return &errandv1.EnqueueResponse{Results: []*errandv1.EnqueueResult{one.result}}, nil
}

// leave takes out an enqueue that is not waited for any more. If it is part of a call,
// nobody knows what becomes of it.
func (s *sharer) leave(one *sharedItem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := one.call; c != nil {
		if c.wanted--; c.wanted == 0 {
			c.cancel()
		}
		return
	}
	for i, w := range s.waiting {
		if w == one {
			s.waiting = append(s.waiting[:i:i], s.waiting[i+1:]...)
			return
		}
	}
}

// run makes calls while somebody waits.
func (s *sharer) run() {
	for {
		// Callers that were answered together come back together: let them run first.
		runtime.Gosched()
		c, batch := s.take()
		if len(batch) == 0 {
			return
		}
		s.call(c.ctx, batch)
		c.cancel()
	}
}

// take returns the next call and what it carries. With nothing left it ends a run.
func (s *sharer) take() (*sharedCall, []*sharedItem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.waiting), sharedItems)
	batch := s.waiting[:n:n]
	if s.waiting = s.waiting[n:]; len(s.waiting) == 0 {
		s.waiting = nil
	}
	if n == 0 {
		s.calls--
		return nil, nil
	}
	s.began = time.Now()
	// When it ends because nobody would wait longer, the route learns that the server
	// does not answer.
	until := slices.MaxFunc(batch, func(a, b *sharedItem) int { return a.until.Compare(b.until) }).until
	c := &sharedCall{wanted: n}
	c.ctx, c.cancel = context.WithDeadline(context.Background(), until)
	for _, one := range batch {
		one.call = c
	}
	return c, batch
}

// call sends a batch and answers it. If the whole is refused, which may be for the
// sake of one of them, each is sent alone, as one that the server may know.
func (s *sharer) call(ctx context.Context, batch []*sharedItem) {
	req := &errandv1.EnqueueRequest{Items: make([]*errandv1.EnqueueItem, len(batch))}
	for i, one := range batch {
		req.Items[i] = one.item
	}
	resp, err := s.send(ctx, req)
	if err != nil && len(batch) > 1 && !transient(ctx, err) {
		for i, one := range batch {
			one.item.FirstTry = false
			s.call(ctx, batch[i:i+1])
		}
		return
	}
	if err == nil && len(resp.GetResults()) != len(batch) {
		err = &Error{Code: CodeInternal, Message: fmt.Sprintf("the server answered %d of %d items", len(resp.GetResults()), len(batch))}
	}
	for i, one := range batch {
		if one.err = err; err == nil {
			one.result = resp.GetResults()[i]
		}
		close(one.done)
	}
}
