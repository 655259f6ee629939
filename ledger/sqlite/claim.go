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
		t.mem.readClock(now)
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
	take := c.takeLanes
	if len(c.req.Refs) > 0 {
		take = c.takeRefs
	}
	err := take()
	answer.Jobs, answer.More = c.jobs, c.full || c.bytes > c.req.MaxBytes
	return err
}

// takeLanes takes what is wanted in the order of the lanes.
func (c *claim) takeLanes() error {
	last := job.LaneLast
	if c.req.SuspectsOnly {
		last = job.LaneSuspect
	}
	for lane := job.LaneSuspect; lane <= last && len(c.jobs) < c.req.Max && !c.full; lane++ {
		if err := c.takeLane(lane); err != nil {
			return err
		}
	}
	return nil
}

// refSQL finds the rows of refs that may be leased, in their order. The plus
// signs leave the planner no index but that of the ids.
const refSQL = `SELECT j.rid, j.kind FROM (VALUES %s) AS v CROSS JOIN job_row AS j ON j.id = v.column1
	WHERE +j.state = 2 AND j.token = v.column2 AND +j.queue = ? AND +j.lane > -2 AND (j.expires_at IS NULL OR +j.expires_at > ?)`

// takeRefs takes jobs by name.
func (c *claim) takeRefs() error {
	refs := c.req.Refs
	rids := make([]int64, 0, min(len(refs), max(c.req.Max, 0)))
	seen := make(map[int64]bool, len(refs))
	err := chunks(len(refs), func(from, to int) error {
		args := make([]any, 0, 2*(to-from)+2)
		for i := from; i < to; i++ {
			args = append(args, blobID(refs[i].ID), refs[i].Token)
		}
		args = append(args, c.req.Queue, coldsql.Micros(c.now))
		return c.query(rowsText(refSQL, "(?, ?)", to-from), args, func(row []driver.Value) error {
			rid, kind := row[0].(int64), row[1].(string)
			asked := len(c.req.Kinds) == 0 || slices.Contains(c.req.Kinds, kind)
			_, leased := c.mem.leased[rid]
			if asked && !leased && !seen[rid] && len(rids) < c.req.Max {
				seen[rid] = true
				rids = append(rids, rid)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	return c.leaseAll(rids)
}

// takeLane takes what is wanted of one lane, merged over the kinds.
func (c *claim) takeLane(lane job.Lane) error {
	kinds := kindsIn(c.mem.ready[c.req.Queue], c.req.Kinds, lane)
	most := c.req.Max - len(c.jobs)
	if lane == job.LaneSuspect && len(kinds) > 0 {
		most = 1
		holds, err := c.holdsSuspect()
		if holds || err != nil {
			return err
		}
	}
	if len(kinds) == 1 {
		rows, err := c.readLane(kinds[0], lane, most)
		if err != nil {
			return err
		}
		return c.lease(rows)
	}
	rids, err := laneReader{c.conn, c.now, c.req.Queue, c.mem.marks}.first(kinds, lane, most)
	if err != nil {
		return err
	}
	return c.leaseAll(rids)
}

// holdsSuspect reports whether the session holds a job that has crashed before.
func (c *claim) holdsSuspect() (bool, error) {
	return c.get("SELECT 1 FROM job_row WHERE state = 3 AND session = ? AND crashes > 0 LIMIT 1", []any{blobID(c.req.Session)}, new(int64))
}

// leaseAll leases rows as far as they fit, without reading many that do not.
func (c *claim) leaseAll(rids []int64) error {
	for chunk := range slices.Chunk(rids, chunkSizes[0]) {
		rows, err := c.readRows(chunk)
		if err != nil {
			return err
		}
		if err := c.lease(rows); err != nil || c.full {
			return err
		}
	}
	return nil
}

// lease gives the rows to the session, in their order, as far as their bytes fit.
func (c *claim) lease(rows []candidate) error {
	c.jobs = slices.Grow(c.jobs, len(rows))
	taken := 0
	for i := range rows {
		j := &rows[i].job
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
		taken++
	}
	c.remember(rows[:taken])
	return c.storeLeases(rows[:taken])
}

// eachRID runs a query over rows, for which form has one %s after the
// parameters of args.
func (c *conn) eachRID(form string, args []any, rids []int64, fn func(row []driver.Value) error) error {
	return chunks(len(rids), func(from, to int) error {
		all := append(make([]any, 0, len(args)+to-from), args...)
		for _, rid := range rids[from:to] {
			all = append(all, rid)
		}
		return c.query(rowsText(form, "?", to-from), all, fn)
	})
}
