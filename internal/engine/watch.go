package engine

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

const (
	maxWatches  = 1000
	watchBuffer = 1024             // events that wait for one watcher
	watchBeat   = 10 * time.Second // silence after which a watcher is told that it is only silence
)

// WatchFilter chooses jobs: by ids, or all those of a queue, of a kind, of both,
// or of neither.
type WatchFilter struct {
	IDs   []job.ID
	Queue string
	Kind  string
}

// WatchEvent is what a watcher is told: a job's state, or that some were left out,
// or, with neither, that the line stands.
type WatchEvent struct {
	cache.Entry
	Lagged bool
}

// watches holds the Watch calls of this process.
type watches struct {
	mu   sync.Mutex
	byID map[job.ID]map[*watcher]bool
	wide map[*watcher]bool
	all  atomic.Int64
}

// watcher is one Watch and what waits for it.
type watcher struct {
	filter WatchFilter
	bell   chan struct{}

	mu     sync.Mutex
	events []cache.Entry
	lagged bool
}

func newWatches() *watches {
	return &watches{byID: map[job.ID]map[*watcher]bool{}, wide: map[*watcher]bool{}}
}

func (w *watches) join(f WatchFilter, bell chan struct{}) (*watcher, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.all.Load(); n >= maxWatches {
		return nil, job.Errorf(job.ResourceExhausted, "", "%d calls watch already: try again later", n)
	}
	w.all.Add(1)
	one := &watcher{filter: f, bell: bell}
	if len(f.IDs) == 0 {
		w.wide[one] = true
	}
	for _, id := range f.IDs {
		if w.byID[id] == nil {
			w.byID[id] = map[*watcher]bool{}
		}
		w.byID[id][one] = true
	}
	return one, nil
}

func (w *watches) any() bool { return w.all.Load() > 0 }

func (w *watches) leave(one *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all.Add(-1)
	delete(w.wide, one)
	for _, id := range one.filter.IDs {
		if delete(w.byID[id], one); len(w.byID[id]) == 0 {
			delete(w.byID, id)
		}
	}
}

// tell passes entries on to whoever watches them. It waits for nobody.
func (w *watches) tell(entries []cache.Entry) {
	if !w.any() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range entries {
		for one := range w.byID[entries[i].ID] {
			one.take(&entries[i])
		}
		for one := range w.wide {
			if f := &one.filter; (f.Queue == "" || f.Queue == entries[i].Queue) && (f.Kind == "" || f.Kind == entries[i].Kind) {
				one.take(&entries[i])
			}
		}
	}
}

// tellByID passes on what was read of jobs to those who watch these by id, and
// know old news by the version. gone are not there, or not any more.
func (w *watches) tellByID(entries []cache.Entry, gone []job.ID) {
	if !w.any() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range entries {
		for one := range w.byID[entries[i].ID] {
			one.take(&entries[i])
		}
	}
	for _, id := range gone {
		for one := range w.byID[id] {
			one.take(&cache.Entry{ID: id, State: job.Deleted})
		}
	}
}

// missed tells all that there may have been events that nobody heard of.
func (w *watches) missed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, set := range append(slices.Collect(maps.Values(w.byID)), w.wide) {
		for one := range set {
			one.lag()
		}
	}
}

func (w *watcher) take(e *cache.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) >= watchBuffer {
		w.lagged = true
	} else {
		w.events = append(w.events, *e)
	}
	ring(w.bell)
}

func (w *watcher) lag() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lagged = true
	ring(w.bell)
}

func (w *watcher) drain() (events []cache.Entry, lagged bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events, lagged = w.events, w.lagged
	w.events, w.lagged = nil, false
	return events, lagged
}

