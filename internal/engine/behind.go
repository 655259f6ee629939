package engine

import (
	"cmp"
	"sync"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

const (
	// maxBehind bounds the entries that wait to be written to the cache.
	maxBehind = 100_000

	// promptRate is how many changes a second to states that will change anyway
	// are written at once though nobody listens.
	promptRate = 1000
)

// behind is the queue of entries on their way to the cache: the newest of each
// job. When it is full, states that will change anyway are given up before
// final ones, the oldest first.
//
// While nobody listens, and there are many, changes to such states wait: most jobs have
// soon gone on to another, and only that is written. After freshFor nobody may be served
// them any more, and they are given up.
type behind struct {
	mu   sync.Mutex
	at   map[job.ID]*waiting
	soon line // final, or gone: written first
	read line // read because somebody asked
	rest line
	max  int
	bell chan struct{}

	credit   time.Duration // for prompt writes: each costs a second's promptRate-th
	creditAt time.Duration

	flying map[job.ID]*waiting // taken, and not known to be written yet
	batch  []cache.Entry       // what take returned last
	spare  []*waiting
}

// waiting is an entry in line.
type waiting struct {
	entry      cache.Entry
	since      time.Duration // when the job came into this line
	prev, next *waiting
}

// line is a list of entries, the oldest first.
type line struct{ first, last *waiting }

func (l *line) push(w *waiting) {
	w.prev, w.next = l.last, nil
	if l.last == nil {
		l.first = w
	} else {
		l.last.next = w
	}
	l.last = w
}

func (l *line) remove(w *waiting) {
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
}

func newBehind() *behind {
	return &behind{
		at: map[job.ID]*waiting{}, max: maxBehind, bell: make(chan struct{}, 1),
		credit: time.Second, flying: map[job.ID]*waiting{},
	}
}

// add puts entries in line at the monotonic time now, a newer one in the place of an
// older of its job, and returns how many were given up for lack of room.
func (b *behind) add(entries []cache.Entry, now time.Duration) (shed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range entries {
		b.addOne(&entries[i], now)
	}
	for ; len(b.at) > b.max; shed++ {
		w := cmp.Or(b.rest.first, b.read.first, b.soon.first)
		b.pop(w)
		b.recycle(w)
	}
	ring(b.bell)
	return shed
}

func (b *behind) addOne(e *cache.Entry, now time.Duration) {
	w := b.at[e.ID]
	if w == nil {
		w = b.node()
		w.entry, w.since = *e, now
		b.at[e.ID] = w
	} else {
		if !e.Newer(&w.entry) {
			return
		}
		tell, was := e.Tell || w.entry.Tell, b.lineOf(&w.entry)
		w.entry = *e
		w.entry.Tell = tell
		if was == b.lineOf(&w.entry) {
			return // it keeps its place: a job that goes on changing is written all the same
		}
		was.remove(w)
		w.since = now
	}
	b.lineOf(&w.entry).push(w)
}

func (b *behind) lineOf(e *cache.Entry) *line {
	switch {
	case e.State.Final(), e.State == job.Deleted:
		return &b.soon
	case !e.Tell:
		return &b.read
	}
	return &b.rest
}

func (b *behind) pop(w *waiting) {
	b.lineOf(&w.entry).remove(w)
	delete(b.at, w.entry.ID)
}

// node returns a waiting to fill: a used one, so that a busy queue makes no garbage.
func (b *behind) node() *waiting {
	n := len(b.spare)
	if n == 0 {
		return &waiting{}
	}
	w := b.spare[n-1]
	b.spare = b.spare[:n-1]
	return w
}

func (b *behind) recycle(w *waiting) {
	*w = waiting{} // its texts are not kept alive
	if len(b.spare) < writeBatch {
		b.spare = append(b.spare, w)
	}
}

// take removes up to n entries, which are in flight until landed. With hold,
// many changes to states that will change anyway wait; wait is how long the first of them
// still may, or zero if there is none. What it returns is good until the next take.
func (b *behind) take(n int, now time.Duration, hold bool) (entries []cache.Entry, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.credit = min(b.credit+now-b.creditAt, time.Second)
	b.creditAt = now
	b.batch = b.batch[:0]
	for len(b.batch) < n && len(b.at) > 0 {
		w := cmp.Or(b.soon.first, b.read.first)
		if w == nil {
			w = b.rest.first
			wait = w.since + freshFor - now
			if hold && wait <= 0 {
				b.pop(w)
				b.recycle(w)
				continue
			}
			if hold && !b.prompt() {
				return b.batch, wait
			}
		}
		b.pop(w)
		b.flying[w.entry.ID] = w
		b.batch = append(b.batch, w.entry)
	}
	return b.batch, 0
}

// prompt spends credit on a write at once, if there is any left.
func (b *behind) prompt() bool {
	const price = time.Second / promptRate
	if b.credit < price {
		return false
	}
	b.credit -= price
	return true
}

// landed ends the flight of what was taken: it was written, given up, or put back.
func (b *behind) landed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range b.flying {
		b.recycle(w)
	}
	clear(b.flying)
}

// of returns the newest of what has not been written yet: this process sees its
// own changes at once.
func (b *behind) of(ids []job.ID) map[job.ID]cache.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[job.ID]cache.Entry{}
	if len(b.at)+len(b.flying) == 0 {
		return out
	}
	for _, id := range ids {
		flying := b.flying[id]
		if flying != nil {
			out[id] = flying.entry
		}
		if w := b.at[id]; w != nil && (flying == nil || w.entry.Newer(&flying.entry)) {
			out[id] = w.entry
		}
	}
	return out
}
