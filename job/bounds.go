package job

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The bounds of design §3.6 that every part shares. Bytes, unless said.
const (
	MaxName         = 128       // kind and queue
	MaxPayload      = 1 << 20   // default; a server may set another
	MaxResult       = 256 << 10 // of a succeeded job
	MaxProgress     = 1 << 10
	MaxTags         = 16 // tags a job
	MaxTag          = 64
	MaxKey          = 256 // unique and idempotency keys
	MaxTrace        = 512
	MaxTraceState   = 512
	MaxContentType  = 128
	MaxBatch        = 1000    // items a call
	MaxBatchBytes   = 4 << 20 // payload bytes a call
	MaxPage         = 1000    // jobs a page
	KeepErrors      = 18      // first and last 9
	MaxErrorMessage = 4 << 10
	MaxErrorStack   = 8 << 10
	MaxPriority     = 9
	MaxAttemptsCap  = 10000

	DefaultQueue       = "default"
	DefaultPriority    = 5
	DefaultMaxAttempts = 25
	DefaultContentType = "application/json"
)

// MaxDelay bounds run_at, expires_at, timeouts and windows: far enough for any
// schedule, near enough that no time arithmetic overflows.
const MaxDelay = 10 * 365 * 24 * time.Hour

// CheckName checks a queue or kind: 1 to MaxName bytes of UTF-8 without control
// characters or white space at its ends.
func CheckName(field, s string) error {
	switch {
	case s == "":
		return Errorf(InvalidArgument, ReasonBadField, "%s is empty", field)
	case len(s) > MaxName:
		return Errorf(InvalidArgument, ReasonBadField, "%s has %d bytes; at most %d are allowed", field, len(s), MaxName)
	case strings.TrimSpace(s) != s:
		return Errorf(InvalidArgument, ReasonBadField, "%s %q begins or ends with white space", field, s)
	}
	return CheckText(field, s)
}

// CheckText checks that s is UTF-8 without control characters, which no
// terminal, log or database column should have to carry.
func CheckText(field, s string) error {
	if !utf8.ValidString(s) {
		return Errorf(InvalidArgument, ReasonBadField, "%s is not valid UTF-8", field)
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return Errorf(InvalidArgument, ReasonBadField, "%s holds the control character %U", field, r)
		}
	}
	return nil
}

func checkLen(field, s string, most int) error {
	if len(s) > most {
		return Errorf(InvalidArgument, ReasonBadField, "%s has %d bytes; at most %d are allowed", field, len(s), most)
	}
	return CheckText(field, s)
}

// Validate checks what a producer may set on a new job against the bounds.
// maxPayload is the server's bound on the payload.
func (j *Job) Validate(maxPayload int) error {
	if err := CheckName("queue", j.Queue); err != nil {
		return err
	}
	if err := CheckName("kind", j.Kind); err != nil {
		return err
	}
	if len(j.Payload) > maxPayload {
		return Errorf(InvalidArgument, ReasonTooLarge, "payload has %d bytes; at most %d are allowed", len(j.Payload), maxPayload)
	}
	if j.Priority < 0 || j.Priority > MaxPriority {
		return Errorf(InvalidArgument, ReasonBadField, "priority %d is not between 0 and %d", j.Priority, MaxPriority)
	}
	if j.MaxAttempts < 1 || j.MaxAttempts > MaxAttemptsCap {
		return Errorf(InvalidArgument, ReasonBadField, "max_attempts %d is not between 1 and %d", j.MaxAttempts, MaxAttemptsCap)
	}
	if j.Timeout < 0 || j.Timeout > MaxDelay {
		return Errorf(InvalidArgument, ReasonBadField, "timeout %s is not between 0 and %s", j.Timeout, MaxDelay)
	}
	if len(j.Tags) > MaxTags {
		return Errorf(InvalidArgument, ReasonBadField, "%d tags; at most %d are allowed", len(j.Tags), MaxTags)
	}
	for _, t := range j.Tags {
		if err := checkLen("tag", t, MaxTag); err != nil {
			return err
		}
	}
	if err := checkLen("content_type", j.ContentType, MaxContentType); err != nil {
		return err
	}
	parent, state := SplitTrace(j.Trace)
	if err := checkLen("trace_parent", parent, MaxTrace); err != nil {
		return err
	}
	if err := checkLen("trace_state", state, MaxTraceState); err != nil {
		return err
	}
	return j.validateUnique()
}

func (j *Job) validateUnique() error {
	if err := checkLen("unique key", j.UniqueKey, MaxKey); err != nil {
		return err
	}
	switch {
	case j.UniqueMode > ForWindow:
		return Errorf(InvalidArgument, ReasonBadField, "unique mode %d is unknown", j.UniqueMode)
	case (j.UniqueKey == "") != (j.UniqueMode == NotUnique):
		return Errorf(InvalidArgument, ReasonBadField, "a unique key and a unique mode go together")
	case (j.UniqueFor > 0) != (j.UniqueMode == ForWindow):
		return Errorf(InvalidArgument, ReasonBadField, "a unique window goes with mode window, and with no other")
	case j.UniqueFor < 0 || j.UniqueFor > MaxDelay:
		return Errorf(InvalidArgument, ReasonBadField, "unique window %s is not between 0 and %s", j.UniqueFor, MaxDelay)
	}
	return nil
}

// clipBytes cuts s to at most n bytes of valid UTF-8, keeping its end: the end
// of an error output says more than its beginning. NUL bytes are replaced as
// well, because a text column of PostgreSQL holds none.
func clipBytes(s string, n int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "�"), "\x00", "�")
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	for len(s) > 0 && !utf8.RuneStart(s[0]) {
		s = s[1:]
	}
	return s
}