// Watch calls each with what becomes of the jobs that f chooses, until ctx ends,
// each returns an error, or the server drains: then the error says so. Each is called at
// least every ten seconds. A slow watcher is told by Lagged that events were left out.
//
// By ids it begins with the state of each job that exists (of one that does not,
// as deleted), tells states of one job in the order of their versions, and misses
// no final state that a job still had half a second later, wherever it was reached. By queue
// or kind it tells what this process does, and of others what the cache brings.
func (e *Engine) Watch(ctx context.Context, f WatchFilter, each func(WatchEvent) error) error {
	if len(f.IDs) > 0 {
		if err := checkIDs(f.IDs); err != nil {
			return err
		}
		if f.Queue != "" || f.Kind != "" {
			return job.Errorf(job.InvalidArgument, job.ReasonBadField, "jobs are watched by their ids, or by queue and kind, not both")
		}
	}
	call := &waitCall{bell: make(chan struct{}, 1)}
	if err := e.waits.join(call, f.IDs); err != nil {
		return err
	}
	defer e.waits.leave(call, f.IDs)
	e.awaitLine(ctx)
	one, err := e.watches.join(f, call.bell)
	if err != nil {
		return err
	}
	defer e.watches.leave(one)
	w := &watching{e: e, one: one, each: each, call: call, seen: map[job.ID]seen{}}
	return w.run(ctx)
}

// watching is a Watch under way.
type watching struct {
	e    *Engine
	one  *watcher
	call *waitCall
	each func(WatchEvent) error
	seen map[job.ID]seen // of the jobs watched by id: what was told last
}

type seen struct {
	version int64 // 0: nothing, or that it is not there
	final   bool
	told    bool
}

func (w *watching) run(ctx context.Context) error {
	begin := w.reread
	if len(w.one.filter.IDs) == 0 { // nothing to tell yet, but that the line stands
		begin = func(context.Context) error { return w.each(WatchEvent{}) }
	}
	if err := begin(ctx); err != nil {
		return err
	}
	beat := time.NewTicker(watchBeat)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-w.one.bell:
			err = w.pass(ctx)
		case <-beat.C:
			err = w.each(WatchEvent{})
		case <-w.e.draining:
			return errStopped()
		case <-w.e.stopped:
			return errStopped()
		case <-ctx.Done():
			return ended(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// pass tells what has gathered.
func (w *watching) pass(ctx context.Context) error {
	events, lagged := w.one.drain()
	for i := range events {
		if err := w.tell(&events[i]); err != nil {
			return err
		}
	}
	if !lagged {
		return nil
	}
	if err := w.each(WatchEvent{Lagged: true}); err != nil {
		return err
	}
	return w.reread(ctx)
}

// tell tells one state, of a job watched by its id only if it is news.
func (w *watching) tell(s *cache.Entry) error {
	if len(w.one.filter.IDs) == 0 {
		return w.each(WatchEvent{Entry: *s})
	}
	last, gone := w.seen[s.ID], s.State == job.Deleted
	if !gone && s.Version <= last.version || gone && last.told && last.version == 0 {
		return nil
	}
	now := seen{version: s.Version, final: s.State.Final() || gone, told: true}
	if gone {
		now.version = 0 // its id may be used again
	}
	w.seen[s.ID] = now
	if now.final != last.final {
		w.e.waits.follow(w.call, s.ID, !now.final)
	}
	return w.each(WatchEvent{Entry: *s})
}

// reread tells what the ledger has of the jobs watched by id, but for those
// that were final already.
func (w *watching) reread(ctx context.Context) error {
	var open []job.ID
	for _, id := range w.one.filter.IDs {
		if !w.seen[id].final {
			open = append(open, id)
		}
	}
	if len(open) == 0 {
		return nil
	}
	states, err := w.e.States(ctx, open, true)
	if err != nil {
		return err
	}
	there := make(map[job.ID]bool, len(states))
	for i := range states {
		there[states[i].ID] = true
		if err := w.tell(&states[i].Entry); err != nil {
			return err
		}
	}
	for _, id := range open {
		if there[id] || w.seen[id].final {
			continue
		}
		if err := w.tell(&cache.Entry{ID: id, State: job.Deleted, Version: w.seen[id].version + 1, At: w.e.Now()}); err != nil {
			return err
		}
	}
	return nil
}
