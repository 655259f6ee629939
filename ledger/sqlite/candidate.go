package sqlite

import (
	"database/sql/driver"
	"fmt"
	"io"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/coldsql"
)

// candidate is a ready job that a claim may lease.
type candidate struct {
	rid int64
	job job.Job
}

// A column costs a fifth of a microsecond to read, and of most jobs most are not
// set. So a claim reads those that every job has, and whether all others are as
// they are in a job that was never touched; only where they are not, the whole row.
const (
	plainColumns = "id, kind, priority, lane, seq, run_at, created_at, attempt, max_attempts, token, version, digest, payload"
	untouched    = `expires_at IS NULL AND leased_at IS NULL AND done_at IS NULL AND crashes = 0 AND redrives = 0
		AND timeout_us IS NULL AND session IS NULL AND call IS NULL AND settled_token IS NULL AND settled_as IS NULL
		AND cancel_requested = 0 AND reason IS NULL AND unique_key IS NULL AND unique_mode IS NULL AND unique_for_us IS NULL
		AND content_type IS NULL AND tags IS NULL AND trace IS NULL AND result IS NULL AND progress IS NULL
		AND errors IS NULL AND last_error IS NULL`
	candidateColumns = "rid, " + untouched + ", " + plainColumns
)

var (
	laneJobsSQL = fmt.Sprintf(laneSQL, candidateColumns, "")
	rowJobsSQL  = "SELECT " + candidateColumns + " FROM job_row WHERE rid IN (%s)"
	wholeSQL    = "SELECT rid, " + coldsql.ColumnList + " FROM job_row WHERE rid IN (%s)"
)

// readLane reads the first n jobs of one kind's lane, as many as may fit.
func (c *claim) readLane(kind string, lane job.Lane, n int) ([]candidate, error) {
	rows := make([]candidate, 0, max(0, min(int64(n), c.mem.ready[c.req.Queue][kind][lane-job.LaneSuspect])))
	var touched []int64
	bytes := c.bytes
	args := []any{c.req.Queue, kind, int64(lane), c.mem.marks[laneKey{c.req.Queue, kind, lane}], coldsql.Micros(c.now)}
	err := c.query(laneJobsSQL, args, func(row []driver.Value) error {
		if _, leased := c.mem.leased[row[0].(int64)]; leased {
			return nil
		}
		rows = append(rows, candidate{})
		one := &rows[len(rows)-1]
		whole, err := c.scan(row, one)
		if err != nil {
			return err
		}
		if !whole {
			touched = append(touched, one.rid)
		}
		if bytes += len(one.job.Payload); bytes > c.req.MaxBytes || len(rows) == n {
			return io.EOF // of too many bytes the last will not fit, unless it is the first
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rows, c.readWhole(rows, touched)
}

// readRows reads jobs by row, in the order of rids.
func (c *claim) readRows(rids []int64) ([]candidate, error) {
	at := make(map[int64]candidate, len(rids))
	var touched []int64
	err := c.eachRID(rowJobsSQL, nil, rids, func(row []driver.Value) error {
		var one candidate
		whole, err := c.scan(row, &one)
		if !whole {
			touched = append(touched, one.rid)
		}
		at[one.rid] = one
		return err
	})
	if err != nil {
		return nil, err
	}
	rows := make([]candidate, len(rids))
	for i, rid := range rids {
		rows[i] = at[rid]
	}
	return rows, c.readWhole(rows, touched)
}

// scan makes a job of a row of candidateColumns, and says whether that is all of it.
func (c *claim) scan(row []driver.Value, one *candidate) (whole bool, err error) {
	one.job = job.Job{Queue: c.req.Queue, State: job.Ready, ContentType: job.DefaultContentType}
	j := &one.job
	var plain, runAt, createdAt int64
	c.dest = append(c.dest[:0], &one.rid, &plain, &j.ID, &j.Kind, &j.Priority, &j.Lane, &j.Seq, &runAt, &createdAt,
		&j.Attempt, &j.MaxAttempts, &j.Token, &j.Version, &j.Digest, &j.Payload)
	err = assign(row, c.dest)
	j.RunAt, j.CreatedAt = coldsql.Time(runAt), coldsql.Time(createdAt)
	return plain != 0, err
}

// readWhole reads again, with all their columns, those of rows that are named.
func (c *claim) readWhole(rows []candidate, rids []int64) error {
	if len(rids) == 0 {
		return nil
	}
	at := make(map[int64]*candidate, len(rows))
	for i := range rows {
		at[rows[i].rid] = &rows[i]
	}
	var row coldsql.Row
	return c.eachRID(wholeSQL, nil, rids, func(vals []driver.Value) (err error) {
		at[vals[0].(int64)].job, err = row.Scan(func(dest ...any) error { return assign(vals[1:], dest) })
		return err
	})
}
