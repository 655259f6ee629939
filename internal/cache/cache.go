// Package cache is the contract of the fast view of job states. A cache is
// never the truth: it may lose, at any moment, all that it holds, and whoever
// reads it asks the ledger for what is missing or too old.
package cache

import (
	"context"
	"time"

	"github.com/errandhq/errand/job"
)

// Cache keeps the latest known state of jobs. It is safe for concurrent use.
// Every method returns soon after ctx ends, whatever became of the server behind it.
//
// Errors say that the cache could not be reached or refused: what a Put or a Drop
// was to change may then be changed or not.
type Cache interface {
	// Put stores entries, of which an older one never overwrites a newer one: an
	// entry takes the place of another of its id if its Version is higher, or
	// if the version is the same and its At is later. Each is kept for its TTL and no longer;
	// one whose TTL is not positive is not stored. The entries may be in any order, and may
	// name one id several times.
	//
	// Those with Tell that raised the version of what was held, or took the place
	// of nothing, are told to whoever watches.
	Put(ctx context.Context, entries []Entry) error

	// Get returns what is held of the ids, in any order: tombstones too.
	Get(ctx context.Context, ids []job.ID) ([]Entry, error)

	// Drop forgets ids, whatever their versions.
	Drop(ctx context.Context, ids []job.ID) error

	// Watch calls fn, from one goroutine, with what other processes tell by Put, until ctx
	// ends: then it returns nil. What is put through this very Cache is not told, for
	// whoever put it knows. An error means that the line broke, and the caller
	// calls again. fn gets News with Missed first, as soon as the line stands, and
	// again whenever something may have been lost. A cache that no other process
	// sees never calls fn.
	Watch(ctx context.Context, fn func(News)) error

	// Heard reports whether another process may watch: it does not only if
	// what this Cache told last reached nobody but itself.
	Heard() bool

	// Shared reports whether other processes see what is put. A cache that is not
	// shared is in this process's memory, and its calls wait for nothing.
	Shared() bool

	// Close frees everything. What the server behind the cache holds stays there.
	Close() error
}

// Entry is what is known of one job: neither payload nor result nor errors.
type Entry struct {
	ID          job.ID
	Queue, Kind string
	State       job.State // job.Deleted: a tombstone, which keeps older entries away
	Priority    int
	Attempt     int
	MaxAttempts int
	Crashes     int
	RunAt       time.Time
	Reason      string
	Progress    []byte // at most job.MaxProgress; none of a job that succeeded
	Version     int64
	Token       int64

	// At is the ledger's time at which the job was known to be so: just before
	// the commit that made it so, or before it was read. To the microsecond.
	At time.Time

	TTL  time.Duration // for Put, which keeps neither
	Tell bool
}

// Of makes the entry of a job that was so at the ledger's time at.
func Of(j *job.Job, at time.Time) Entry {
	e := Entry{
		ID: j.ID, Queue: j.Queue, Kind: j.Kind, State: j.State, Priority: j.Priority,
		Attempt: j.Attempt, MaxAttempts: j.MaxAttempts, Crashes: j.Crashes, RunAt: j.RunAt,
		Reason: j.Reason, Progress: j.Progress, Version: j.Version, Token: j.Token, At: at,
	}
	if j.State == job.Succeeded {
		e.Progress = nil
	}
	return e
}

// Newer reports whether e takes the place of held.
func (e *Entry) Newer(held *Entry) bool {
	return e.Version > held.Version || e.Version == held.Version && e.At.After(held.At)
}

// Lasting reports whether the job stays as it is unless somebody deletes it: it
// succeeded or was cancelled. A dead letter may be tried again at any moment.
func (e *Entry) Lasting() bool { return e.State == job.Succeeded || e.State == job.Cancelled }

// News is what a watcher is told.
type News struct {
	Entries []Entry
	Missed  bool // there may have been more, of any job
}
