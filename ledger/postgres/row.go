package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/coldsql"
)

// columns returns coldsql's columns, each with a prefix.
func columns(prefix string) string { return prefix + strings.Join(coldsql.Columns, ", "+prefix) }

// copyRows writes rows in PostgreSQL's binary COPY format, by hand: the generic
// encoder takes longer for a batch than the server does.
type copyRows struct {
	buf       []byte
	untouched bool // the columns are untouchedColumns, else coldsql.Columns
	traces    coldsql.Traces
}

// copyBuffers keeps the buffers of streams that were sent, if they are not large.
var copyBuffers = sync.Pool{New: func() any { return new([]byte) }}

const largeBuffer = 1 << 20

// newCopyRows starts a stream of the jobs; if none of them is touched they have fewer columns.
func newCopyRows(jobs []*job.Job, untouched bool) *copyRows {
	size := 64
	for _, j := range jobs {
		size += 256 + len(j.Queue) + len(j.Kind) + len(j.Payload) + len(j.Trace)
	}
	c := &copyRows{buf: slices.Grow((*copyBuffers.Get().(*[]byte))[:0], size), untouched: untouched}
	c.buf = append(c.buf, "PGCOPY\n\xff\r\n\x00"...)
	c.buf = append(c.buf, 0, 0, 0, 0, 0, 0, 0, 0) // flags, length of the extension
	return c
}

// add appends a job, with its place in the order.
func (c *copyRows) add(j *job.Job, seq int64) error {
	if c.untouched {
		return c.addUntouched(j, seq)
	}
	c.buf = binary.BigEndian.AppendUint16(c.buf, uint16(len(coldsql.Columns)))
	c.addHead(j, seq)
	c.optInt8(coldsql.Micros(j.LeasedAt))
	c.optInt8(coldsql.Micros(j.DoneAt))
	c.int4(j.Attempt)
	c.int4(j.MaxAttempts)
	c.int4(j.Crashes)
	c.int4(j.Redrives)
	c.optInt8(j.Timeout.Microseconds())
	c.int8(j.Token)
	c.int8(j.Version)
	c.optUUID(j.Session)
	c.optInt8(j.Call)
	c.optInt8(j.SettledToken)
	c.optInt2(int64(j.SettledAs))
	c.bool(j.CancelRequested)
	c.optStr(j.Reason)
	c.optStr(j.UniqueKey)
	c.optInt2(int64(j.UniqueMode))
	c.optInt8(j.UniqueFor.Microseconds())
	c.int8(j.Digest)
	c.optStr(contentType(j))
	return c.addTail(j)
}

// addHead appends the columns that both forms begin with.
func (c *copyRows) addHead(j *job.Job, seq int64) {
	c.uuid(j.ID)
	c.str(j.Queue)
	c.str(j.Kind)
	c.int2(int64(j.State))
	c.int2(int64(j.Priority))
	c.int2(int64(j.Lane))
	c.int8(seq)
	c.int8(coldsql.Micros(j.RunAt))
	c.int8(coldsql.Micros(j.CreatedAt))
	c.optInt8(coldsql.Micros(j.ExpiresAt))
}

func (c *copyRows) addUntouched(j *job.Job, seq int64) error {
	tags, err := jsonText(len(j.Tags), j.Tags)
	if err != nil {
		return err
	}
	c.buf = binary.BigEndian.AppendUint16(c.buf, untouchedCount)
	c.addHead(j, seq)
	c.int4(j.MaxAttempts)
	c.optInt8(j.Timeout.Microseconds())
	c.int8(j.Digest)
	c.optStr(contentType(j))
	c.optStr(tags)
	c.optStr(c.traces.Pack(j.Trace))
	c.blob(j.Payload)
	return nil
}

