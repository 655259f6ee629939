package errand

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// The SQL that EnqueueTx and CompleteTx run. The functions are versioned: what
// one takes and answers never changes. Use packages errandpgx and errandsql;
// these are for drivers that they do not serve.
const (
	// EnqueueSQL takes kind, payload (bytea) and SQLOptions (jsonb, as text), and
	// answers the id (as text) and whether it is a duplicate.
	EnqueueSQL = `SELECT id::text, duplicate FROM errand.enqueue_v1($1, $2, $3::jsonb)`
	// CompleteSQL takes id (as text), token and result (bytea or NULL), and
	// answers false if this token had completed the job before.
	CompleteSQL = `SELECT errand.complete_v1($1::uuid, $2, $3)`
)

// sqlOptions are the options of errand.enqueue_v1. Lengths of time are seconds.
type sqlOptions struct {
	ID             string      `json:"id,omitempty"`
	Queue          string      `json:"queue,omitempty"`
	ContentType    string      `json:"content_type,omitempty"`
	Priority       *int        `json:"priority,omitempty"`
	Delay          json.Number `json:"delay,omitempty"`
	RunAt          string      `json:"run_at,omitempty"`
	MaxAttempts    int         `json:"max_attempts,omitempty"`
	Timeout        json.Number `json:"timeout,omitempty"`
	ExpiresIn      json.Number `json:"expires_in,omitempty"`
	ExpiresAt      string      `json:"expires_at,omitempty"`
	Tags           []string    `json:"tags,omitempty"`
	UniqueKey      string      `json:"unique_key,omitempty"`
	UniqueMode     UniqueMode  `json:"unique_mode,omitempty"`
	UniqueFor      json.Number `json:"unique_for,omitempty"`
	OnConflict     OnConflict  `json:"on_conflict,omitempty"`
	IdempotencyKey string      `json:"idempotency_key,omitempty"`
	TraceParent    string      `json:"trace_parent,omitempty"`
}

// SQLOptions returns the third argument of errand.enqueue_v1: all of p but kind
// and payload. An id is in it only if p has one, so that the function need not
// look for it in the archive.
func (p EnqueueParams) SQLOptions() (string, error) {
	if err := p.checkText(p.TraceParent); err != nil {
		return "", err
	}
	o := sqlOptions{
		Queue: p.Queue, ContentType: p.ContentType, Priority: p.Priority, Delay: seconds(p.Delay), RunAt: sqlTime(p.RunAt),
		MaxAttempts: p.MaxAttempts, Timeout: seconds(p.Timeout), ExpiresIn: seconds(p.ExpiresIn), ExpiresAt: sqlTime(p.ExpiresAt),
		Tags: p.Tags, UniqueKey: p.UniqueKey, UniqueMode: p.UniqueMode, UniqueFor: seconds(p.UniqueFor), OnConflict: p.OnConflict,
		IdempotencyKey: p.IdempotencyKey, TraceParent: sqlTrace(p.TraceParent, p.TraceState),
	}
	if !p.ID.IsZero() {
		o.ID = p.ID.String()
	}
	if o.UniqueMode == "" && o.UniqueKey != "" {
		o.UniqueMode = UntilDone
	}
	b, err := json.Marshal(o)
	if err != nil {
		return "", badField("options: %v", err)
	}
	if strings.Contains(string(b), `\u0000`) {
		return "", badField("an option holds the control character U+0000")
	}
	return string(b), nil
}

// seconds writes a duration as a decimal number of seconds, to the microsecond,
// which is what the ledger keeps.
func seconds(d time.Duration) json.Number {
	if d == 0 {
		return ""
	}
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	us := d.Microseconds()
	return json.Number(sign + strconv.FormatInt(us/1e6, 10) + "." + strconv.FormatInt(1e6+us%1e6, 10)[1:])
}

func sqlTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// SQLError makes an *Error of what the functions raise: SQLSTATE, message,
// detail (the reason) and hint (of ReasonUniqueHeld, the holder). It returns cause
// itself for an error that is not Errand's.
func SQLError(state, message, detail, hint string, cause error) error {
	codes := map[string]Code{"22023": CodeInvalidArgument, "23505": CodeAlreadyExists, "55000": CodeFailedPrecondition}
	code, ok := codes[state]
	if !ok || !strings.HasPrefix(message, "errand: ") {
		return cause
	}
	return &Error{Code: code, Reason: Reason(detail), Message: strings.TrimPrefix(message, "errand: "), Holder: wireID(hint), Err: cause}
}
