// Package engine holds all the rules of Errand: what is accepted, who gets
// which job, what a result means, when a session is dead. It knows the ledger
// by its interface only, and nothing of how calls reach it.
package engine

import (
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/internal/cache"
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
	Observers    []Observer           // hear of every change that this process commits
	Insights     bool                 // what becomes of jobs is added up in the ledger, by the hour: see stats.go

	Brokers      map[string]broker.Broker // by route name; they stay the caller's to close. None: every queue is leased directly
	DefaultRoute string                   // of queues without a route of their own: direct by default
	RefTTL       time.Duration            // 30 s: a ref that was published and not leased for so long is published again
	Roles        Role                     // all by default

	Cache    cache.Cache   // of job states; it stays the caller's to close. None: every answer comes from the ledger
	CacheTTL time.Duration // 5 min: how long it keeps what will not change by itself
}

// Role is a part of a server's work. Roles are joined by |.
type Role uint8

// The roles. Several processes may have each: relays choose a leader, keepers
// do not get into each other's way.
const (
	RoleAPI    Role = 1 << iota // answers calls, leases jobs
	RoleRelay                   // publishes refs to the carriers
	RoleKeeper                  // rescues, promotes, expires, keeps house

	allRoles = RoleAPI | RoleRelay | RoleKeeper
)

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
	Route       string // as in effect: direct, or the name of a carrier
	Counts      map[job.State]int64
	OldestReady time.Duration // zero: nothing ready
	HasReady    bool
	Kinds       []KindInfo
	Running     map[string]int64 // by kind; nil if none
}

// KindInfo is a kind with ready jobs.
type KindInfo struct {
	Kind             string
	Ready            int64
	WaitingForWorker bool
	OldestReady      time.Duration
}

// Info is what the engine counts of itself since its start.
type Info struct {
	StaleResults int64
	Rescued      int64 // jobs taken back from sessions that died, drained or are gone
	Crashed      int64 // those of sessions that died
	Brake        bool

	RelayLeads    bool  // this process publishes refs to the carriers
	RefsPublished int64 // by this process; a ref counts as often as it was published
	Republished   int64 // of those: published before, and not leased in time
	RefsReturned  int64 // taken back by this process: a server could not use them
	LeasedByRef   int64 // jobs leased by this process because a carrier brought their refs

	CacheHits   int64 // states that the cache answered
	CacheMisses int64 // states that it could not: the ledger did
	CacheShed   int64 // changes that were not written to it, for lack of room or time
	CacheProbed int64 // final states in it that were compared with the ledger
	CacheDrift  int64 // final states in it of those that the ledger contradicted, and were repaired: see drift.go
	CacheAway   bool  // it fails or does not answer, and is left alone for the moment
}

// RedrivePage is the answer to one page of a redrive.
type RedrivePage struct {
	Redriven []job.ID
	Problems []JobResult
	Next     job.ID // zero: done
	Done     int    // jobs this redrive has scheduled so far, for the pace of the next page
}

// Engine decides. It is safe for concurrent use. Its methods, by file:
//
//	enqueue.go  Enqueue              session.go  OpenSession, CloseSession, ListSessions
//	lease.go    Lease                jobs.go     Get, List, Cancel, Delete
//	settle.go   Settle               dead.go     Redrive, RedriveWhere, Purge, CountDead
//	extend.go   Extend               queues.go   Queues, Pause, Resume
//	wait.go     Wait                 wake.go     Wake
//	clock.go    Now                  drain.go    Drain, Ready, Info
//	routes.go   SetRoute             view.go     States
//	watch.go    Watch                insights.go Insights
//	scaling.go  Scaling
//
// Nothing is answered unless Run runs: the calls that write go through loops
// that Run owns.
type Engine struct {
	ledger ledger.Ledger
	conf   Config
	log    *slog.Logger
	rules  job.Rules
	clock  clock

	inserts  *batcher[ledger.Item, ledger.Inserted]
	succeeds *batcher[ledger.Success, ledger.Succeeded]
	settles  *batcher[held, Settled]
	renewals *batcher[job.ID, ledger.Renewed]

	sessions sessions
	dispatch *dispatcher
	waker    *waker
	promoter *promoter
	keeper   *keeper
	cancels  chan struct{} // rung when the pulse has seen cancellations
	notes    *notes
	depth    *depth
	waits    *waits
	queues   shared[*overview]
	lately   atomic.Pointer[overview] // the last one read
	routing  routing
	relay    *relay
	carry    *carry
	view     *view
	watches  *watches
	stats    *stats // nil: not wanted
	reports  *reports
	doubts   *doubts
	signals  *signals
	told     told

	draining chan struct{} // closed by Drain
	stopped  chan struct{} // closed when Run ends
	drain    sync.Once
	running  atomic.Bool

	stale   atomic.Int64
	rescued atomic.Int64
	crashed atomic.Int64
	brake   atomic.Bool
}

// New returns an engine on l, which stays the caller's to close, after Run has
// returned.
func New(l ledger.Ledger, c Config) *Engine {
	c = c.withDefaults()
	e := &Engine{
		ledger: l, conf: c, log: c.Logger,
		rules:    job.Rules{CrashLimit: c.CrashLimit, BackoffBase: c.BackoffBase, BackoffCap: c.BackoffCap, Rand: c.Rand},
		clock:    clock{ledger: l, monotonic: c.Monotonic},
		sessions: sessions{known: map[job.ID]*session{}},
		dispatch: newDispatcher(),
		waker:    newWaker(),
		promoter: newPromoter(),
		keeper:   newKeeper(),
		cancels:  make(chan struct{}, 1),
		notes:    newNotes(),
		depth:    newDepth(c.MaxDepth),
		waits:    newWaits(),
		routing:  routing{bell: make(chan struct{}, 1)},
		relay:    newRelay(job.ID(uuid.New())),
		carry:    newCarry(),
		watches:  newWatches(),
		stats:    newStats(c.Insights),
		reports:  newReports(),
		doubts:   newDoubts(),
		signals:  newSignals(),
		draining: make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	e.view = newView(e, c.Cache)
	e.inserts = newBatcher("enqueue", e.commitInserts, func(i ledger.Item) int { return len(i.Job.Payload) })
	e.succeeds = newBatcher("succeed", e.commitSucceeds, func(s ledger.Success) int { return len(s.Result) })
	e.settles = newBatcher("settle", e.commitSettles, func(h held) int { return len(h.Result) + len(h.Error) + len(h.Stack) })
	e.renewals = newBatcher("renew", e.commitRenewals, func(job.ID) int { return 0 })
	return e
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&c.SessionTTL, 30*time.Second)
	set(&c.PollInterval, 500*time.Millisecond)
	set(&c.BackoffBase, time.Second)
	set(&c.BackoffCap, time.Hour)
	set(&c.Keep.Archive, ledger.DefaultKeep.Archive)
	set(&c.Keep.Idempotency, ledger.DefaultKeep.Idempotency)
	set(&c.Keep.Stats, ledger.DefaultKeep.Stats)
	if c.MaxPayload <= 0 {
		c.MaxPayload = job.MaxPayload
	}
	set(&c.RefTTL, RefTTL)
	set(&c.CacheTTL, cacheTTL)
	if c.DefaultRoute == "" {
		c.DefaultRoute = DirectRoute
	}
	if c.Roles == 0 {
		c.Roles = allRoles
	}
	if c.CrashLimit <= 0 {
		c.CrashLimit = 3
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	if c.Monotonic == nil {
		start := time.Now()
		c.Monotonic = func() time.Duration { return time.Since(start) }
	}
	return c
}
