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

	// promptRate is up to how many changes a second to states that will change anyway
	// are written at once though nobody listens. Of more none is.
	promptRate = 2000

	// askEvery is how long at most nothing is told while there are changes: only of what was told does the cache learn
	// whether somebody listens by now.
	askEvery = 100 * time.Millisecond
)

// behind is the queue of entries on their way to the cache: the newest of each
// job. When it is full, states that will change anyway are given up before
// final ones, the oldest first.
//
// While nobody listens, and there are many, changes to such states wait: most jobs have
// soon gone on to another, and only that is written. After freshFor nobody may be served
// them any more, nor what is older than they, and they are given up.
type behind struct {
	mu   sync.Mutex
	at   map[job.ID]*waiting // the newest of each job, in line or in flight
	soon line                // final, or gone: written first
	read line                // read because somebody asked
	rest line
	n    int // in line
	max  int
	bell chan struct{}

	credit   time.Duration // for prompt writes: each change costs a second's promptRate-th
	creditAt time.Duration
	toldAt   time.Duration // when something was taken last that is to be told

	flight []*waiting    // taken, and not known to be written yet
	batch  []cache.Entry // what take returned last
	spare  []*waiting
}

// waiting is an entry in line or in flight.
type waiting struct {
	entry      cache.Entry
	since      time.Duration // when the job came into this line
	prev, next *waiting
	taken      bool // in flight
	passed     bool // in flight, and a newer one of its job has come
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
	return &behind{at: map[job.ID]*waiting{}, max: maxBehind, bell: make(chan struct{}, 1), credit: time.Second}
}

// add puts entries in line at the monotonic time now, a newer one in the place of an
// older of its job, and returns how many were given up for lack of room.
func (b *behind) add(entries []cache.Entry, now time.Duration) (shed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.earn(now)
	for i := range entries {
		b.addOne(&entries[i], now)
	}
	shed = b.shed()
	ring(b.bell)
	return shed
}

// shed makes room, and returns how many were given up.
func (b *behind) shed() (n int) {
	for ; b.n > b.max; n++ {
		b.giveUp(cmp.Or(b.rest.first, b.read.first, b.soon.first))
	}
	return n
}

func (b *behind) addOne(e *cache.Entry, now time.Duration) {
	w := b.at[e.ID]
	switch {
	case w == nil:
	case !e.Newer(&w.entry):
		return
	case w.taken:
		w.passed = true
	default:
		tell, was := e.Tell || w.entry.Tell, b.lineOf(&w.entry)
		w.entry = *e
		w.entry.Tell = tell
		line := b.lineOf(&w.entry)
		if line == &b.rest {
			b.spend(1)
		}
		if was == line {
			return // it keeps its place: a job that goes on changing is written all the same
		}
		was.remove(w)
		w.since = now
		line.push(w)
		return
	}
	w = b.node()
	w.entry, w.since = *e, now
	b.at[e.ID] = w
	line := b.lineOf(e)
	if line == &b.rest {
		b.spend(1)
	}
	line.push(w)
	b.n++
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

// giveUp forgets one in line.
func (b *behind) giveUp(w *waiting) {
	b.lineOf(&w.entry).remove(w)
	b.n--
	delete(b.at, w.entry.ID)
	b.recycle(w)
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

// take removes up to n entries, which are in flight until landed or putBack. With hold,
// changes to states that will change anyway wait if there are many; wait is how long the first of them
// still may, or zero if there is none. What it returns is good until the next take.
func (b *behind) take(n int, now time.Duration, hold bool) (entries []cache.Entry, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.earn(now)
	b.batch = b.batch[:0]
	for len(b.batch) < n && b.n > 0 {
		w := cmp.Or(b.soon.first, b.read.first)
		if w == nil {
			w = b.rest.first
			wait = w.since + freshFor - now
			if hold && wait <= 0 {
				b.giveUp(w)
				continue
			}
			if hold && !b.prompt(now) {
				return b.batch, wait
			}
		}
		if w.entry.Tell {
			b.toldAt = now
		}
		b.lineOf(&w.entry).remove(w)
		b.n--
		w.taken = true
		b.flight = append(b.flight, w)
		b.batch = append(b.batch, w.entry)
	}
	return b.batch, 0
}

// earn gives credit for the time that has passed, at most for a second.
func (b *behind) earn(now time.Duration) {
	b.credit = min(b.credit+now-b.creditAt, time.Second)
	b.creditAt = now
}

// spend takes the price of n changes, at most a second more than there is.
func (b *behind) spend(n int) {
	b.credit = max(b.credit-time.Duration(n)*(time.Second/promptRate), -time.Second)
}

// pass reports whether there are so many changes that n more, to states that will change anyway, would only
// wait to be given up, and counts them.
func (b *behind) pass(n int, now time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.earn(now)
	if b.prompt(now) {
		return false
	}
	b.spend(n)
	return true
}

// prompt reports whether a change to a state that will change anyway is written at once though nobody listens.
func (b *behind) prompt(now time.Duration) bool { return b.credit >= 0 || now-b.toldAt >= askEvery }

// landed ends the flight of what was taken: it was written, or comes too late.
func (b *behind) landed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range b.flight {
		b.settle(w)
	}
	b.flight = b.flight[:0]
}

// settle forgets one that was in flight.
func (b *behind) settle(w *waiting) {
	if !w.passed {
		delete(b.at, w.entry.ID)
	}
	b.recycle(w)
}

// putBack puts what was taken in line again, but for what is not the newest any more, and
// returns how many were given up for lack of room.
func (b *behind) putBack() (shed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range b.flight {
		if w.passed {
			b.settle(w)
			continue
		}
		w.taken = false
		b.lineOf(&w.entry).push(w)
		b.n++
	}
	b.flight = b.flight[:0]
	return b.shed()
}

// of returns the newest of what has not been written yet: this process sees its
// own changes at once.
func (b *behind) of(ids []job.ID) map[job.ID]cache.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[job.ID]cache.Entry{}
	if len(b.at) == 0 {
		return out
	}
	for _, id := range ids {
		if w := b.at[id]; w != nil {
			out[id] = w.entry
		}
	}
	return out
}
