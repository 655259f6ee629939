package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

const (
	noteInterval = 5 * time.Second // between two writes of one job's progress
	maxNotes     = 50000           // jobs whose progress is remembered; more wait for the next Extend
)

// notes holds the newest progress note of each running job until it is
// written: the first at once, later ones at most every noteInterval.
type notes struct {
	mu   sync.Mutex
	of   map[job.ID]*note
	bell chan struct{}
}

type note struct {
	token   int64
	text    []byte
	fresh   bool          // not written yet
	written bool          // any was
	at      time.Duration // when the last was
}

func newNotes() *notes {
	return &notes{of: map[job.ID]*note{}, bell: make(chan struct{}, 1)}
}

// put takes notes in; a note with an older token than one known never
// replaces it.
func (n *notes) put(list []Progress) {
	if len(list) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range list {
		old := n.of[p.ID]
		switch {
		case old == nil && len(n.of) < maxNotes:
			n.of[p.ID] = &note{token: p.Token, text: p.Note, fresh: true}
		case old != nil && (old.token == p.Token || old.token < p.Token):
			old.token, old.text, old.fresh = p.Token, p.Note, true
		}
	}
	ring(n.bell)
}

// due returns up to a batch of notes to write now, and forgets those that
// have nothing to say any more.
func (n *notes) due(now time.Duration) map[job.ID]Progress {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := map[job.ID]Progress{}
	for id, one := range n.of {
		rested := !one.written || now-one.at >= noteInterval
		switch {
		case one.fresh && rested && len(out) < job.MaxBatch:
			out[id] = Progress{ID: id, Token: one.token, Note: one.text}
			one.fresh, one.written, one.at = false, true, now
		case !one.fresh && rested:
			delete(n.of, id)
		}
	}
	return out
}

// putBack makes notes that could not be written fresh again.
func (n *notes) putBack(batch map[job.ID]Progress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, p := range batch {
		if one := n.of[id]; one != nil && one.token == p.Token {
			one.fresh = true
		}
	}
}

// errStaleNote says why a note is not written: its lease has gone.
var errStaleNote = errors.New("the note's token is stale")

func (e *Engine) runNotes(ctx context.Context) {
	e.every(ctx, "progress", time.Second, e.notes.bell, func(ctx context.Context) error {
		for {
			batch := e.notes.due(e.conf.Monotonic())
			if len(batch) == 0 {
				return nil
			}
			if err := e.writeNotes(ctx, batch); err != nil {
				e.notes.putBack(batch)
				return err
			}
		}
	})
}

// writeNotes stores notes under their tokens. A stale one is counted, unless it
// only came after its own holder's settle.
func (e *Engine) writeNotes(ctx context.Context, batch map[job.ID]Progress) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	now, err := e.clock.now(ctx)
	if err != nil {
		return err
	}
	ids := make([]job.ID, 0, len(batch))
	for id := range batch {
		ids = append(ids, id)
	}
	applied, err := e.ledger.Apply(ctx, now, ledger.Pick{IDs: ids}, func(j *job.Job) error {
		p := batch[j.ID]
		switch {
		case j.State == job.Running && j.Token == p.Token:
			j.Progress = p.Note
			j.Version++
			return nil
		case j.SettledToken == p.Token:
			return errAsIs
		}
		return errStaleNote
	})
	if err != nil {
		return fmt.Errorf("write progress: %w", err)
	}
	e.observeApplied(now, EventNote, applied)
	busy := map[job.ID]Progress{}
	for k, a := range applied {
		switch {
		case errors.Is(a.Err, errStaleNote):
			e.stale.Add(1)
			e.log.Warn("stale progress note refused", "job", ids[k], "token", batch[ids[k]].Token)
		case errors.Is(a.Err, job.ErrBusy):
			busy[ids[k]] = batch[ids[k]]
		}
	}
	e.notes.putBack(busy)
	return nil
}
