package engine

import (
	"container/list"
	"sync"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

// maxBehind bounds the entries that wait to be written to the cache.
const maxBehind = 100_000

// behind is the queue of entries on their way to the cache: the newest of each
// job. When it is full, states that will change anyway are given up before
// final ones, the oldest first.
type behind struct {
	mu   sync.Mutex
	at   map[job.ID]*list.Element // of a *cache.Entry
	soon list.List                // final, or gone: written first
	rest list.List
	max  int
	bell chan struct{}

	flying map[job.ID]cache.Entry // taken, and not known to be written yet
}

func newBehind() *behind {
	return &behind{at: map[job.ID]*list.Element{}, max: maxBehind, bell: make(chan struct{}, 1), flying: map[job.ID]cache.Entry{}}
}

// add puts entries in line, or back there, and returns how many were given up
// for lack of room.
func (b *behind) add(entries []cache.Entry) (shed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range entries {
		b.addOne(entries[i])
	}
	for ; len(b.at) > b.max; shed++ {
		if el := b.rest.Front(); el != nil {
			b.pop(el)
		} else {
			b.pop(b.soon.Front())
		}
	}
	ring(b.bell)
	return shed
}

func (b *behind) addOne(e cache.Entry) {
	if el := b.at[e.ID]; el != nil {
		old := el.Value.(*cache.Entry)
		if !e.Newer(old) {
			return
		}
		e.Tell = e.Tell || old.Tell
		b.pop(el)
	}
	b.at[e.ID] = b.lineOf(&e).PushBack(&e)
}

func (b *behind) lineOf(e *cache.Entry) *list.List {
	if e.State.Final() || e.State == job.Deleted {
		return &b.soon
	}
	return &b.rest
}

func (b *behind) pop(el *list.Element) *cache.Entry {
	e := el.Value.(*cache.Entry)
	b.lineOf(e).Remove(el)
	delete(b.at, e.ID)
	return e
}

// take removes up to n entries, which are in flight until landed.
func (b *behind) take(n int) []cache.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]cache.Entry, 0, min(n, len(b.at)))
	for len(out) < n && len(b.at) > 0 {
		el := b.soon.Front()
		if el == nil {
			el = b.rest.Front()
		}
		e := b.pop(el)
		b.flying[e.ID] = *e
		out = append(out, *e)
	}
	return out
}

// landed ends the flight of what was taken: it was written, given up, or put back.
func (b *behind) landed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.flying)
}

// of returns the newest of what has not been written yet: this process sees its
// own changes at once.
func (b *behind) of(ids []job.ID) map[job.ID]cache.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[job.ID]cache.Entry{}
	for _, id := range ids {
		flying, ok := b.flying[id]
		if ok {
			out[id] = flying
		}
		if el := b.at[id]; el != nil {
			if e := el.Value.(*cache.Entry); !ok || e.Newer(&flying) {
				out[id] = *e
			}
		}
	}
	return out
}
