package coldsql

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
)

// Columns names the columns of a job row in the order of Row.Dest and Values.
var Columns = []string{
	"id", "queue", "kind", "state", "priority", "lane", "seq",
	"run_at", "created_at", "expires_at", "leased_at", "done_at",
	"attempt", "max_attempts", "crashes", "redrives", "timeout_us",
	"token", "version", "session", "call", "settled_token", "settled_as",
	"cancel_requested", "reason", "unique_key", "unique_mode", "unique_for_us",
	"digest", "content_type", "tags", "trace",
	"payload", "result", "progress", "errors", "last_error",
}

// ColumnList is Columns as a statement names them.
var ColumnList = strings.Join(Columns, ", ")

// Micros is how both engines keep a time: microseconds since 1970, 0 for the
// zero time.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Time is the inverse of Micros, in UTC.
func Time(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// Row takes one row of Columns. It may be used again for the next row: jobs
// that it made keep nothing of it.
type Row struct {
	j                                job.Job
	runAt, createdAt                 int64
	expiresAt, leasedAt, doneAt      sql.NullInt64
	timeout, call, settledToken      sql.NullInt64
	settledAs, uniqueMode, uniqueFor sql.NullInt64
	reason, uniqueKey, contentType   sql.NullString
	tags, trace, failures, lastError sql.NullString
	payload, result, progress        []byte
	dest                             []any
}

// Dest returns the pointers to scan a row of Columns into.
func (r *Row) Dest() []any {
	r.j = job.Job{}
	r.payload, r.result, r.progress = nil, nil, nil
	if r.dest == nil {
		r.dest = []any{
			&r.j.ID, &r.j.Queue, &r.j.Kind, &r.j.State, &r.j.Priority, &r.j.Lane, &r.j.Seq,
			&r.runAt, &r.createdAt, &r.expiresAt, &r.leasedAt, &r.doneAt,
			&r.j.Attempt, &r.j.MaxAttempts, &r.j.Crashes, &r.j.Redrives, &r.timeout,
			&r.j.Token, &r.j.Version, &r.j.Session, &r.call, &r.settledToken, &r.settledAs,
			&r.j.CancelRequested, &r.reason, &r.uniqueKey, &r.uniqueMode, &r.uniqueFor,
			&r.j.Digest, &r.contentType, &r.tags, &r.trace,
			&r.payload, &r.result, &r.progress, &r.failures, &r.lastError,
		}
	}
	return r.dest
}

// Job returns the job of the row scanned last.
func (r *Row) Job() (job.Job, error) {
	j := r.j
	j.RunAt, j.CreatedAt = Time(r.runAt), Time(r.createdAt)
	j.ExpiresAt, j.LeasedAt, j.DoneAt = Time(r.expiresAt.Int64), Time(r.leasedAt.Int64), Time(r.doneAt.Int64)
	j.Timeout = time.Duration(r.timeout.Int64) * time.Microsecond
	j.UniqueFor = time.Duration(r.uniqueFor.Int64) * time.Microsecond
	j.Call, j.SettledToken = r.call.Int64, r.settledToken.Int64
	j.SettledAs, j.UniqueMode = job.Event(r.settledAs.Int64), job.UniqueMode(r.uniqueMode.Int64)
	j.Reason, j.UniqueKey, j.Trace = r.reason.String, r.uniqueKey.String, UnpackTrace(r.trace.String)
	j.ContentType = job.DefaultContentType
	if r.contentType.Valid {
		j.ContentType = r.contentType.String
	}
	j.Payload, j.Result, j.Progress = r.payload, r.result, r.progress
	if err := fromJSON(r.tags, &j.Tags); err != nil {
		return j, fmt.Errorf("job %s: tags: %w", j.ID, err)
	}
	if err := fromJSON(r.failures, &j.Errors); err != nil {
		return j, fmt.Errorf("job %s: errors: %w", j.ID, err)
	}
	return j, nil
}

// Scan reads one row of Columns by scan, the Scan method of a row.
func (r *Row) Scan(scan func(dest ...any) error) (job.Job, error) {
	if err := scan(r.Dest()...); err != nil {
		return job.Job{}, err
	}
	return r.Job()
}

// Values appends the values of j in the order of Columns: nil for what is not
// set, so that short rows stay short.
func Values(dst []any, j *job.Job, id func(job.ID) any) []any {
	var session any
	if !j.Session.IsZero() {
		session = id(j.Session)
	}
	contentType := j.ContentType
	if contentType == job.DefaultContentType {
		contentType = ""
	}
	return append(dst,
		id(j.ID), j.Queue, j.Kind, int64(j.State), int64(j.Priority), int64(j.Lane), j.Seq,
		Micros(j.RunAt), Micros(j.CreatedAt), number(Micros(j.ExpiresAt)), number(Micros(j.LeasedAt)), number(Micros(j.DoneAt)),
		int64(j.Attempt), int64(j.MaxAttempts), int64(j.Crashes), int64(j.Redrives), number(j.Timeout.Microseconds()),
		j.Token, j.Version, session, number(j.Call), number(j.SettledToken), number(int64(j.SettledAs)),
		j.CancelRequested, text(j.Reason), text(j.UniqueKey), number(int64(j.UniqueMode)), number(j.UniqueFor.Microseconds()),
		j.Digest, text(contentType), JSON(j.Tags), text(PackTrace(j.Trace)),
		blob(j.Payload), blob(j.Result), blob(j.Progress), JSON(j.Errors), text(j.LastError()),
	)
}

// JSON returns the JSON text of a slice as a driver's value, nil for an empty one.
// It is for strings and failures, which always have a JSON form.
func JSON[T any](v []T) any {
	if len(v) == 0 {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("coldsql: %T has no JSON form: %v", v, err))
	}
	return string(b)
}

func fromJSON(s sql.NullString, v any) error {
	if !s.Valid || s.String == "" {
		return nil
	}
	return json.Unmarshal([]byte(s.String), v)
}

func number(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}

func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func blob(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}
