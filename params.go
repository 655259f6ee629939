package errand

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// EnqueueParams is a job to enqueue, as plain data. Most programs use a Task;
// this is for those that learn kinds at run time, and for the packages that
// enqueue in the caller's transaction. Zero fields get their defaults.
type EnqueueParams struct {
	ID             ID // made by the client if zero
	Kind           string
	Queue          string // "default"
	Payload        []byte
	ContentType    string // "application/json"
	Priority       *int   // 0 first … 9 last; nil: 5
	Delay          time.Duration
	RunAt          time.Time // of Delay and RunAt, at most one
	MaxAttempts    int       // 25
	Timeout        time.Duration
	ExpiresIn      time.Duration
	ExpiresAt      time.Time // of ExpiresIn and ExpiresAt, at most one
	Tags           []string
	UniqueKey      string
	UniqueMode     UniqueMode // UntilDone, with a UniqueKey
	UniqueFor      time.Duration
	OnConflict     OnConflict // SkipConflict
	IdempotencyKey string
	TraceParent    string
	TraceState     string // left out if it is malformed or longer than 512 bytes
}

// NewParams makes EnqueueParams of a kind, a payload in any form, and options.
func NewParams(kind string, payload []byte, opts ...EnqueueOption) EnqueueParams {
	p := EnqueueParams{Kind: kind, Payload: payload}
	for _, o := range opts {
		o.applyEnqueue(&p)
	}
	return p
}

// item sets the wire form, but for the id and who made it; the trace is there.
func (p *EnqueueParams) item(it *errandv1.EnqueueItem) error {
	if err := p.checkText(it.TraceParent); err != nil {
		return err
	}
	it.Kind, it.Queue, it.Payload, it.ContentType = p.Kind, p.Queue, p.Payload, p.ContentType
	it.MaxAttempts, it.Tags, it.TraceState = clampInt32(p.MaxAttempts), p.Tags, wireTraceState(it.TraceState)
	it.UniqueKey, it.IdempotencyKey = p.UniqueKey, p.IdempotencyKey
	it.Delay, it.RunAt, it.Timeout = wireDuration(p.Delay), wireTime(p.RunAt), wireDuration(p.Timeout)
	it.ExpiresIn, it.ExpiresAt, it.UniqueFor = wireDuration(p.ExpiresIn), wireTime(p.ExpiresAt), wireDuration(p.UniqueFor)
	if p.Priority != nil {
		n := clampInt32(*p.Priority)
		it.Priority = &n
	}
	mode := p.UniqueMode
	if mode == "" && p.UniqueKey != "" {
		mode = UntilDone
	}
	switch mode {
	case "":
	case WhileQueued:
		it.UniqueMode = errandv1.UniqueMode_UNIQUE_MODE_WHILE_QUEUED
	case UntilDone:
		it.UniqueMode = errandv1.UniqueMode_UNIQUE_MODE_UNTIL_DONE
	case Window:
		it.UniqueMode = errandv1.UniqueMode_UNIQUE_MODE_WINDOW
	default:
		return badField("unique mode %.64q is not one of while_queued, until_done, window", string(mode))
	}
	switch p.OnConflict {
	case "", SkipConflict:
		it.OnConflict = errandv1.OnConflict_ON_CONFLICT_SKIP
	case RejectConflict:
		it.OnConflict = errandv1.OnConflict_ON_CONFLICT_REJECT
	default:
		return badField("on_conflict %.64q is not one of skip, reject", string(p.OnConflict))
	}
	return nil
}

// checkText refuses what the wire cannot carry, with a better error than the
// encoder's. All other bounds are the server's to check.
func (p *EnqueueParams) checkText(trace string) error {
	for _, f := range [...]struct{ name, text string }{
		{"kind", p.Kind}, {"queue", p.Queue}, {"content_type", p.ContentType}, {"unique_key", p.UniqueKey},
		{"idempotency_key", p.IdempotencyKey}, {"trace_parent", trace}, {"tag", strings.Join(p.Tags, " ")},
	} {
		if !utf8.ValidString(f.text) {
			return badField("%s is not valid UTF-8", f.name)
		}
	}
	return nil
}

func badField(format string, args ...any) error {
	return &Error{Code: CodeInvalidArgument, Reason: ReasonBadField, Message: fmt.Sprintf(format, args...)}
}

// clampInt32 keeps an absurd number absurd, so that the server refuses it,
// rather than wrapping it into a sensible one.
func clampInt32(n int) int32 { return int32(max(min(n, 1<<31-1), -1<<31)) }

func wireDuration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func wireTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
