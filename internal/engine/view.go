package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

const (
	freshFor       = time.Second            // an entry that may change is served for so long after At
	cacheTTL       = 5 * time.Minute        // of final states, and a little longer of tombstones
	fenceTTL       = time.Minute            // of other states: only to keep older ones away
	lateAfter      = 30 * time.Second       // an entry that could not be written for so long is dropped
	readPatience   = 150 * time.Millisecond // for the cache, before the ledger is asked
	writePatience  = time.Second
	breakAfter     = 3               // failures in a row, before the cache is left alone
	breakFor       = 2 * time.Second // before it is tried again
	writeBatch     = job.MaxBatch
	gatherHeard    = 10 * time.Millisecond // at most, between two writes
	gatherUnheard  = 50 * time.Millisecond
	readChunk      = 32 // jobs read from the ledger at a time: they come with their payloads
	farewellBudget = time.Second
)

// Stated is what the view knows of a job.
type Stated struct {
	cache.Entry
	Age    time.Duration // since the ledger was known to say so
	Cached bool          // the cache answered, not the ledger
}

// view is the fast view of job states: it hears of every change here, writes
// it to the cache behind the caller's back, and answers from there. Whatever is
// wrong with the cache costs the speed of an answer, and nothing else.
type view struct {
	e      *Engine
	cache  cache.Cache // nil: none
	queue  *behind
	sample *sample
	reads  *gobreaker.CircuitBreaker[[]cache.Entry]
	writes *gobreaker.CircuitBreaker[struct{}]
	line   *newsLine

	hits, misses, shed, probed, drift atomic.Int64
}

func newView(e *Engine, c cache.Cache) *view {
	return &view{
		e: e, cache: c, queue: newBehind(), sample: newSample(e.conf.Rand), line: newNewsLine(),
		reads:  gobreaker.NewCircuitBreaker[[]cache.Entry](e.breaker("cache reads")),
		writes: gobreaker.NewCircuitBreaker[struct{}](e.breaker("cache writes")),
	}
}

// breaker leaves a part alone that fails or does not answer. A caller who lost
// interest says nothing about the part.
func (e *Engine) breaker(name string) gobreaker.Settings {
	return gobreaker.Settings{
		Name: name, Timeout: breakFor,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakAfter },
		IsExcluded:  func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(name string, from, to gobreaker.State) {
			switch {
			case to == gobreaker.StateOpen && from == gobreaker.StateClosed:
				e.log.Warn("the cache is in trouble: going on without it", "breaker", name)
			case to == gobreaker.StateClosed:
				e.log.Info("the cache is well again", "breaker", name)
			}
		},
	}
}

// Observe implements Observer.
func (v *view) Observe(changes []Change) {
	if changes = v.wanted(changes); len(changes) == 0 {
		return
	}
	room := entryRooms.Get().(*[]cache.Entry)
	entries := (*room)[:0]
	for i := range changes {
		e := cache.Of(changes[i].Job, changes[i].At)
		e.Tell = true
		entries = append(entries, e)
	}
	v.write(entries) // first: who is told, and asks, is answered alike
	v.e.watches.tell(entries)
	clear(entries)
	*room = entries
	entryRooms.Put(room)
}

// entryRooms keeps the room for what is told: whoever keeps an entry copies it.
var entryRooms = sync.Pool{New: func() any { return new([]cache.Entry) }}

// wanted returns the changes that someone may learn of. Into a cache of this
// process alone nothing is written but what was read before, and is there
// still: whoever asks for another job reads the ledger, once, and work on jobs
// that nobody follows costs a look. A deletion is always written: it keeps out
// what was read just before it.
func (v *view) wanted(changes []Change) []Change {
	switch {
	case v.e.watches.any():
		return changes
	case v.cache != nil && v.cache.Shared():
		if v.unheard() && !slices.ContainsFunc(changes, wasThere) && v.queue.pass(len(changes), v.e.conf.Monotonic()) {
			return nil // there is nothing older that they would keep from being served
		}
		return changes
	}
	if v.cache == nil {
		return nil
	}
	ids := make([]job.ID, len(changes))
	for i := range changes {
		ids[i] = changes[i].Job.ID
	}
	found, _ := v.cache.Get(context.Background(), ids) // of memory: it does not fail
	known := v.queue.of(ids)
	for _, e := range found {
		known[e.ID] = e
	}
	var out []Change
	for _, c := range changes {
		if _, ok := known[c.Job.ID]; ok || c.Job.State == job.Deleted {
			out = append(out, c)
		}
	}
	return out
}

