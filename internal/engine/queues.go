package engine

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Queues returns all queues that have jobs, are paused or have a route, by name;
// canaries are no jobs of anybody's and are left out. Calls that
// come while one is being answered share the next answer, so that however many
// watch, the ledger reads its counters for one at a time, and no caller
// gets an answer from before its call.
func (e *Engine) Queues(ctx context.Context) ([]QueueInfo, error) {
	list, _, err := e.Overview(ctx)
	return list, err
}

// Overview returns what Queues and ListSessions do, in one reading. It is read only.
func (e *Engine) Overview(ctx context.Context) ([]QueueInfo, []ledger.Session, error) {
	o, err := e.overview(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("queues: %w", err)
	}
	return o.queues, o.sessions, nil
}

// overview is the state of all queues and sessions.
type overview struct {
	at       time.Duration // when its reading began, by the monotonic clock
	queues   []QueueInfo
	sessions []ledger.Session
}

func (e *Engine) overview(ctx context.Context) (*overview, error) {
	return e.queues.get(ctx, func(ctx context.Context) (*overview, error) {
		o := &overview{at: e.conf.Monotonic()}
		var err error
		if o.queues, o.sessions, err = e.readQueues(ctx); err != nil {
			return nil, err
		}
		e.lately.Store(o)
		return o, nil
	})
}

// shared lets callers share the answer of a read that began after each of them asked.
type shared[T any] struct {
	mu   sync.Mutex // one read at a time
	book sync.Mutex
	next *reading[T] // not begun yet
}

type reading[T any] struct {
	done  bool
	value T
	err   error
}

func (s *shared[T]) get(ctx context.Context, read func(context.Context) (T, error)) (T, error) {
	s.book.Lock()
	if s.next == nil {
		s.next = &reading[T]{}
	}
	mine := s.next
	s.book.Unlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	if mine.done && !isTimeout(mine.err) {
		return mine.value, mine.err
	}
	s.book.Lock()
	if s.next == mine {
		s.next = nil
	}
	s.book.Unlock()
	mine.value, mine.err = read(ctx)
	mine.done = true
	return mine.value, mine.err
}

func (e *Engine) readQueues(ctx context.Context) ([]QueueInfo, []ledger.Session, error) {
	counts, err := e.ledger.Counts(ctx)
	if err != nil {
		return nil, nil, err
	}
	paused, err := e.ledger.Paused(ctx)
	if err != nil {
		return nil, nil, err
	}
	routes, err := e.ledger.Routes(ctx)
	if err != nil {
		return nil, nil, err
	}
	oldest, err := e.ledger.OldestReady(ctx)
	if err != nil {
		return nil, nil, err
	}
	sessions, err := e.ledger.ListSessions(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	now, err := e.clock.now(ctx)
	if err != nil {
		return nil, nil, err
	}
	queues := map[string]*QueueInfo{}
	of := func(name string) *QueueInfo {
		q := queues[name]
		if q == nil {
			q = &QueueInfo{Queue: name, Counts: map[job.State]int64{}}
			queues[name] = q
		}
		return q
	}
	for _, name := range paused {
		of(name).Paused = true
	}
	for _, c := range counts {
		if c.N == 0 || c.Kind == job.KindCanary {
			continue
		}
		q := of(c.Queue)
		q.Counts[c.State] += c.N
		switch c.State {
		case job.Running:
			if q.Running == nil {
				q.Running = map[string]int64{}
			}
			q.Running[c.Kind] = c.N
		case job.Ready:
			q.Kinds = append(q.Kinds, KindInfo{Kind: c.Kind, Ready: c.N, WaitingForWorker: !taken(sessions, c.Queue, c.Kind)})
		}
	}
	for _, o := range oldest {
		if o.Kind == job.KindCanary {
			continue
		}
		of(o.Queue).age(o.Kind, now.Sub(o.Since))
	}
	for queue := range routes {
		of(queue)
	}
	for name, q := range queues {
		if q.Route = routes[name]; q.Route == "" {
			q.Route = e.conf.DefaultRoute
		}
	}
	return sorted(queues), sessions, nil
}

// age notes how long the oldest ready job of a kind has waited.
func (q *QueueInfo) age(kind string, d time.Duration) {
	q.HasReady = true
	q.OldestReady = max(q.OldestReady, d)
	i := slices.IndexFunc(q.Kinds, func(k KindInfo) bool { return k.Kind == kind })
	if i >= 0 {
		q.Kinds[i].OldestReady = max(d, 0)
	}
}

// taken reports whether a live session works on a kind in a queue.
func taken(sessions []ledger.Session, queue, kind string) bool {
	return slices.ContainsFunc(sessions, func(s ledger.Session) bool {
		return s.State == ledger.SessionLive && slices.Contains(s.Queues, queue) &&
			(len(s.Kinds) == 0 || slices.Contains(s.Kinds, kind))
	})
}

func sorted(queues map[string]*QueueInfo) []QueueInfo {
	out := make([]QueueInfo, 0, len(queues))
	for _, name := range slices.Sorted(maps.Keys(queues)) {
		q := queues[name]
		slices.SortFunc(q.Kinds, func(a, b KindInfo) int { return cmp.Compare(a.Kind, b.Kind) })
		out = append(out, *q)
	}
	return out
}

// Pause stops a queue: once it returned, no job of it is leased. Enqueues and
// running jobs are not affected, and the queue need not exist yet.
func (e *Engine) Pause(ctx context.Context, queue string) error {
	return e.setPaused(ctx, queue, true)
}

// Resume lets a paused queue go on, at once.
func (e *Engine) Resume(ctx context.Context, queue string) error {
	if err := e.setPaused(ctx, queue, false); err != nil {
		return err
	}
	e.wakeFor(work{[]string{queue}, []string{queue}})
	return nil
}

func (e *Engine) setPaused(ctx context.Context, queue string, paused bool) error {
	if err := job.CheckName("queue", queue); err != nil {
		return err
	}
	now, err := e.clock.now(ctx)
	if err != nil {
		return err
	}
	if err := e.ledger.SetPaused(ctx, now, queue, paused); err != nil {
		return fmt.Errorf("pause or resume queue %q: %w", queue, err)
	}
	e.log.Info("queue changed", "queue", queue, "paused", paused)
	return nil
}
