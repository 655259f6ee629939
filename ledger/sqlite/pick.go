package sqlite

import (
	"database/sql/driver"
	"fmt"
	"io"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// pickBytes bounds the payloads and results that a pick by criterion reads; what
// is over it is left for the next call.
const pickBytes = 64 << 20

// picked is a job under Apply: as it was, as it is to be, and where it lies.
type picked struct {
	before, after job.Job
	table         string
	slice         int64
	rid           int64
	err           error
}

// orphanSessions chooses the sessions whose jobs are orphans. Those that hold
// jobs are those of the blocks, and others that are found by stepping through the index,
// one probe a session.
const orphanSessions = `WITH RECURSIVE holder(id) AS (
		SELECT min(session) FROM job_row WHERE state = 3
		UNION ALL SELECT (SELECT min(session) FROM job_row WHERE state = 3 AND session > holder.id) FROM holder WHERE holder.id IS NOT NULL),
	all_holders(id) AS (SELECT id FROM holder UNION ALL SELECT session FROM lease_block)
	SELECT h.id FROM all_holders AS h LEFT JOIN session ON session.id = h.id WHERE h.id IS NOT NULL AND `

// pick reads what p chooses, in the order of the contract.
func (t *tx) pick(p *ledger.Pick, dead func(ledger.DeadFilter) (string, []any)) ([]*picked, error) {
	switch {
	case len(p.IDs) > 0:
		return t.pickIDs(p.IDs)
	case p.Limit <= 0: // to SQLite that would be no limit
		return nil, nil
	case !p.Due.IsZero():
		return t.pickWhere(liveTable, "state = 1 AND run_at <= $1 ORDER BY run_at, rid", p.Limit, coldsql.Micros(p.Due))
	case !p.Expired.IsZero():
		return t.pickWhere(liveTable, "expires_at <= $1 AND state < 3 AND "+notLeased+" ORDER BY expires_at", p.Limit, coldsql.Micros(p.Expired))
	case p.Orphans == ledger.SessionDead:
		return t.pickWhere("job_held", "state = 3 AND session IN ("+orphanSessions+"session.state = 3)", p.Limit)
	case p.Orphans != ledger.SessionAbsent:
		return t.pickWhere("job_held", "state = 3 AND session IN ("+orphanSessions+"coalesce(session.state, 4) = 4)", p.Limit)
	case p.Dead != nil:
		cond, args := dead(*p.Dead)
		return t.pickWhere("dead", cond+" ORDER BY id DESC", p.Limit, args...)
	default:
		return nil, nil
	}
}

// pickWhere reads the first rows of a table that meet a condition.
func (t *tx) pickWhere(table, cond string, limit int, args ...any) ([]*picked, error) {
	var out []*picked
	bytes := 0
	text := fmt.Sprintf("SELECT rid, 0, %s FROM %s WHERE %s LIMIT $%d", coldsql.ColumnList, table, cond, len(args)+1)
	err := t.query(text, append(args, int64(limit)), scanPicked(table, func(p *picked) error {
		out = append(out, p)
		if bytes += len(p.before.Payload) + len(p.before.Result); bytes > pickBytes {
			return io.EOF
		}
		return nil
	}))
	return out, err
}

// pickIDs reads the jobs of the ids wherever they are, one answer for each. An
// id named twice is one job.
func (t *tx) pickIDs(ids []job.ID) ([]*picked, error) {
	found := make(map[job.ID]*picked, len(ids))
	left := ids
	for _, place := range []string{"job", "dead", "archive"} {
		slice := "0"
		if place == "archive" {
			slice = "slice"
		}
		form := fmt.Sprintf("SELECT rid, %s, %s FROM %s WHERE id IN (%%s)", slice, coldsql.ColumnList, place)
		err := t.eachID(form, left, scanPicked(place, func(p *picked) error {
			found[p.before.ID] = p
			return nil
		}))
		if err != nil {
			return nil, err
		}
		var rest []job.ID
		for _, id := range left {
			if found[id] == nil {
				rest = append(rest, id)
			}
		}
		left = rest
	}
	out := make([]*picked, len(ids))
	for i, id := range ids {
		if out[i] = found[id]; out[i] == nil {
			out[i] = &picked{before: job.Job{ID: id}, err: job.ErrNotFound}
		}
	}
	return out, nil
}

// scanPicked reads rows of rid, slice and Columns for fn.
func scanPicked(table string, fn func(*picked) error) func([]driver.Value) error {
	var row coldsql.Row
	return func(vals []driver.Value) (err error) {
		p := &picked{table: table}
		if table == "job" || table == "job_held" {
			p.table = liveTable
		}
		if err := assign(vals[:2], []any{&p.rid, &p.slice}); err != nil {
			return err
		}
		if p.slice != 0 {
			p.table = slice{n: p.slice}.table()
		}
		if p.before, err = row.Scan(func(dest ...any) error { return assign(vals[2:], dest) }); err != nil {
			return err
		}
		return fn(p)
	}
}
