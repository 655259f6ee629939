package sqlite

import (
	"context"
	"database/sql/driver"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// readChunk is how many rows a claim reads before it looks at their bytes.
const readChunk = 32

// laneSQL reads the head of a lane from the ready index alone.
const laneSQL = `SELECT seq, rid FROM job INDEXED BY job_ready
	WHERE state = 2 AND queue = ? AND kind = ? AND lane = ? AND seq > ? AND (expires_at IS NULL OR expires_at > ?)
	ORDER BY seq LIMIT ?`

// Claim implements ledger.Jobs.
func (l *Ledger) Claim(ctx context.Context, now time.Time, reqs []ledger.Claim) ([]ledger.Claimed, error) {
	if len(reqs) == 0 {
		return nil, nil
	}
	weight := 0
	for i := range reqs {
		weight += max(reqs[i].Max, 1)
	}
	var answers []ledger.Claimed
	err := l.w.do(ctx, "claim", weight, func(t *tx) error {
		answers = make([]ledger.Claimed, len(reqs))
		for i := range reqs {
			c := &claim{tx: t, now: now, req: &reqs[i]}
			if err := c.run(&answers[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

// claim is one request under way.
type claim struct {
	*tx
	now   time.Time
	req   *ledger.Claim
	jobs  []job.Job
	bytes int
	full  bool // the next job in the order does not fit
}

func (c *claim) run(answer *ledger.Claimed) error {
	var state int64
	if _, err := c.get("SELECT state FROM session WHERE id = ?", []any{blobID(c.req.Session)}, &state); err != nil {
		return err
	}
	if ledger.SessionState(state) != ledger.SessionLive {
		answer.Err = job.ErrSessionLost
		return nil
	}
	if c.mem.paused[c.req.Queue] {
		return nil
	}
	for lane := job.LaneSuspect; lane <= job.LaneLast && len(c.jobs) < c.req.Max && !c.full; lane++ {
		if err := c.takeLane(lane); err != nil {
			return err
		}
	}
	answer.Jobs = c.jobs
	return nil
}

// takeLane takes what is wanted of one lane, merged over the kinds.
func (c *claim) takeLane(lane job.Lane) error {
	kinds := c.kindsIn(lane)
	most := c.req.Max - len(c.jobs)
	if lane == job.LaneSuspect && len(kinds) > 0 {
		most = 1
		holds, err := c.holdsSuspect()
		if holds || err != nil {
			return err
		}
	}
	if len(kinds) == 0 {
		return nil
	}
	heads := make([]*head, len(kinds))
	for i, kind := range kinds {
		heads[i] = &head{kind: kind, lane: lane, page: max(8, 2*most/len(kinds))}
		if len(kinds) == 1 {
			heads[i].page = most
		}
	}
	rids, err := c.merge(heads, most)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(rids, readChunk) {
		if err := c.lease(chunk); err != nil || c.full {
			return err
		}
	}
	return nil
}

// kindsIn returns the kinds asked for that have ready jobs in the lane.
func (c *claim) kindsIn(lane job.Lane) []string {
	ready := c.mem.ready[c.req.Queue]
	var kinds []string
	if len(c.req.Kinds) == 0 {
		for kind, by := range ready {
			if by[lane-job.LaneSuspect] > 0 {
				kinds = append(kinds, kind)
			}
		}
		return kinds
	}
	for _, kind := range c.req.Kinds {
		if by := ready[kind]; by != nil && by[lane-job.LaneSuspect] > 0 && !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// holdsSuspect reports whether the session holds a job that has crashed before.
func (c *claim) holdsSuspect() (bool, error) {
	return c.get("SELECT 1 FROM job WHERE state = 3 AND session = ? AND crashes > 0 LIMIT 1", []any{blobID(c.req.Session)}, new(int64))
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

func (c *claim) fill(h *head) error {
	if len(h.rows) > 0 || h.done {
		return nil
	}
	err := c.query(laneSQL, []any{c.req.Queue, h.kind, int64(h.lane), h.last, coldsql.Micros(c.now), int64(h.page)},
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

// merge takes up to n rows from the heads, by seq.
func (c *claim) merge(heads []*head, n int) ([]int64, error) {
	rids := make([]int64, 0, n)
	for len(rids) < n {
		var first *head
		for _, h := range heads {
			if err := c.fill(h); err != nil {
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

// lease gives the rows to the session, in their order, as far as their bytes fit.
func (c *claim) lease(rids []int64) error {
	read, err := c.readLive(rids)
	if err != nil {
		return err
	}
	taken := make([]int64, 0, len(rids))
	for _, rid := range rids {
		j := read[rid]
		if len(c.jobs) > 0 && c.bytes+len(j.Payload) > c.req.MaxBytes {
			c.full = true
			break
		}
		before := *j
		if err := (job.Rules{}).Step(j, job.Move{Event: job.Lease, Now: c.now, Session: c.req.Session, Call: c.req.Call}); err != nil {
			return err
		}
		if before.HoldsKey() && !j.HoldsKey() {
			if err := c.freeUnique(j); err != nil {
				return err
			}
		}
		c.count(&before, 0, -1)
		c.count(j, 0, 1)
		c.bytes += len(j.Payload)
		c.jobs = append(c.jobs, *j)
		taken = append(taken, rid)
	}
	return c.storeLeases(taken)
}

// readLive reads live jobs by row.
func (t *tx) readLive(rids []int64) (map[int64]*job.Job, error) {
	read := make(map[int64]*job.Job, len(rids))
	var row coldsql.Row
	err := t.eachRID("SELECT rid, "+coldsql.ColumnList+" FROM job WHERE rid IN (%s)", nil, rids, func(vals []driver.Value) error {
		j, err := row.Scan(func(dest ...any) error { return assign(vals[1:], dest) })
		read[vals[0].(int64)] = &j
		return err
	})
	return read, err
}

// eachRID runs a query over rows, for which form has one %s after the
// parameters of args.
func (t *tx) eachRID(form string, args []any, rids []int64, fn func(row []driver.Value) error) error {
	return chunks(len(rids), func(from, to int) error {
		all := append(make([]any, 0, len(args)+to-from), args...)
		for _, rid := range rids[from:to] {
			all = append(all, rid)
		}
		return t.query(rowsText(form, "?", to-from), all, fn)
	})
}

func (c *claim) storeLeases(rids []int64) error {
	var call any
	if c.req.Call != 0 {
		call = c.req.Call
	}
	return c.eachRID(`UPDATE job SET state = 3, attempt = attempt + 1, token = token + 1, version = version + 1,
		session = ?, call = ?, leased_at = ? WHERE rid IN (%s)`,
		[]any{blobID(c.req.Session), call, coldsql.Micros(c.now)}, rids, nil)
}
