package errand

import "time"

// TaskOption sets a default for all jobs of a task: see NewTask.
type TaskOption interface{ applyTask(*EnqueueParams) }

// EnqueueOption sets something for the jobs of one enqueue.
type EnqueueOption interface{ applyEnqueue(*EnqueueParams) }

// Option is both: as a TaskOption it sets the default, as an EnqueueOption it
// wins over the default.
type Option interface {
	TaskOption
	EnqueueOption
}

// option and enqueueOption are the only implementations: the set of options is closed.
type (
	option        func(*EnqueueParams)
	enqueueOption func(*EnqueueParams)
)

func (f option) applyTask(p *EnqueueParams)           { f(p) }
func (f option) applyEnqueue(p *EnqueueParams)        { f(p) }
func (f enqueueOption) applyEnqueue(p *EnqueueParams) { f(p) }

// Queue names the queue. The default is "default". A queue needs no making.
func Queue(name string) Option { return option(func(p *EnqueueParams) { p.Queue = name }) }

// Priority is 0 (first) to 9 (last); the default is 5.
func Priority(n int) Option { return option(func(p *EnqueueParams) { p.Priority = &n }) }

// MaxAttempts bounds how often the job is tried before it is a dead letter, 1
// to 10000; the default is 25.
func MaxAttempts(n int) Option { return option(func(p *EnqueueParams) { p.MaxAttempts = n }) }

// Timeout bounds each attempt: the handler's context is cancelled after it, with
// cause ErrTimeout. The default is none.
func Timeout(d time.Duration) Option { return option(func(p *EnqueueParams) { p.Timeout = d }) }

// ExpiresIn cancels the job (reason "expired") if it was not begun within d of the enqueue.
func ExpiresIn(d time.Duration) Option { return option(func(p *EnqueueParams) { p.ExpiresIn = d }) }

// Tags adds labels to find the job by: at most 16 of 64 bytes each.
func Tags(tags ...string) Option {
	return option(func(p *EnqueueParams) { p.Tags = append(p.Tags[:len(p.Tags):len(p.Tags)], tags...) })
}

// In makes the job ready after d.
func In(d time.Duration) EnqueueOption { return enqueueOption(func(p *EnqueueParams) { p.Delay = d }) }

// At makes the job ready at t, by the ledger's clock.
func At(t time.Time) EnqueueOption { return enqueueOption(func(p *EnqueueParams) { p.RunAt = t }) }

// ExpiresAt cancels the job (reason "expired") if it was not begun before t. It
// wins over a task's ExpiresIn.
func ExpiresAt(t time.Time) EnqueueOption {
	return enqueueOption(func(p *EnqueueParams) { p.ExpiresAt, p.ExpiresIn = t, 0 })
}

// IdempotencyKey maps the enqueue to its job for 24 hours: another enqueue by the
// same caller with this key and the same content gets the first job's id, with
// other content an ErrAlreadyExists.
func IdempotencyKey(key string) EnqueueOption {
	return enqueueOption(func(p *EnqueueParams) { p.IdempotencyKey = key })
}

// WithID sets the job's id, made by NewID. The same id with the same content is
// stored once, however often it is sent.
func WithID(id ID) EnqueueOption { return enqueueOption(func(p *EnqueueParams) { p.ID = id }) }

// TraceParent hands a W3C traceparent to the job. Without it the one of the
// context is used, with its tracestate: see TraceFrom.
func TraceParent(s string) EnqueueOption {
	return enqueueOption(func(p *EnqueueParams) { p.TraceParent = s })
}

// UniqueMode says how long a job holds its unique key.
type UniqueMode string

// The unique modes. Window is made by ForWindow.
const (
	WhileQueued UniqueMode = "while_queued" // until the job is first begun
	UntilDone   UniqueMode = "until_done"   // through retries, until succeeded, cancelled or dead
	Window      UniqueMode = "window"       // for a time, whatever becomes of the job
)

// OnConflict says what an enqueue does when another job holds its unique key.
type OnConflict string

// What to do on a conflict.
const (
	SkipConflict   OnConflict = "skip"   // answer with the holder's id, as a duplicate: no error
	RejectConflict OnConflict = "reject" // answer ErrUniqueHeld, whose Holder is the other job
)

// UniqueOption refines Unique: a UniqueMode, ForWindow, or an OnConflict.
type UniqueOption interface{ applyUnique(*EnqueueParams) }

func (m UniqueMode) applyUnique(p *EnqueueParams) { p.UniqueMode = m }
func (c OnConflict) applyUnique(p *EnqueueParams) { p.OnConflict = c }

type window time.Duration

func (w window) applyUnique(p *EnqueueParams) {
	p.UniqueMode, p.UniqueFor = Window, time.Duration(w)
}

// ForWindow holds the key for d from the enqueue, whatever becomes of the job.
func ForWindow(d time.Duration) UniqueOption { return window(d) }

// Unique gives the job a key that no other job of its kind may hold at the same
// time: UntilDone and SkipConflict unless said otherwise. Such an enqueue costs
// the ledger a transaction of its own.
func Unique(key string, opts ...UniqueOption) EnqueueOption {
	return enqueueOption(func(p *EnqueueParams) {
		p.UniqueKey, p.UniqueMode = key, UntilDone
		for _, o := range opts {
			o.applyUnique(p)
		}
	})
}
