// Package ledger defines the durable record of every job: the single source of
// truth. The comments of the interface are its contract; package ledgertest
// holds each sentence against every implementation.
//
// A ledger is dumb. It stores jobs, guards each write, keeps the counters and
// the unique keys in step in the same transaction, and leaves every decision
// to the caller: what a job becomes is decided by job.Rules, inside the
// function that Apply is given. Time is the caller's too: every method that
// depends on it takes now.
//
// A ledger keeps jobs in three places: live (scheduled, ready, running), dead,
// and the archive (succeeded, cancelled), which is cut into slices of time that
// are dropped whole.
package ledger

import (
	"context"
	"time"

	"github.com/errandhq/errand/job"
)

// Ledger is what the engine needs of a database.
//
// Every method is safe for concurrent use. A method that fails before its
// transaction was committed changes nothing and returns an error; where the
// fate of the commit is unknown the error is job.ErrUnknown, where the
// database could not be reached it has code job.Unavailable. Strings and bytes
// handed out belong to the caller.
type Ledger interface {
	Jobs
	Sessions
	Queues
	Reader
	Carried
	Stats

	// Now returns the ledger's own clock: the only wall clock that decides
	// anything.
	Now(ctx context.Context) (time.Time, error)

	// Pulse says in one reading whether there is anything to do: what Claim, or
	// Apply and Held by the same criteria, would find now. It takes no lock, and sees all
	// that was committed before the call, however late. A queue costs what a Claim of
	// one job reads, orphans the sessions of all running jobs, the rest a look at an
	// index. It may tell of what others hold locked, and of queues whose ready
	// jobs no claim gets: they are paused, or the jobs are suspects or expired, or of other
	// kinds, where thousands of pairs of queue and kind are asked for.
	Pulse(ctx context.Context, now time.Time, ask Ask) (Pulse, error)

	// Wake tells the other processes on this ledger that the queues have work.
	// It is a hint, sent outside of any transaction of a producer; a ledger
	// with one owning process does nothing.
	Wake(ctx context.Context, queues []string) error

	// Listen calls fn with the queue of each Wake of other processes (and
	// possibly of this one) until ctx ends, and with "" when wakes may have been
	// missed. It returns nil when ctx ends, an error when the line broke:
	// the caller calls again. A ledger without such a line just waits for ctx.
	Listen(ctx context.Context, fn func(queue string)) error

	// Upkeep does the housekeeping that is due, in short transactions: folds
	// counter deltas, makes the archive slices that will be needed, drops the
	// slices whose every job finished before now-keep.Archive, removes dead
	// letters older than keep.Dead (if set), sums older than keep.Stats (if set),
	// idempotency keys and ended unique windows, and sessions that ended an hour ago
	// and hold nothing.
	// Calling it from several processes at once is harmless.
	Upkeep(ctx context.Context, now time.Time, keep Keep) (Upkept, error)

	// Close waits for calls under way and frees everything.
	Close() error
}

