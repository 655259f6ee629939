package engine

import (
	"context"
	"sync"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

const (
	lineLinger   = 30 * time.Second // the line stays for so long, or twice that, after the last who follows jobs
	linePatience = time.Second      // with a line that does not come to stand, before a Watch begins without
)

// newsLine is the line on which this process hears what others do. It stands only while
// somebody here follows jobs: to hear of everything costs both ends about as much as to write it.
type newsLine struct {
	mu sync.Mutex
	up chan struct{} // closed while the line stands
}

func newNewsLine() *newsLine { return &newsLine{up: make(chan struct{})} }

// stands returns a channel that is closed when the line stands.
func (l *newsLine) stands() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.up
}

func (l *newsLine) linked() bool {
	select {
	case <-l.stands():
		return true
	default:
		return false
	}
}

func (l *newsLine) set(up bool) {
	was := l.linked() // one goroutine at a time sets it
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case up && !was:
		close(l.up)
	case !up && was:
		l.up = make(chan struct{})
	}
}

// runNews hears by the cache what other processes have committed, while anybody
// here waits for it.
func (e *Engine) runNews(ctx context.Context) {
	if e.view.cache == nil {
		return
	}
	for e.waits.company(ctx) {
		e.hearOthers(ctx)
	}
}

// hearOthers keeps the line until nobody has followed a job for a while.
func (e *Engine) hearOthers(ctx context.Context) {
	var watch sync.WaitGroup
	defer watch.Wait()
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	watch.Go(func() {
		e.waits.lull(ctx, lineLinger)
		hangUp()
	})
	line := e.view.line
	e.retry(ctx, "cache news", func(ctx context.Context, well func()) error {
		defer line.set(false)
		return e.view.cache.Watch(ctx, func(n cache.News) {
			well()
			e.hear(n)
			line.set(true)
		})
	})
}

// awaitLine returns when the line stands, or will not stand soon.
func (e *Engine) awaitLine(ctx context.Context) {
	if v := e.view; v.cache == nil || !v.cache.Shared() || v.away() {
		return
	}
	patience := time.NewTimer(linePatience)
	defer patience.Stop()
	select {
	case <-e.view.line.stands():
	case <-patience.C:
	case <-e.draining:
	case <-e.stopped:
	case <-ctx.Done():
	}
}

// hear passes news on to those who wait and watch here.
func (e *Engine) hear(n cache.News) {
	if n.Missed {
		e.waits.lookNow()
		e.watches.missed()
	}
	var done []job.ID
	for i := range n.Entries {
		if s := n.Entries[i].State; s.Final() || s == job.Deleted {
			done = append(done, n.Entries[i].ID)
		}
	}
	e.watches.tell(n.Entries)
	e.waits.finished(done)
}
