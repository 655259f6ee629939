package errand

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// RawJob is a job in a handler's hands, its payload not decoded.
type RawJob struct {
	ID          ID
	Queue       string
	Kind        string
	Payload     []byte
	ContentType string
	Priority    int
	Attempt     int // 1 is the first
	MaxAttempts int
	Crashes     int // attempts that ended with their worker
	CreatedAt   time.Time
	RunAt       time.Time
	Timeout     time.Duration
	Tags        []string
	TraceParent string
	TraceState  string
	// Token is the fencing token of this attempt: larger than that of every
	// attempt before. A store that remembers the largest token it saw can refuse
	// a write that comes late, from a worker that was frozen.
	Token int64

	lease *lease
}

// read takes what a message says.
func (j *RawJob) read(m *errandv1.Job) {
	j.ID, j.Queue, j.Kind, j.Payload, j.ContentType = wireID(m.GetId()), m.GetQueue(), m.GetKind(), m.GetPayload(), m.GetContentType()
	j.Priority, j.Attempt, j.MaxAttempts, j.Crashes = int(m.GetPriority()), int(m.GetAttempt()), int(m.GetMaxAttempts()), int(m.GetCrashes())
	j.CreatedAt, j.RunAt, j.Timeout = timeOf(m.GetCreatedAt()), timeOf(m.GetRunAt()), durationOf(m.GetTimeout())
	j.Tags, j.TraceParent, j.TraceState, j.Token = m.GetTags(), m.GetTraceParent(), m.GetTraceState(), m.GetToken()
}

// Job is a job in a handler's hands. Args is the payload.
type Job[T any] struct {
	*RawJob
	Args T
}

// SetResult keeps v, as JSON of at most 256 KiB, as the job's result if the
// handler succeeds. The last call counts.
func (j *RawJob) SetResult(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("errand: result: %w", err)
	}
	return j.SetResultBytes(b)
}

// SetResultBytes is SetResult for bytes of any form.
func (j *RawJob) SetResultBytes(b []byte) error {
	if len(b) > maxResult {
		return &Error{Code: CodeInvalidArgument, Reason: ReasonTooLarge, Message: fmt.Sprintf("result has %d bytes; at most %d are allowed", len(b), maxResult)}
	}
	if j.lease != nil {
		j.lease.setResult(b)
	}
	return nil
}

// Progress leaves a note of at most 1 KiB that others see with the job. It does
// not wait: a note is sent at most every five seconds, and of those that come
// faster the last one is kept. The error is that of a note too large, or says
// why ctx has ended.
func (j *RawJob) Progress(ctx context.Context, note string) error {
	if len(note) > maxProgress {
		return &Error{Code: CodeInvalidArgument, Reason: ReasonTooLarge, Message: fmt.Sprintf("progress has %d bytes; at most %d are allowed", len(note), maxProgress)}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if j.lease != nil {
		j.lease.setNote([]byte(note))
	}
	return nil
}

// Handler carries out a job. Its return decides what becomes of it: nil is
// success, Discard, RetryIn and Snooze say what they say, every other error and
// a panic are a failed attempt, retried with back-off while attempts are left.
//
// When ctx ends the handler should return soon: until it does, it keeps its
// job and its hand. context.Cause(ctx) says why: ErrTimeout, ErrCancelled,
// ErrLeaseLost or ErrShutdown.
type Handler func(ctx context.Context, j *RawJob) error

// Middleware wraps every handler of a worker.
type Middleware func(next Handler) Handler

// Handle registers fn for the jobs of a task. It panics if the kind has a
// handler already. It is called before Run.
//
// A payload that is not the JSON of a T is a failed attempt, not a dead letter at
// once: in the middle of a deploy another worker may well understand it.
func Handle[T any](w *Worker, t *Task[T], fn func(ctx context.Context, j *Job[T]) error) {
	HandleKind(w, t.kind, func(ctx context.Context, raw *RawJob) error {
		j := &Job[T]{RawJob: raw}
		if err := json.Unmarshal(raw.Payload, &j.Args); err != nil {
			return fmt.Errorf("the payload is no %T: %w", j.Args, err)
		}
		return fn(ctx, j)
	})
}

// HandleKind is Handle for a payload of any form.
func HandleKind(w *Worker, kind string, h Handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if kind == "" || h == nil {
		panic("errand: a handler needs a kind and a function")
	}
	if w.handlers == nil {
		w.handlers = make(map[string]Handler)
	}
	if _, ok := w.handlers[kind]; ok {
		panic(fmt.Sprintf("errand: kind %q has two handlers", kind))
	}
	w.handlers[kind] = h
}

// HandleAny registers a handler for every kind that has none of its own. The
// worker then takes all jobs of its queues.
func HandleAny(w *Worker, h Handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.any != nil || h == nil {
		panic("errand: one HandleAny, with a function")
	}
	w.any = h
}

var errNoHandler = errors.New("errand: no handler for this kind")