// Jobs are the writes. Each method is one transaction, but for Insert, Claim and Succeed: see there.
type Jobs interface {
	// Insert stores new jobs, whose State is Ready or Scheduled, and answers
	// for each item in order. The call is atomic: after an error no item is
	// stored. A job stored Ready gets a Seq larger than that of every job that
	// became ready in a transaction committed before the call.
	//
	//   - The id exists, live or dead or (unless item.Fresh) archived: with the
	//     same Digest the answer is Duplicate, with another one IDTaken.
	//   - The item's idempotency key was used by the same caller within Keep:
	//     with the same Digest Duplicate, with another one KeyReused; Holder is
	//     the job it maps to.
	//   - The unique key is held: UniqueHeld, and Holder is the job that holds it.
	//   - An open transaction of someone else holds the row of the unique or
	//     idempotency key for longer than a second: KeyBusy.
	//
	// An item that is not Inserted changes nothing. Within one call the items
	// see each other: of two items with one key the first wins.
	// No row that another plain insert needs is updated or locked.
	Insert(ctx context.Context, now time.Time, items []Item) ([]Inserted, error)

	// Claim leases ready jobs, by job.Rules.Step with event Lease, and answers
	// for each request in order. It may take several transactions, each for some of the
	// requests: if not all of them fail, the error of one is in its requests' answers. Requests
	// of one queue and the same kinds are served in their order.
	// A session that is not live (draining, dead, absent) gets
	// job.ErrSessionLost in its answer; a paused queue gives nothing.
	//
	// Order within a queue: lane, then seq, merged over the kinds asked for.
	// Of LaneSuspect at most one job is given to a session that holds none,
	// and none to one that holds a suspect already. Jobs of kinds
	// that were not asked for cost nothing, nor does the length of the
	// backlog, nor do rows that are dead. Expired jobs (ExpiresAt <= now) are
	// not given. The payloads of one answer have together at most MaxBytes,
	// but a first job is given however large it is.
	//
	// A job that became ready in a transaction that committed late may be
	// passed over at first, and is found within half a second of a later call.
	Claim(ctx context.Context, now time.Time, reqs []Claim) ([]Claimed, error)

	// Succeed is the hot settle: of each item whose job is Running under that
	// very token it does what job.Rules.Settle does for event Succeed, and
	// answers OK, with what the job was. For every other item (another state or
	// token, no such job, row locked by someone else) it changes nothing and
	// answers the zero Succeeded: the caller finds out by Apply. It never waits
	// for a row lock. It may take several transactions, each for some of the items; after an error nothing was changed, unless it
	// is job.ErrUnknown.
	Succeed(ctx context.Context, now time.Time, items []Success) ([]Succeeded, error)

	// Apply picks jobs, locks them, calls fn on each and stores what fn made of
	// it, with counters and unique keys in step, all in one transaction: the
	// general change of state. An error of fn leaves that job as it was and is
	// its answer. fn must be pure: it may be called again if the
	// transaction is retried. Where the pick
	// names ids, the answers are in their order, with job.ErrNotFound for an id
	// that is nowhere and job.ErrBusy for a row whose lock is held (unless
	// pick.Wait); else there is an answer for each job picked, and locked
	// ones are passed over.
	//
	// What is stored follows from the job that fn leaves: Scheduled, Ready and
	// Running are live (Ready with Seq 0 draws a new one), Dead is dead,
	// Succeeded and Cancelled go into the archive slice of DoneAt, Deleted is
	// removed. If the job held its unique key before and no longer does
	// (job.Job.HoldsKey), the key is freed; if it now holds it and did not, the key
	// is taken, and if another job has it, the job stays as it was and its
	// answer is an *job.Error with ReasonUniqueHeld and that Holder.
	Apply(ctx context.Context, now time.Time, pick Pick, fn func(*job.Job) error) ([]Applied, error)
}

// Item is a job to insert.
type Item struct {
	Job job.Job
	// Caller and IdempotencyKey, if set, name the enqueue: see Insert.
	Caller         string
	IdempotencyKey string
	// Fresh says that the id was made for this very call, so that it need not
	// be looked for in the archive.
	Fresh bool
}

// InsertOutcome says what became of an Item.
type InsertOutcome uint8

// The outcomes of Insert; see there.
const (
	InsertedNew InsertOutcome = iota
	Duplicate
	IDTaken
	KeyReused
	UniqueHeld
	KeyBusy
)

// Inserted is the answer to an Item. Holder is the job that the answer speaks
// of: the item's own for InsertedNew, else the one in the way (zero for
// KeyBusy). State is Holder's state where the ledger knows it, else 0.
type Inserted struct {
	Outcome InsertOutcome
	Holder  job.ID
	State   job.State
}

// Claim is a request for jobs.
type Claim struct {
	Session  job.ID
	Call     int64 // kept in the jobs: names this request within the session
	Queue    string
	Kinds    []string // empty: every kind
	Max      int
	MaxBytes int

	// Refs, if there are any, are the only jobs that the request may get, by id
	// and token: those that are Ready in this queue under that very token, of
	// Kinds, neither suspects nor expired, at most Max and MaxBytes of them, in
	// the order of Refs. All others change nothing. It never waits for a row
	// lock: a locked row is passed over.
	Refs []Ref

	// SuspectsOnly asks for LaneSuspect alone.
	SuspectsOnly bool
}

// Ref names a ready job to whoever may lease it by name.
type Ref struct {
	ID    job.ID
	Token int64 // of the job while it is Ready
	Kind  string
	Lane  job.Lane
	Seq   int64
	RunAt time.Time // when it became ready, as far as Heads is asked; Claim does not mind it
}