func (c *copyRows) addTail(j *job.Job) error {
	tags, err := jsonText(len(j.Tags), j.Tags)
	if err != nil {
		return err
	}
	failures, err := jsonText(len(j.Errors), j.Errors)
	if err != nil {
		return err
	}
	c.optStr(tags)
	c.optStr(c.traces.Pack(j.Trace))
	c.blob(j.Payload)
	c.blob(j.Result)
	c.blob(j.Progress)
	c.optStr(failures)
	c.optStr(lastError(j))
	return nil
}

func contentType(j *job.Job) string {
	if j.ContentType == job.DefaultContentType {
		return ""
	}
	return j.ContentType
}

// lastError is the newest failure's message as a text column can hold it: the
// zero byte, which a handler's output may well contain, is the one character it cannot.
func lastError(j *job.Job) string { return strings.ReplaceAll(j.LastError(), "\x00", "\uFFFD") }

func jsonText(n int, v any) (string, error) {
	if n == 0 {
		return "", nil
	}
	b, err := json.Marshal(v)
	return string(b), err
}

func (c *copyRows) null() { c.buf = append(c.buf, 0xff, 0xff, 0xff, 0xff) }

func (c *copyRows) size(n int) { c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(n)) }

func (c *copyRows) uuid(id job.ID) {
	c.size(16)
	c.buf = append(c.buf, id[:]...)
}

func (c *copyRows) optUUID(id job.ID) {
	if id.IsZero() {
		c.null()
		return
	}
	c.uuid(id)
}

func (c *copyRows) str(s string) {
	c.size(len(s))
	c.buf = append(c.buf, s...)
}

func (c *copyRows) optStr(s string) {
	if s == "" {
		c.null()
		return
	}
	c.str(s)
}

func (c *copyRows) blob(b []byte) {
	if b == nil {
		c.null()
		return
	}
	c.size(len(b))
	c.buf = append(c.buf, b...)
}

func (c *copyRows) int2(n int64) {
	c.size(2)
	c.buf = binary.BigEndian.AppendUint16(c.buf, uint16(n))
}

func (c *copyRows) optInt2(n int64) {
	if n == 0 {
		c.null()
		return
	}
	c.int2(n)
}

func (c *copyRows) int4(n int) {
	c.size(4)
	c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(n))
}

func (c *copyRows) int8(n int64) {
	c.size(8)
	c.buf = binary.BigEndian.AppendUint64(c.buf, uint64(n))
}

func (c *copyRows) optInt8(n int64) {
	if n == 0 {
		c.null()
		return
	}
	c.int8(n)
}

func (c *copyRows) bool(v bool) {
	c.size(1)
	if v {
		c.buf = append(c.buf, 1)
	} else {
		c.buf = append(c.buf, 0)
	}
}

// send copies the rows into the table. It must be the last use of c.
func (c *copyRows) send(ctx context.Context, t *tx, table string) error {
	c.buf = append(c.buf, 0xff, 0xff)
	list := coldsql.ColumnList
	if c.untouched {
		list = untouchedColumns
	}
	_, err := t.conn.PgConn().CopyFrom(ctx, bytes.NewReader(c.buf), fmt.Sprintf("COPY errand.%s (%s) FROM STDIN (FORMAT binary)", table, list))
	if err == nil && cap(c.buf) <= largeBuffer { // after an error it may still be read
		copyBuffers.Put(&c.buf)
	}
	return err
}

// rowReader reads the binary values of one row, in order. Its first mistake
// stays in err.
type rowReader struct {
	vals   [][]byte
	traces *coldsql.Traces // of the rows before
	err    error
}

var errShape = errors.New("the row has another shape than this version of Errand expects")

func (r *rowReader) next(size int) []byte {
	if len(r.vals) == 0 {
		r.err = errShape
		return nil
	}
	v := r.vals[0]
	r.vals = r.vals[1:]
	if v != nil && size > 0 && len(v) != size {
		r.err = errShape
		return nil
	}
	return v
}

func (r *rowReader) int2() int64 {
	if v := r.next(2); v != nil {
		return int64(int16(binary.BigEndian.Uint16(v)))
	}
	return 0
}