func wasThere(c Change) bool { return c.From != 0 }

// write has entries written to the cache soon.
func (v *view) write(entries []cache.Entry) {
	if v.cache == nil {
		return
	}
	for i := range entries {
		entries[i].TTL = v.ttl(&entries[i])
		if entries[i].Lasting() {
			v.sample.offer(entries[i].ID)
		}
	}
	v.enqueue(entries)
}

func (v *view) enqueue(entries []cache.Entry) {
	v.shed.Add(int64(v.queue.add(entries, v.e.conf.Monotonic())))
}

func (v *view) ttl(e *cache.Entry) time.Duration {
	switch {
	case e.Lasting():
		return v.e.conf.CacheTTL
	case e.State == job.Deleted: // it outlives what comes as late as anything may
		return v.e.conf.CacheTTL + lateAfter + writePatience
	}
	return min(fenceTTL, v.e.conf.CacheTTL)
}

// read returns what the cache holds, or is on its way there, and may be served
// at the ledger's time now.
func (v *view) read(ctx context.Context, ids []job.ID, now time.Time) map[job.ID]cache.Entry {
	if v.cache == nil {
		return nil
	}
	held := v.queue.of(ids) // before the cache is asked: what lands meanwhile may not be in its answer
	for _, e := range v.get(ctx, ids) {
		if ours, ok := held[e.ID]; !ok || e.Newer(&ours) {
			held[e.ID] = e
		}
	}
	maps.DeleteFunc(held, func(_ job.ID, e cache.Entry) bool { return !servable(&e, now) })
	return held
}

// get asks the cache, which the breaker leaves alone in trouble. A caller whose
// time ends before the cache's patience does says nothing about the cache.
func (v *view) get(ctx context.Context, ids []job.ID) []cache.Entry {
	list, err := v.reads.Execute(func() ([]cache.Entry, error) {
		bounded, cancel := context.WithTimeout(ctx, readPatience)
		defer cancel()
		list, err := v.cache.Get(bounded, ids)
		if err != nil && ctx.Err() != nil {
			err = context.Canceled
		}
		return list, err
	})
	if err != nil {
		return nil // the breaker tells of it
	}
	return list
}

// servable is the rule of design §3.5. A tombstone is never served: the id may
// have been used again. An entry from the future is one of a clock that was set back.
func servable(e *cache.Entry, now time.Time) bool {
	age := now.Sub(e.At)
	switch {
	case e.State == job.Deleted, age < -freshFor:
		return false
	case e.Lasting():
		return true
	}
	return age <= freshFor
}

// States returns what is known of the jobs that exist, in the order of the ids:
// from the cache, where it holds what may be served, else from the ledger, as it
// does of all with fresh.
func (e *Engine) States(ctx context.Context, ids []job.ID, fresh bool) ([]Stated, error) {
	if err := checkIDs(ids); err != nil {
		return nil, err
	}
	now, err := e.clock.now(ctx)
	if err != nil {
		return nil, err
	}
	var held map[job.ID]cache.Entry
	if !fresh {
		held = e.view.read(ctx, ids, now)
		e.view.hits.Add(int64(len(held)))
	}
	var missing []job.ID
	for _, id := range ids {
		if _, ok := held[id]; !ok {
			missing = append(missing, id)
		}
	}
	read, err := e.readThrough(ctx, missing)
	if err != nil {
		return nil, err
	}
	if !fresh {
		e.view.misses.Add(int64(len(missing)))
	}
	now = e.Now()
	out := make([]Stated, 0, len(ids))
	for _, id := range ids {
		if s, ok := held[id]; ok {
			out = append(out, Stated{Entry: s, Age: max(now.Sub(s.At), 0), Cached: true})
		} else if s, ok := read[id]; ok {
			out = append(out, Stated{Entry: s, Age: max(now.Sub(s.At), 0)})
		}
	}
	return out, nil
}