// Carried is what the relay needs, for queues whose jobs a broker carries.
type Carried interface {
	// Heads returns for each request the refs of the first ready jobs of its
	// queue, in the order in which Claim would give them (lane, then seq, merged
	// over Kinds; suspects and expired jobs left out), at most Max, and whether the
	// queue is paused: then there are none. It takes no lock, and costs what a Claim
	// of as many jobs reads: neither the backlog nor rows that are dead. A job that became
	// ready in a transaction that committed late is found within half a second
	// of a later call.
	Heads(ctx context.Context, now time.Time, reqs []Head) ([]Headed, error)

	// HoldRelay makes holder the leader of the relay for ttl from now, if it
	// is that already or nobody is: it reports whether it now is, and the epoch,
	// which grows with each change of holder. ttl <= 0 gives the lead up. One
	// row for all queues. Correctness never depends on it.
	HoldRelay(ctx context.Context, now time.Time, holder job.ID, ttl time.Duration) (leads bool, epoch int64, err error)

	// Identity returns a name of this ledger, made with it and never changed:
	// 16 lower-case letters and digits. It keeps the topics of ledgers that share a
	// broker apart.
	Identity(ctx context.Context) (string, error)
}

// Head asks for refs.
type Head struct {
	Queue string
	Kinds []string // empty: every kind
	Max   int
}

// Headed is the answer to a Head.
type Headed struct {
	Refs   []Ref
	Paused bool
}

// Claimed is the answer to a Claim.
type Claimed struct {
	Jobs []job.Job
	// More says that there may be more of what was asked for, though Jobs are fewer
	// than Max: the next did not fit, or others held what came first.
	More bool
	// Err is job.ErrSessionLost, which brought nothing, or what became of this request
	// alone: after job.ErrUnknown jobs may be held under its Call.
	Err error
}

// Success is a job whose handler returned nil.
type Success struct {
	ID     job.ID
	Token  int64
	Result []byte
}

// Succeeded is the answer to a Success. All but OK is for those who observe
// what ended, and set only where OK is.
type Succeeded struct {
	OK          bool
	Queue, Kind string
	Priority    int
	Attempt     int
	MaxAttempts int
	Crashes     int
	Version     int64 // the new one
	CreatedAt   time.Time
	RunAt       time.Time
	LeasedAt    time.Time
}

// Pick chooses jobs for Apply, by exactly one of its criteria.
type Pick struct {
	IDs  []job.ID // wherever they are: live, dead or archived
	Wait bool     // with IDs: wait for row locks

	Due     time.Time // Scheduled with RunAt at or before it, oldest first
	Expired time.Time // Scheduled or Ready with ExpiresAt at or before it

	// Orphans picks Running jobs by the state of their session: SessionDead,
	// or SessionDrained, which includes sessions that are absent.
	Orphans SessionState

	Dead *DeadFilter // dead letters, newest first

	// Limit is required unless IDs is set: at most so many are picked. Where
	// jobs are large it may be fewer, though more would fit the criterion, but
	// never none.
	Limit int
}

// DeadFilter chooses dead letters. Empty fields choose all.
type DeadFilter struct {
	Queue  string
	Kind   string
	Error  string    // a part of the newest failure's message, case-sensitive
	Before time.Time // died before it
	// AfterID continues after the job with this id, in the order of the pick:
	// the id of the last job of the page before.
	AfterID job.ID
}

// Applied is what became of one job. Job is as it is now (as it was, if Err is
// set); From is the state before.
type Applied struct {
	Job  job.Job
	From job.State
	Err  error
}

// Sessions are worker processes, as the ledger sees them.
type Sessions interface {
	// OpenSession stores a new session, live, with Beat 1.
	OpenSession(ctx context.Context, s Session) error

	// Beat raises the counter of each session that is live or draining and
	// answers in order. It waits for nobody.
	Beat(ctx context.Context, now time.Time, ids []job.ID) ([]Renewed, error)

	// MoveSession changes the state of a session if it is in one of from and,
	// where beat > 0, its counter still is beat; it reports whether it did.
	// A session never returns to SessionLive. SessionAbsent removes the row.
	MoveSession(ctx context.Context, now time.Time, id job.ID, from []SessionState, to SessionState, beat int64) (bool, error)

	// ListSessions returns all sessions, newest first; if counted is set, with the number of
	// jobs that each one holds, which costs a look at each of these.
	ListSessions(ctx context.Context, counted bool) ([]Session, error)

	// Held returns the running jobs of the sessions, without order; with none
	// named, the running jobs of all sessions whose cancellation was asked for.
	Held(ctx context.Context, sessions []job.ID) ([]Lease, error)
}

// SessionState is where a session stands. The numbers are stored.
type SessionState uint8