func (r *rowReader) int4() int {
	if v := r.next(4); v != nil {
		return int(int32(binary.BigEndian.Uint32(v)))
	}
	return 0
}

func (r *rowReader) int8() int64 {
	if v := r.next(8); v != nil {
		return int64(binary.BigEndian.Uint64(v))
	}
	return 0
}

func (r *rowReader) time() time.Time         { return coldsql.Time(r.int8()) }
func (r *rowReader) duration() time.Duration { return time.Duration(r.int8()) * time.Microsecond }
func (r *rowReader) str() string             { return string(r.next(0)) }

func (r *rowReader) bool() bool {
	v := r.next(1)
	return v != nil && v[0] != 0
}

func (r *rowReader) uuid() (id job.ID) {
	copy(id[:], r.next(16))
	return id
}

func (r *rowReader) blob() []byte {
	v := r.next(0)
	if v == nil {
		return nil
	}
	return append([]byte{}, v...) // the buffer belongs to the connection
}

func (r *rowReader) json(v any) {
	if b := r.next(0); b != nil && r.err == nil {
		r.err = json.Unmarshal(b, v)
	}
}

// job reads coldsql.Columns.
func (r *rowReader) job(j *job.Job) {
	j.ID, j.Queue, j.Kind = r.uuid(), r.str(), r.str()
	j.State, j.Priority, j.Lane, j.Seq = job.State(r.int2()), int(r.int2()), job.Lane(r.int2()), r.int8()
	j.RunAt, j.CreatedAt, j.ExpiresAt, j.LeasedAt, j.DoneAt = r.time(), r.time(), r.time(), r.time(), r.time()
	j.Attempt, j.MaxAttempts, j.Crashes, j.Redrives = r.int4(), r.int4(), r.int4(), r.int4()
	j.Timeout, j.Token, j.Version = r.duration(), r.int8(), r.int8()
	j.Session, j.Call, j.SettledToken, j.SettledAs = r.uuid(), r.int8(), r.int8(), job.Event(r.int2())
	j.CancelRequested, j.Reason = r.bool(), r.str()
	j.UniqueKey, j.UniqueMode, j.UniqueFor = r.str(), job.UniqueMode(r.int2()), r.duration()
	j.Digest, j.ContentType = r.int8(), r.str()
	if j.ContentType == "" {
		j.ContentType = job.DefaultContentType
	}
	r.json(&j.Tags)
	j.Trace = r.traces.Unpack(r.next(0))
	j.Payload, j.Result, j.Progress = r.blob(), r.blob(), r.blob()
	r.json(&j.Errors)
	r.next(0) // last_error is in errors
}

// scanJob reads the row's job after skip leading columns into a new place at the end
// of jobs: they are large to move. traces may be nil.
func scanJob(jobs []job.Job, rows pgx.Rows, skip int, traces *coldsql.Traces) ([]job.Job, error) {
	vals := rows.RawValues()
	if len(vals) < skip {
		return jobs, errShape
	}
	r := rowReader{vals: vals[skip:], traces: traces}
	jobs = append(jobs, job.Job{})
	j := &jobs[len(jobs)-1]
	if r.job(j); r.err != nil {
		return jobs, fmt.Errorf("job %s: %w", j.ID, r.err)
	}
	return jobs, nil
}

// uuids turns ids into an argument of type uuid[].
func uuids(ids []job.ID) []pgtype.UUID {
	out := make([]pgtype.UUID, len(ids))
	for i, id := range ids {
		out[i] = pgtype.UUID{Bytes: id, Valid: true}
	}
	return out
}

func uuidArg(id job.ID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }

func optUUIDArg(id job.ID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: !id.IsZero()} }

func optInt8Arg(n int64) pgtype.Int8 { return pgtype.Int8{Int64: n, Valid: n != 0} }

func optInt2Arg(n int64) pgtype.Int2 { return pgtype.Int2{Int16: int16(n), Valid: n != 0} }

func optTextArg(s string) pgtype.Text { return pgtype.Text{String: s, Valid: s != ""} }
