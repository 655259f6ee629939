package sqlite

import (
	"database/sql/driver"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// A claim does not write to the rows of the jobs that it takes: it stores one
// lease_block, and for each job its two numbers in lease. The job's row says still
// that it is ready, and its place in the ready index stays, until the job ends or is
// changed; the view job shows it as it is. Memory knows which rows are leased, and
// a mark in each lane up to which all are, so that claims do not walk over
// them. Attempt, token and version of a leased job are one more than its row
// says, from the commit of the claim on: what fences is as durable as if it
// were written to the row.
//
// Jobs that have crashed before, those in front of the priorities and those that
// are taken by name are leased in their rows, as all were up to migration 4.

// lease is what a settle needs of a job that this process leased, so that it need
// not be looked up. Memory holds one for each running job at the most; there is
// none of a job that was leased before a restart or changed since its lease,
// and that is then read from its row.
type lease struct {
	rid, token int64
	was        ledger.Succeeded // what its success will answer
	key        string
	mode       job.UniqueMode
	plain      bool // its row is, see isPlain
}

// block is a lease_block in memory.
type block struct {
	n        int64 // leases
	leasedAt int64
}

// laneKey names a lane of a queue's kind.
type laneKey struct {
	queue, kind string
	lane        job.Lane
}

// loadLeases reads which rows are leased.
func (m *memory) loadLeases(c *conn) error {
	err := c.query("SELECT block, leased_at FROM lease_block", nil, func(row []driver.Value) error {
		b := new(block)
		var id int64
		err := assign(row, []any{&id, &b.leasedAt})
		m.blocks[id] = b
		return err
	})
	if err != nil {
		return err
	}
	return c.query("SELECT rid, block FROM lease", nil, func(row []driver.Value) error {
		var rid, id int64
		err := assign(row, []any{&rid, &id})
		m.leased[rid] = id
		m.blocks[id].n++
		return err
	})
}

// remember keeps leases in memory, for as long as the op's transaction stands.
func (t *tx) remember(rows []candidate) {
	for i := range rows {
		j := &rows[i].job
		t.mem.leases[j.ID] = lease{
			rid: rows[i].rid, token: j.Token, key: j.UniqueKey, mode: j.UniqueMode, plain: rows[i].plain,
			was: ledger.Succeeded{
				OK: true, Queue: j.Queue, Kind: j.Kind, Priority: j.Priority, Attempt: j.Attempt, MaxAttempts: j.MaxAttempts,
				Crashes: j.Crashes, Version: j.Version + 1, CreatedAt: j.CreatedAt, RunAt: j.RunAt, LeasedAt: j.LeasedAt,
			},
		}
	}
	t.undo = append(t.undo, func() {
		for i := range rows {
			delete(t.mem.leases, rows[i].job.ID)
		}
	})
}

// storeLeases stores the leases of rows, of one lane or chosen by name.
func (c *claim) storeLeases(rows []candidate) error {
	var apart, inRow []int64
	for i := range rows {
		if j := &rows[i].job; j.Lane >= 0 && j.Crashes == 0 && !j.CancelRequested && len(c.req.Refs) == 0 {
			apart = append(apart, rows[i].rid)
		} else {
			inRow = append(inRow, rows[i].rid)
		}
	}
	if err := c.leaseApart(apart); err != nil {
		return err
	}
	if len(apart) > 0 {
		c.mark(rows)
	}
	return c.eachRID(`UPDATE job_row SET state = 3, attempt = attempt + 1, token = token + 1, version = version + 1,
		session = ?, call = ?, leased_at = ? WHERE rid IN (%s)`,
		[]any{blobID(c.req.Session), c.callNumber(), coldsql.Micros(c.now)}, inRow, nil)
}

func (c *claim) callNumber() any {
	if c.req.Call == 0 {
		return nil
	}
	return c.req.Call
}

// leaseApart stores leases beside the rows of their jobs.
func (c *claim) leaseApart(rids []int64) error {
	if len(rids) == 0 {
		return nil
	}
	var id int64
	if _, err := c.get("INSERT INTO lease_block (session, call, leased_at, first_rid, last_rid) VALUES (?, ?, ?, ?, ?) RETURNING block",
		[]any{blobID(c.req.Session), c.callNumber(), coldsql.Micros(c.now), slices.Min(rids), slices.Max(rids)}, &id); err != nil {
		return err
	}
	m := c.mem
	m.blocks[id] = &block{n: int64(len(rids)), leasedAt: coldsql.Micros(c.now)}
	for _, rid := range rids {
		m.leased[rid] = id
	}
	c.undo = append(c.undo, func() {
		delete(m.blocks, id)
		for _, rid := range rids {
			delete(m.leased, rid)
		}
	})
	if first, last, ok := oneRange(rids); ok {
		_, err := c.exec("INSERT INTO lease (rid, block) SELECT rid, ? FROM job_row WHERE rid BETWEEN ? AND ?", id, first, last)
		return err
	}
	return chunks(len(rids), func(from, to int) error {
		args := make([]any, 0, 2*(to-from))
		for _, rid := range rids[from:to] {
			args = append(args, rid, id)
		}
		_, err := c.exec(rowsText("INSERT INTO lease (rid, block) VALUES %s", "(?, ?)", to-from), args...)
		return err
	})
}

// mark moves the marks of lanes behind rows that were leased, each lane's from its
// front on. Expired jobs that were passed over stay behind: the keeper ends them, if the
// clock was right.
func (c *claim) mark(rows []candidate) {
	m := c.mem
	for i := len(rows) - 1; i >= 0; i-- { // so that of each lane the first that is met is the last
		j := &rows[i].job
		k := laneKey{j.Queue, j.Kind, j.Lane}
		if was := m.marks[k]; j.Seq > was {
			m.marks[k] = j.Seq
			c.undo = append(c.undo, func() { m.marks[k] = was })
		}
	}
}

// clockSlack is how far the times of claims may be out of order.
const clockSlack = time.Second

// readClock takes the time of a claim. If it shows that the clock was ahead, marks may
// have gone past jobs that have not expired.
func (m *memory) readClock(now time.Time) {
	if now.Add(clockSlack).Before(m.clock) {
		clear(m.marks)
		m.clock = now
	}
	if now.After(m.clock) {
		m.clock = now
	}
}

// unmark says that a job is ready in its lane. That a mark is too low costs a
// claim a look at leased rows, so nothing takes it back.
func (m *memory) unmark(j *job.Job) {
	k := laneKey{j.Queue, j.Kind, j.Lane}
	if m.marks[k] >= j.Seq {
		m.marks[k] = j.Seq - 1
	}
}

// unlease ends the leases of rows, for those that have one beside their row.
func (t *tx) unlease(rids []int64) error {
	m := t.mem
	gone, blocks := make([]int64, 0, len(rids)), make([]int64, 0, len(rids))
	for _, rid := range rids {
		if id, ok := m.leased[rid]; ok {
			gone, blocks = append(gone, rid), append(blocks, id)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	ended := make(map[int64]*block)
	for i, rid := range gone {
		b := m.blocks[blocks[i]]
		delete(m.leased, rid)
		if b.n--; b.n == 0 {
			ended[blocks[i]] = b
			delete(m.blocks, blocks[i])
		}
	}
	t.undo = append(t.undo, func() {
		for id, b := range ended {
			m.blocks[id] = b
		}
		for i, rid := range gone {
			m.leased[rid] = blocks[i]
			m.blocks[blocks[i]].n++
		}
	})
	for id := range ended {
		if _, err := t.exec("DELETE FROM lease_block WHERE block = ?", id); err != nil {
			return err
		}
	}
	if first, last, ok := oneRange(gone); ok {
		_, err := t.exec("DELETE FROM lease WHERE rid BETWEEN ? AND ?", first, last)
		return err
	}
	return t.eachRID("DELETE FROM lease WHERE rid IN (%s)", nil, gone, nil)
}

// oneRange reports whether rows, each of which is named once, are all between the first and
// the last of them, in order: then one statement does for all.
func oneRange(rids []int64) (first, last int64, ok bool) {
	first, last = rids[0], rids[len(rids)-1]
	return first, last, last-first == int64(len(rids))-1 && slices.IsSorted(rids)
}

// forgetMarks drops the marks of lanes in which nothing is.
func (m *memory) forgetMarks() {
	for k := range m.marks {
		idle := m.counts[counterKey{queue: k.queue, kind: k.kind, state: job.Ready, lane: k.lane}] == 0 &&
			m.counts[counterKey{queue: k.queue, kind: k.kind, state: job.Running}] == 0
		if idle {
			delete(m.marks, k)
		}
	}
}
