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
	rid   int64
	job   job.Job
	plain bool // see isPlain
}

// A claim reads of a row what a plain job has, and the whole of those that are not plain after
// that: each column costs a tenth of a microsecond.
const candidateColumns = "rid, " + plainVersion + ", id, priority, seq, run_at, created_at, max_attempts, digest, payload"

var (
	laneJobsSQL = fmt.Sprintf(laneSQL, candidateColumns, "")
	rowJobsSQL  = "SELECT " + candidateColumns + ", kind, lane FROM job_row WHERE rid IN (%s)"
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
		if err := c.scan(row, one); err != nil {
			return err
		}
		one.job.Kind, one.job.Lane = kind, lane
		if !one.plain {
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
		if err := c.scan(row, &one); err != nil {
			return err
		}
		var lane int64
		one.job.Kind, _ = row[10].(string)
		lane, _ = row[11].(int64)
		one.job.Lane = job.Lane(lane)
		if !one.plain {
			touched = append(touched, one.rid)
		}
		at[one.rid] = one
		return nil
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

// scan makes a job of the first columns of a row, candidateColumns. All else of it is in readWhole's, unless it is plain.
func (c *claim) scan(row []driver.Value, one *candidate) error {
	var n [8]int64 // rid, version, then from priority to digest
	for i := range n {
		at := i
		if i > 1 {
			at++ // behind the id
		}
		var ok bool
		if n[i], ok = row[at].(int64); !ok {
			return fmt.Errorf("column %d: %T is not a number", at, row[at])
		}
	}
	one.rid, one.plain = n[0], n[1] != 0
	one.job = job.Job{
		Queue: c.req.Queue, State: job.Ready, ContentType: job.DefaultContentType, Version: n[1],
		Priority: int(n[2]), Seq: n[3], RunAt: coldsql.Time(n[4]), CreatedAt: coldsql.Time(n[5]), MaxAttempts: int(n[6]), Digest: n[7],
	}
	one.job.Payload, _ = row[9].([]byte)
	return one.job.ID.Scan(row[2])
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