// The states of a session. Of a dead one the running jobs are charged a crash;
// of a drained or absent one they are given back free.
const (
	SessionAbsent   SessionState = 0
	SessionLive     SessionState = 1
	SessionDraining SessionState = 2 // takes nothing new, and may still end its jobs
	SessionDead     SessionState = 3
	SessionDrained  SessionState = 4 // ended after draining
)

// String returns the state's name.
func (s SessionState) String() string {
	names := [...]string{"absent", "live", "draining", "dead", "drained"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Renewed is what a Beat found of a session: its state and what it holds. Nothing is said to be
// held by one that is SessionAbsent.
type Renewed struct {
	State SessionState
	Held  []Lease
}

// Session is one worker process.
type Session struct {
	ID          job.ID
	Worker      string // name for people: host and process by default
	Version     string // of the SDK
	Queues      []string
	Kinds       []string // empty: every kind
	Concurrency int
	TTL         time.Duration
	State       SessionState
	Beat        int64
	OpenedAt    time.Time
	BeatAt      time.Time // for people; decides nothing
	EndedAt     time.Time
	Running     int // jobs held: filled in by ListSessions, where they are counted
}

// OfCanary tells a server's own session, which carries its canaries, from those of workers.
func (s *Session) OfCanary() bool { return len(s.Kinds) == 1 && s.Kinds[0] == job.KindCanary }

// Lease is one running job as its holder should know it.
type Lease struct {
	ID              job.ID
	Session         job.ID
	Token           int64
	Call            int64
	CancelRequested bool
}

// Queues are settings and counters. A queue needs no row until it is paused or routed.
type Queues interface {
	// SetPaused pauses or resumes a queue, known or not. Once it returned, no
	// Claim gives a job of a paused queue.
	SetPaused(ctx context.Context, now time.Time, queue string, paused bool) error

	// Paused returns the queues that are paused.
	Paused(ctx context.Context) ([]string, error)

	// SetRoute stores by which carrier the jobs of a queue go, known or not;
	// "" forgets it. The ledger does not ask what the name means.
	SetRoute(ctx context.Context, now time.Time, queue, route string) error

	// Routes returns the routes that were stored, by queue.
	Routes(ctx context.Context) (map[string]string, error)

	// Counts returns how many jobs are now kept, by queue, kind and state, from
	// counters that every write keeps: it never counts jobs. Counts of zero may be
	// left out.
	Counts(ctx context.Context) ([]Count, error)

	// OldestReady returns for each queue and kind that has ready jobs the
	// RunAt of the one at the head of each of its lanes, the oldest of them.
	OldestReady(ctx context.Context) ([]Oldest, error)
}

// Count is a number of jobs.
type Count struct {
	Queue string
	Kind  string
	State job.State
	N     int64
}

// Oldest says since when the oldest ready job of a kind has waited.
type Oldest struct {
	Queue string
	Kind  string
	Since time.Time
}

// Reader reads jobs.
type Reader interface {
	// Get returns the jobs of the ids that exist, wherever they are, in any order.
	Get(ctx context.Context, ids []job.ID) ([]job.Job, error)

	// List returns a page of jobs, newest id first. Payload, Result and Errors
	// are left out, but for the newest failure.
	List(ctx context.Context, q Query) ([]job.Job, error)

	// CountDead counts the dead letters that f chooses, at most up to most.
	CountDead(ctx context.Context, f DeadFilter, most int) (int, error)
}

// Query chooses jobs for List. Empty fields choose all.
type Query struct {
	Queue string
	Kind  string
	State job.State
	Error string // dead letters only: see DeadFilter
	Tag   string
	After job.ID // continue below this id
	Limit int    // 1 to job.MaxPage
}

// Keep says how long finished things are kept.
type Keep struct {
	Archive     time.Duration // succeeded and cancelled jobs
	Dead        time.Duration // dead letters; zero: until a person removes them
	Idempotency time.Duration // idempotency keys
	Stats       time.Duration // sums; zero: for ever
}

// DefaultKeep holds the defaults of design §3.6.
var DefaultKeep = Keep{Archive: 24 * time.Hour, Idempotency: 24 * time.Hour, Stats: 14 * 24 * time.Hour}

// Upkept says what Upkeep did.
type Upkept struct {
	Folded        int // counter deltas
	SlicesMade    int
	SlicesDropped int
	DeadRemoved   int
	KeysRemoved   int
	SessionsGone  int
	StatsRemoved  int
}
