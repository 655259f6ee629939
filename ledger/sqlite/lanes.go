package sqlite

import (
	"database/sql/driver"
	"fmt"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/coldsql"
)

// laneSQL reads a lane in order, as far as it is stepped through. Of columns that the
// ready index has, it reads nothing else.
const laneSQL = `SELECT %s FROM job_row INDEXED BY job_ready
	WHERE state = 2 AND queue = ? AND kind = ? AND lane = ? AND seq > ? AND (expires_at IS NULL OR expires_at > ?) %s
	ORDER BY seq`

var headSQL = fmt.Sprintf(laneSQL, "seq, rid", "AND "+notLeased) + " LIMIT ?"

// notLeased chooses rows of job_row that have no lease beside them.
const notLeased = "NOT EXISTS (SELECT 1 FROM lease WHERE lease.rid = job_row.rid)"

// laneReader reads the first ready jobs of a queue.
type laneReader struct {
	c     *conn
	now   time.Time
	queue string
	marks map[laneKey]int64 // where all before is leased; may be nil
}

// readyLanes says how many jobs are ready in each lane of a queue's kinds.
type readyLanes = map[string]*[lanes]int64

// kindsIn returns those of the kinds asked for (none: of all) that have ready
// jobs in the lane.
func kindsIn(ready readyLanes, asked []string, lane job.Lane) []string {
	var kinds []string
	if len(asked) == 0 {
		for kind, by := range ready {
			if by[lane-job.LaneSuspect] > 0 {
				kinds = append(kinds, kind)
			}
		}
		return kinds
	}
	for _, kind := range asked {
		if by := ready[kind]; by != nil && by[lane-job.LaneSuspect] > 0 && !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// head reads one lane of one kind page by page.
type head struct {
	kind string
	lane job.Lane
	page int
	rows []entry // read and not yet taken
	last int64   // seq of the last row read
	done bool
}

type entry struct{ seq, rid int64 }

// first returns the first n rows of a lane in the order of seq, merged over
// the kinds.
func (r laneReader) first(kinds []string, lane job.Lane, n int) ([]int64, error) {
	if len(kinds) == 0 || n <= 0 {
		return nil, nil
	}
	heads := make([]*head, len(kinds))
	for i, kind := range kinds {
		heads[i] = &head{kind: kind, lane: lane, page: max(8, 2*n/len(kinds)), last: r.marks[laneKey{r.queue, kind, lane}]}
		if len(kinds) == 1 {
			heads[i].page = n
		}
	}
	rids := make([]int64, 0, n)
	for len(rids) < n {
		var first *head
		for _, h := range heads {
			if err := r.fill(h); err != nil {
				return nil, err
			}
			if len(h.rows) > 0 && (first == nil || h.rows[0].seq < first.rows[0].seq) {
				first = h
			}
		}
		if first == nil {
			break
		}
		rids = append(rids, first.rows[0].rid)
		first.rows = first.rows[1:]
	}
	return rids, nil
}

func (r laneReader) fill(h *head) error {
	if len(h.rows) > 0 || h.done {
		return nil
	}
	err := r.c.query(headSQL, []any{r.queue, h.kind, int64(h.lane), h.last, coldsql.Micros(r.now), int64(h.page)},
		func(row []driver.Value) error {
			var e entry
			err := assign(row, []any{&e.seq, &e.rid})
			h.rows = append(h.rows, e)
			h.last = e.seq
			return err
		})
	h.done = len(h.rows) < h.page
	return err
}
