// Package engine holds all the rules of Errand: what is accepted, who gets
// which job, what a result means, when a session is dead. It knows the ledger
// by its interface only, and nothing of how calls reach it.
package engine

import (
	"context"
	"log/slog"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Config sets the engine. Zero values mean the defaults of design §3.6.
type Config struct {
	SessionTTL   time.Duration        // 30 s; a session is renewed every third of it
	PollInterval time.Duration        // 500 ms: the floor under every wake-up
	MaxPayload   int                  // 1 MiB
	MaxDepth     map[string]int64     // per queue: scheduled + ready jobs; "*" for all others
	CrashLimit   int                  // 3
	BackoffBase  time.Duration        // 1 s
	BackoffCap   time.Duration        // 1 h
	Keep         ledger.Keep          // archive 24 h, idempotency keys 24 h
	Logger       *slog.Logger         // discards by default
	Rand         func() float64       // math/rand/v2 by default; for the jitter
	Monotonic    func() time.Duration // time since some fixed moment; for tests of the keeper
}

// Item is one job to enqueue: Job's producer fields, and what only the enqueue knows.
type Item struct {
	Job            job.Job       // ID may be zero; zero Queue, MaxAttempts, ContentType get their defaults; Priority must be set
	Delay          time.Duration // or Job.RunAt
	ExpiresIn      time.Duration // or Job.ExpiresAt
	Reject         bool          // a unique conflict is an error rather than a duplicate
	IdempotencyKey string
	FirstTry       bool
}

// Enqueued answers an Item: the job that stands for it, or the refusal.
type Enqueued struct {
	ID        job.ID
	State     job.State
	Duplicate bool
	Err       error // *job.Error
}

// JobResult answers a request about one job.
type JobResult struct {
	Job job.Job
	Err error
}

// LeaseRequest asks for jobs on behalf of a worker.
type LeaseRequest struct {
	Session job.ID
	Call    int64
	Queues  []string // the first with work first
	Kinds   []string // empty: every kind
	Max     int
	Wait    time.Duration
}

// ExtendRequest renews a session and names what it holds.
type ExtendRequest struct {
	Session  job.ID
	Call     int64
	Held     []Held
	Pending  []int64 // Lease calls without an answer yet
	Progress []Progress
	Wait     time.Duration
}

// Held names a job in a worker's hands.
type Held struct {
	ID    job.ID
	Token int64
}

// Progress is a note about a running job.
type Progress struct {
	ID    job.ID
	Token int64
	Note  []byte
}

// ExtendReply tells a worker what changed.
type ExtendReply struct {
	Cancelled []Held // cancellation was asked for
	Lost      []Held // held no longer
	Draining  bool
}

// Settlement is what a handler's return means. Event is Succeed, Fail,
// Discard, Snooze or Release.
type Settlement struct {
	ID     job.ID
	Token  int64
	Event  job.Event
	Result []byte
	Error  string
	Stack  string
	Delay  time.Duration
}

// Settled answers a Settlement.
type Settled struct {
	State    job.State
	Repeated bool
	Err      error
}

// QueueInfo is a queue as people see it.
type QueueInfo struct {
	Queue       string
	Paused      bool
	Counts      map[job.State]int64
	OldestReady time.Duration // zero: nothing ready
	HasReady    bool
	Kinds       []KindInfo
}

// KindInfo is a kind with ready jobs.
type KindInfo struct {
	Kind             string
	Ready            int64
	WaitingForWorker bool
}

// Info is what the engine counts of itself since its start.
type Info struct {
	StaleResults int64
	Rescued      int64
	Brake        bool
}

// RedrivePage is the answer to one page of a redrive.
type RedrivePage struct {
	Redriven []job.ID
	Problems []JobResult
	Next     job.ID // zero: done
	Done     int    // jobs this redrive has scheduled so far, for the pace of the next page
}

// API is what the engine offers to internal/api. It exists as a list for the
// reader; internal/api takes *Engine.
type API interface {
	Enqueue(ctx context.Context, caller string, items []Item) ([]Enqueued, error)
	Wake(ctx context.Context, queues []string) error

	Get(ctx context.Context, ids []job.ID) ([]job.Job, error)
	List(ctx context.Context, q ledger.Query) ([]job.Job, error)
	Wait(ctx context.Context, ids []job.ID, timeout time.Duration) ([]job.Job, error)
	Cancel(ctx context.Context, ids []job.ID) ([]JobResult, error)
	Delete(ctx context.Context, ids []job.ID) ([]JobResult, error)
	Redrive(ctx context.Context, ids []job.ID, rate float64) ([]JobResult, error)
	RedriveWhere(ctx context.Context, f ledger.DeadFilter, rate float64, done int) (RedrivePage, error)
	Purge(ctx context.Context, f ledger.DeadFilter) (purged int, more bool, err error)
	CountDead(ctx context.Context, f ledger.DeadFilter) (n int, capped bool, err error)

	OpenSession(ctx context.Context, s ledger.Session) (ttl time.Duration, err error)
	Lease(ctx context.Context, r LeaseRequest) (jobs []job.Job, draining bool, err error)
	Extend(ctx context.Context, r ExtendRequest) (ExtendReply, error)
	Settle(ctx context.Context, session job.ID, items []Settlement) ([]Settled, error)
	CloseSession(ctx context.Context, id job.ID, draining bool) error

	Queues(ctx context.Context) ([]QueueInfo, error)
	Pause(ctx context.Context, queue string) error
	Resume(ctx context.Context, queue string) error
	ListSessions(ctx context.Context) ([]ledger.Session, error)
	Info() Info

	// Drain makes every long poll answer at once that the server is draining;
	// settles and renewals go on.
	Drain()
	// Ready reports why the engine cannot serve, or nil.
	Ready(ctx context.Context) error
	// Now is the ledger's clock as the engine last saw it.
	Now() time.Time
}
