package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

const (
	driftEvery = 30 * time.Second // between two samples
	driftRest  = 2 * time.Second  // before a difference counts: its news may be on the way
	sampleSize = 256
)

// sample remembers some of the jobs whose final state is in the cache, old ones and new.
type sample struct {
	mu   sync.Mutex
	ids  []job.ID
	rand func() float64
}

func newSample(rand func() float64) *sample { return &sample{rand: rand} }

// offer may remember id. Of a full sample one offer in eight replaces one, so
// that old ones stay for a while.
func (s *sample) offer(id job.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ids) < sampleSize {
		s.ids = append(s.ids, id)
	} else if i := int(s.rand() * 8 * sampleSize); i < sampleSize {
		s.ids[i] = id
	}
}

func (s *sample) all() []job.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := make(map[job.ID]bool, len(s.ids))
	out := make([]job.ID, 0, len(s.ids))
	for _, id := range s.ids {
		if !seen[id] {
			seen[id] = true
			out = append(out, id)
		}
	}
	return out
}

// runDrift compares a sample of the final states in the cache with the ledger, now
// and then: the one kind of entry that would be served wrong for long, if a delete
// got lost on its way to the cache.
func (e *Engine) runDrift(ctx context.Context) {
	if e.view.cache == nil || !pause(ctx, driftEvery) {
		return
	}
	e.every(ctx, "cache drift", driftEvery, nil, func(ctx context.Context) error {
		_, err := e.repairDrift(ctx)
		return err
	})
}

// repairDrift returns how many of the sample were wrong.
func (e *Engine) repairDrift(ctx context.Context) (int, error) {
	wrong, _, err := e.compareView(ctx, e.view.sample.all())
	if err != nil || len(wrong) == 0 || !pause(ctx, driftRest) {
		return 0, err
	}
	wrong, truth, err := e.compareView(ctx, wrong)
	if err != nil || len(wrong) == 0 {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	if err := e.view.cache.Drop(ctx, wrong); err != nil {
		return 0, fmt.Errorf("drop %d wrong states: %w", len(wrong), err)
	}
	e.view.write(truth)
	e.view.drift.Add(int64(len(wrong)))
	e.log.Warn("the cache had drifted from the ledger, and was repaired", "jobs", len(wrong), "first", wrong[0])
	return len(wrong), nil
}

// compareView returns those of ids whose final state in the cache is not the
// ledger's, and what the ledger has of them. A cache that cannot be asked shows nothing wrong.
func (e *Engine) compareView(ctx context.Context, ids []job.ID) (wrong []job.ID, truth []cache.Entry, err error) {
	if len(ids) == 0 {
		return nil, nil, nil
	}
	now, err := e.clock.now(ctx)
	if err != nil {
		return nil, nil, err
	}
	var lasting []cache.Entry
	var asked []job.ID
	for _, held := range e.view.read(ctx, ids, now) {
		if held.Lasting() {
			lasting, asked = append(lasting, held), append(asked, held.ID)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	read, err := e.readStates(ctx, asked)
	if err != nil {
		return nil, nil, err
	}
	e.view.probed.Add(int64(len(lasting)))
	for i := range lasting {
		held := &lasting[i]
		has, ok := read[held.ID]
		if ok && has.Version == held.Version && has.State == held.State {
			continue
		}
		wrong = append(wrong, held.ID)
		if ok {
			truth = append(truth, has)
		}
	}
	return wrong, truth, nil
}