// readThrough asks the ledger, and fills the cache with the answer.
func (e *Engine) readThrough(ctx context.Context, ids []job.ID) (map[job.ID]cache.Entry, error) {
	out, err := e.readStates(ctx, ids)
	if err == nil {
		e.view.write(slices.Collect(maps.Values(out)))
	}
	return out, err
}

// readStates asks the ledger.
func (e *Engine) readStates(ctx context.Context, ids []job.ID) (map[job.ID]cache.Entry, error) {
	out := make(map[job.ID]cache.Entry, len(ids))
	for chunk := range slices.Chunk(ids, readChunk) {
		at, err := e.clock.now(ctx)
		if err != nil {
			return nil, err
		}
		jobs, err := e.ledger.Get(ctx, chunk)
		if err != nil {
			return nil, fmt.Errorf("read states: %w", err)
		}
		for i := range jobs {
			out[jobs[i].ID] = cache.Of(&jobs[i], at)
		}
	}
	return out, nil
}

// runView writes behind: what has gathered in the queue, a batch at a time. What
// comes first to an idle queue is written at once; after a write more gathers, for
// a time that such a write is worth.
func (e *Engine) runView(ctx context.Context) {
	v := e.view
	if v.cache == nil {
		return
	}
	for ctx.Err() == nil {
		began := e.conf.Monotonic()
		entries, wait := v.queue.take(writeBatch, began, v.unheard())
		switch {
		case len(entries) == 0:
			v.idle(ctx, wait)
		case v.put(ctx, entries) != nil:
			v.shed.Add(int64(v.queue.putBack()))
			pause(ctx, 100*time.Millisecond)
		default:
			v.queue.landed()
			if len(entries) < writeBatch {
				pause(ctx, v.gather(e.conf.Monotonic()-began))
			}
		}
	}
	v.farewell(ctx)
}

// unheard reports whether no other process follows what is told here: then nobody
// misses a state that a job has left before it is written.
func (v *view) unheard() bool { return v.cache.Shared() && !v.cache.Heard() }

// gather is how long more gathers after a write that took so long: a large one costs less
// for each entry, and who does not listen does not wait for it.
func (v *view) gather(took time.Duration) time.Duration {
	if v.unheard() {
		return min(8*took, gatherUnheard)
	}
	return min(2*took, gatherHeard)
}

// idle waits for more to write, or until what waits is due, if it does.
func (v *view) idle(ctx context.Context, wait time.Duration) {
	var due <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-v.queue.bell:
	case <-due:
	case <-ctx.Done():
	}
}

// farewell writes what is left when the process ends, if that goes quickly.
func (v *view) farewell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellBudget)
	defer cancel()
	for {
		entries, _ := v.queue.take(writeBatch, v.e.conf.Monotonic(), false)
		if len(entries) == 0 || v.put(ctx, entries) != nil {
			return
		}
	}
}

// put writes entries, but for those that come too late: what has happened
// since may be forgotten already, and they would be taken for the newest.
func (v *view) put(ctx context.Context, entries []cache.Entry) error {
	now := v.e.Now()
	late := func(e cache.Entry) bool { return now.Sub(e.At) >= lateAfter }
	timely := entries
	if slices.ContainsFunc(entries, late) {
		timely = slices.DeleteFunc(slices.Clone(entries), late)
	}
	v.shed.Add(int64(len(entries) - len(timely)))
	if len(timely) == 0 {
		return nil
	}
	_, err := v.writes.Execute(func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, writePatience)
		defer cancel()
		return struct{}{}, v.cache.Put(ctx, timely)
	})
	return err
}

// away reports whether the cache is left alone at the moment.
func (v *view) away() bool {
	return v.reads.State() != gobreaker.StateClosed || v.writes.State() != gobreaker.StateClosed
}
