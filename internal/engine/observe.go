package engine

import (
	"slices"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Events of a Change that are none of a job's own.
const (
	EventEnqueue job.Event = 0    // the job was made
	EventNote    job.Event = 0xff // its holder left a progress note
)

// Change is one job's move, as this process has committed it.
type Change struct {
	Event job.Event // of package job, EventEnqueue or EventNote
	From  job.State // 0: it was not there
	At    time.Time // the ledger's, just before the commit
	// Job is as it is now; read only, and not after Observe has returned. Of a
	// success that took the hot path it has what the ledger told: see ledger.Succeeded.
	Job *job.Job
}

// Observer hears of the changes that this process commits: views and meters are
// fed by it. It hears of each once, right after the commit, but of none that
// other processes make and of none whose commit's fate stays unknown: what it keeps is never the truth.
// A success in a transaction of the worker's own is told by the process that the worker settles with.
type Observer interface {
	// Observe is called by the goroutine that committed, before the caller has
	// its answer: it must be quick, and never wait for anything outside.
	Observe(changes []Change)
}

// changeRooms keeps the room for what is told: nobody keeps it.
var changeRooms = sync.Pool{New: func() any { return new([]Change) }}

// tellOf tells of the changes that gather appends.
func (e *Engine) tellOf(gather func([]Change) []Change) {
	room := changeRooms.Get().(*[]Change)
	changes := gather((*room)[:0])
	e.tell(changes)
	clear(changes)
	*room = changes
	changeRooms.Put(room)
}

// tell passes changes on to the observers.
func (e *Engine) tell(changes []Change) {
	if len(changes) == 0 {
		return
	}
	e.view.Observe(changes)
	e.count(changes)
}

// count passes changes on to those who add them up.
func (e *Engine) count(changes []Change) {
	e.stats.Observe(changes)
	for _, o := range e.conf.Observers {
		o.Observe(changes)
	}
}

// observing spares callers the making of changes that nobody would hear of.
func (e *Engine) observing() bool {
	return e.stats != nil || len(e.conf.Observers) > 0 || e.view.cache != nil || e.watches.any()
}

func (e *Engine) observeInserted(now time.Time, rows []ledger.Item, inserted []ledger.Inserted) {
	if !e.observing() {
		return
	}
	e.tellOf(func(changes []Change) []Change {
		for i := range rows {
			if inserted[i].Outcome == ledger.InsertedNew {
				changes = append(changes, Change{Event: EventEnqueue, At: now, Job: &rows[i].Job})
			}
		}
		return changes
	})
}

func (e *Engine) observeClaimed(now time.Time, claimed []ledger.Claimed) {
	if !e.observing() {
		return
	}
	e.tellOf(func(changes []Change) []Change {
		for i := range claimed {
			for k := range claimed[i].Jobs {
				changes = append(changes, Change{Event: job.Lease, From: job.Ready, At: now, Job: &claimed[i].Jobs[k]})
			}
		}
		return changes
	})
}

// told is the room for the jobs of successes that are told of.
type told struct {
	sync.Mutex
	jobs []job.Job
}

// observeSucceeded tells of successes that took the hot path.
func (e *Engine) observeSucceeded(now time.Time, rows []ledger.Success, settled []ledger.Succeeded) {
	if !e.observing() {
		return
	}
	e.told.Lock() // nobody keeps what is told: one room serves all
	defer e.told.Unlock()
	jobs := slices.Grow(e.told.jobs[:0], len(rows))[:len(rows)]
	defer func() {
		clear(jobs)
		e.told.jobs = jobs
	}()
	e.tellOf(func(changes []Change) []Change {
		for i := range rows {
			s := &settled[i]
			if !s.OK {
				continue
			}
			jobs[i] = job.Job{
				ID: rows[i].ID, Queue: s.Queue, Kind: s.Kind, State: job.Succeeded,
				CreatedAt: s.CreatedAt, RunAt: s.RunAt, LeasedAt: s.LeasedAt, DoneAt: now,
				Priority: s.Priority, Attempt: s.Attempt, MaxAttempts: s.MaxAttempts, Crashes: s.Crashes,
				Token: rows[i].Token, Version: s.Version,
				SettledToken: rows[i].Token, SettledAs: job.Succeed, Result: rows[i].Result,
			}
			changes = append(changes, Change{Event: job.Succeed, From: job.Running, At: now, Job: &jobs[i]})
		}
		return changes
	})
}

// observeApplied tells of jobs that an Apply moved. event is 0 for settles,
// whose jobs say themselves how they were settled.
func (e *Engine) observeApplied(now time.Time, event job.Event, applied []ledger.Applied) {
	if !e.observing() {
		return
	}
	e.tellOf(func(changes []Change) []Change {
		for i := range applied {
			a := &applied[i]
			if a.Err != nil {
				continue
			}
			c := Change{Event: event, From: a.From, At: now, Job: &a.Job}
			if event == 0 {
				c.Event = a.Job.SettledAs
			}
			changes = append(changes, c)
		}
		return changes
	})
}
