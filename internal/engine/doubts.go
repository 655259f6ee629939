package engine

import (
	"errors"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// doubts are the settlements of this process whose commit's fate is unknown.
// Their workers repeat them. If one turns out to have been committed, whoever counts is
// told then; if not, the repetition is told as any other.
type doubts struct {
	mu sync.Mutex
	of map[Held]struct{}
}

// mostDoubts bounds what is remembered. Beyond it all is forgotten, and what was
// committed of it stays uncounted.
const mostDoubts = 10_000

func newDoubts() *doubts { return &doubts{of: map[Held]struct{}{}} }

func (d *doubts) add(h Held) {
	if len(d.of) >= mostDoubts {
		clear(d.of)
	}
	d.of[h] = struct{}{}
}

// successes remembers those of a call whose fate is unknown, and forgets those
// that were made.
func (d *doubts) successes(rows []ledger.Success, settled []ledger.Succeeded, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	unknown := errors.Is(err, job.ErrUnknown)
	if !unknown && len(d.of) == 0 {
		return
	}
	for i := range rows {
		h := Held{rows[i].ID, rows[i].Token}
		if unknown {
			d.add(h)
		} else if err == nil && settled[i].OK {
			delete(d.of, h)
		}
	}
}

// settlements remembers those of an Apply that ended with err.
func (d *doubts) settlements(items []held, in map[job.ID]int, err error) {
	if !errors.Is(err, job.ErrUnknown) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, i := range in {
		d.add(Held{id, items[i].Token})
	}
}

// clear forgets settlements that were answered.
func (d *doubts) clear(items []held, in map[job.ID]int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.of) == 0 {
		return
	}
	for id, i := range in {
		delete(d.of, Held{id, items[i].Token})
	}
}

func (d *doubts) has(h Held) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.of[h]
	return ok
}

// tellLate counts a settlement that was found done, unless somebody has been
// told of it: of one in the worker's transaction this process has just taken the
// mark, so that no other counts it; of one whose fate was unknown here nobody can know.
func (e *Engine) tellLate(now time.Time, a *ledger.Applied, token int64) {
	j := a.Job
	if a.Err != nil && (j.Token != token || !e.doubts.has(Held{j.ID, token})) {
		return
	}
	at := now
	if !j.DoneAt.IsZero() {
		at = j.DoneAt
	}
	e.count([]Change{{Event: j.SettledAs, From: job.Running, At: at, Job: &j}})
}
