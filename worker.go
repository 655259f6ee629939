package errand

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Worker carries out jobs. Set its fields and register handlers, then Run it.
type Worker struct {
	Client      *Client
	Queues      []string      // of several, the first with work is served first; "default" if empty
	Concurrency int           // jobs at a time; 10 if zero
	Grace       time.Duration // how long Run waits for running jobs once its context has ended; 30 s if zero
	Name        string        // for people; host name and process id if empty
	Logger      *slog.Logger  // slog.Default() if nil
	Middleware  []Middleware  // around every handler, the first one outermost

	// Observer, if set, hears of every attempt.
	Observer WorkerObserver

	mu       sync.Mutex
	handlers map[string]Handler
	any      Handler
	running  bool
	stats    stats
}

// stats are the counters behind Stats.
type stats struct {
	started, succeeded, failed, discarded, snoozed, released, stale, overrun, sessions atomic.Int64
}

// WorkerStats counts what a worker did since its start.
type WorkerStats struct {
	Started   int64 // handlers called
	Succeeded int64
	Failed    int64 // attempts that failed or panicked
	Discarded int64
	Snoozed   int64
	Released  int64 // given back uncharged
	Stale     int64 // settlements refused, because the job had gone to another holder
	Overrun   int64 // handlers that went on for 5 s after their context had ended
	Sessions  int64 // sessions opened: more than one means that leases were lost
}

// Stats returns the worker's counters. It may be called at any time.
func (w *Worker) Stats() WorkerStats {
	s := &w.stats
	return WorkerStats{
		Started: s.started.Load(), Succeeded: s.succeeded.Load(), Failed: s.failed.Load(), Discarded: s.discarded.Load(),
		Snoozed: s.snoozed.Load(), Released: s.released.Load(), Stale: s.stale.Load(), Overrun: s.overrun.Load(),
		Sessions: s.sessions.Load(),
	}
}

// LeftError is Run's error when handlers had not returned at the end of the
// grace. The jobs are given back, uncharged, once the process is gone.
type LeftError struct{ Jobs []ID }

// Error implements error.
func (e *LeftError) Error() string {
	return fmt.Sprintf("errand: %d jobs were left running at the end of the grace: %s", len(e.Jobs), strings.Join(wireIDs(e.Jobs), ", "))
}

// Run works until ctx ends, through outages of the servers. Then it takes no
// more jobs, waits for the running ones up to Grace (the last tenth of which,
// at most 3 s, they spend with their contexts cancelled, cause ErrShutdown) and
// closes its session.
//
// It returns nil if all handlers returned, a *LeftError if some did not, and
// another error at once if the worker is not set up well or the server refuses it.
func (w *Worker) Run(ctx context.Context) error {
	r, err := w.prepare(ctx)
	if err != nil {
		return err
	}
	defer func() {
		w.mu.Lock()
		w.running = false
		w.mu.Unlock()
	}()
	return r.run(ctx)
}

// run is one Run of a Worker.
type run struct {
	w        *Worker
	c        *Client
	log      *slog.Logger
	queues   []string
	kinds    []string
	handlers map[string]Handler // with middleware
	any      Handler
	name     string
	grace    time.Duration
	observer WorkerObserver
	hands    *hands
	base     context.Context // of handlers: ctx's values, but not its end

	mu       sync.Mutex
	sessions map[*session]struct{} // not finished
	wg       sync.WaitGroup        // sessions finishing
	left     []ID
}

