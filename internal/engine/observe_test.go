package engine_test

import (
	"sync"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// diary is an observer that keeps what it hears.
type diary struct {
	mu    sync.Mutex
	moves []move
}

type move struct {
	id    job.ID
	event job.Event
	from  job.State
	to    job.State
}

func (d *diary) Observe(changes []engine.Change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range changes {
		d.moves = append(d.moves, move{c.Job.ID, c.Event, c.From, c.Job.State})
	}
}

// TestObserversHearEachChangeOnce takes three jobs through lease, note,
// success, failure, promotion, discard and redrive, each beside its neighbours.
func TestObserversHearEachChangeOnce(t *testing.T) {
	d := &diary{}
	inWorld(t, engine.Config{Observers: []engine.Observer{d}}, func(w *world) {
		ids := w.put(3)
		s := w.open()
		jobs := w.lease(s, 1, 3)
		w.settle(s, jobs[0], job.Succeed)
		w.settle(s, jobs[1], job.Fail)
		w.settle(s, jobs[2], job.Discard)
		w.settle(s, jobs[0], job.Succeed) // repeated: changes nothing
		_, err := w.Redrive(w.ctx, ids[2:], 0)
		w.ok(err)
		time.Sleep(2 * time.Second) // of virtual time: past the back-off
		want := map[job.ID][]move{
			ids[0]: {
				{ids[0], engine.EventEnqueue, 0, job.Ready},
				{ids[0], job.Lease, job.Ready, job.Running},
				{ids[0], job.Succeed, job.Running, job.Succeeded},
			},
			ids[1]: {
				{ids[1], engine.EventEnqueue, 0, job.Ready},
				{ids[1], job.Lease, job.Ready, job.Running},
				{ids[1], job.Fail, job.Running, job.Scheduled},
				{ids[1], job.Due, job.Scheduled, job.Ready},
			},
			ids[2]: {
				{ids[2], engine.EventEnqueue, 0, job.Ready},
				{ids[2], job.Lease, job.Ready, job.Running},
				{ids[2], job.Discard, job.Running, job.Dead},
				{ids[2], job.Redrive, job.Dead, job.Ready},
			},
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		got := map[job.ID][]move{}
		for _, m := range d.moves {
			got[m.id] = append(got[m.id], m)
		}
		for _, id := range ids {
			if len(got[id]) != len(want[id]) {
				t.Errorf("job %s: heard %v, want %v", id, got[id], want[id])
				continue
			}
			for i := range want[id] {
				if got[id][i] != want[id][i] {
					t.Errorf("job %s, change %d: heard %v, want %v", id, i, got[id][i], want[id][i])
				}
			}
		}
	})
}

// latest is an observer that keeps the job of the last success.
type latest struct {
	mu  sync.Mutex
	job job.Job
}

func (l *latest) Observe(changes []engine.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range changes {
		if c.Event == job.Succeed {
			l.job = *c.Job
		}
	}
}

// TestObserversHearWhatSucceeded holds the job that the hot path tells of
// against what the ledger keeps.
func TestObserversHearWhatSucceeded(t *testing.T) {
	last := &latest{}
	inWorld(t, engine.Config{Observers: []engine.Observer{last}}, func(w *world) {
		id := w.put(1)[0]
		s := w.open()
		w.settle(s, w.lease(s, 1, 1)[0], job.Fail)
		time.Sleep(2 * time.Second) // of virtual time: past the back-off
		w.settle(s, w.lease(s, 2, 1)[0], job.Succeed)
		want := w.f.get(id)
		got := last.job
		if got.ID != id || got.Queue != want.Queue || got.Kind != want.Kind || got.State != job.Succeeded ||
			got.Attempt != 2 || got.Attempt != want.Attempt || got.Version != want.Version || got.Token != want.Token ||
			got.SettledToken != want.SettledToken || got.SettledAs != job.Succeed ||
			!got.CreatedAt.Equal(want.CreatedAt) || !got.RunAt.Equal(want.RunAt) ||
			!got.LeasedAt.Equal(want.LeasedAt) || !got.DoneAt.Equal(want.DoneAt) {
			t.Errorf("heard of %+v, want %+v", got, want)
		}
	})
}