// prepare checks the Worker and freezes its settings.
func (w *Worker) prepare(ctx context.Context) (*run, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.Client == nil:
		return nil, errors.New("errand: the worker has no Client")
	case len(w.handlers) == 0 && w.any == nil:
		return nil, errors.New("errand: the worker has no handler: register one with errand.Handle")
	case w.Concurrency < 0 || w.Grace < 0:
		return nil, errors.New("errand: the worker's Concurrency or Grace is negative")
	case w.running:
		return nil, errors.New("errand: the worker is running already")
	}
	w.running = true
	r := &run{
		w: w, c: w.Client, log: w.Logger, queues: append([]string(nil), w.Queues...), name: w.Name, grace: w.Grace,
		handlers: make(map[string]Handler), base: context.WithoutCancel(ctx), sessions: make(map[*session]struct{}),
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	if r.observer = w.Observer; r.observer == nil {
		r.observer = silence{}
	}
	if len(r.queues) == 0 {
		r.queues = []string{"default"}
	}
	if r.name == "" {
		host, _ := os.Hostname() // a name for people: the process id alone will do
		r.name = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	if r.grace == 0 {
		r.grace = 30 * time.Second
	}
	r.hands = newHands(w.Concurrency)
	for kind, h := range w.handlers {
		r.handlers[kind] = wrap(h, w.Middleware)
		if w.any == nil {
			r.kinds = append(r.kinds, kind)
		}
	}
	if w.any != nil {
		r.any = wrap(w.any, w.Middleware)
	}
	return r, nil
}

func wrap(h Handler, ms []Middleware) Handler {
	for i := len(ms) - 1; i >= 0; i-- {
		h = ms[i](h)
	}
	return h
}

// run lives through one session after another until ctx ends. A session that
// was fenced or lost finishes in the background: its handlers may take a while.
func (r *run) run(ctx context.Context) error {
	// graceOver ends when no handler is waited for any more.
	graceOver, leave := context.WithCancel(r.base)
	drained := make(chan struct{})
	stopDrain := context.AfterFunc(ctx, func() { defer close(drained); r.drain(graceOver, leave) })
	defer func() {
		leave()
		if !stopDrain() {
			<-drained
		}
	}()
	var openErr error
	for first := true; ctx.Err() == nil; first = false {
		s, err := r.open(ctx, first)
		if err != nil {
			openErr = err
			break
		}
		s.leaseLoop(s.active)
		r.wg.Add(1)
		go func() {
			defer r.wg.Done()
			s.finish(graceOver)
		}()
	}
	r.wg.Wait()
	switch {
	case ctx.Err() == nil:
		return openErr
	case len(r.left) > 0:
		return &LeftError{Jobs: r.left}
	}
	return nil
}

// drain cancels the handlers shortly before the end of the grace, and calls
// leave at its end. It ends early when everything is finished.
func (r *run) drain(graceOver context.Context, leave func()) {
	r.log.Info("errand: draining", "running", r.holds())
	last := min(r.grace/10, 3*time.Second)
	if sleep(graceOver, r.grace-last) != nil {
		return
	}
	r.mu.Lock()
	for s := range r.sessions {
		s.cancelAll(ErrShutdown)
	}
	r.mu.Unlock()
	if sleep(graceOver, last) == nil {
		leave()
	}
}

// holds counts the jobs in the worker's hands.
func (r *run) holds() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for s := range r.sessions {
		n += s.holds()
	}
	return n
}

// handler returns the handler for a kind, or nil.
func (r *run) handler(kind string) Handler {
	if h, ok := r.handlers[kind]; ok {
		return h
	}
	return r.any
}

// hands counts the jobs that may run at a time.
type hands struct {
	mu    sync.Mutex
	all   int
	free  int
	freed chan struct{} // holds a token when free may have grown
}

func newHands(n int) *hands {
	if n == 0 {
		n = 10
	}
	return &hands{all: n, free: n, freed: make(chan struct{}, 1)}
}

// take waits for a free hand, and takes all that are free, at most most.
func (h *hands) take(ctx context.Context, most int) (int, error) {
	for {
		h.mu.Lock()
		n := min(h.free, most)
		h.free -= n
		h.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-h.freed:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// give returns hands.
func (h *hands) give(n int) {
	if n == 0 {
		return
	}
	h.mu.Lock()
	h.free += n
	h.mu.Unlock()
	signal(h.freed)
}

// signal leaves a token in ch, which has room for one.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
