package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// pickBytes bounds the payloads that one Apply by criterion reads; what is over it
// is left for the next call.
const pickBytes = 64 << 20

// liveTable has the rows of live jobs; errand.job is a view of them.
const liveTable = "job_row"

// places are the tables in the order in which a job moves through them.
var places = []string{liveTable, "dead", "archive"}

// picked is a job under lock: as it was, as it is to be, and where it lies.
type picked struct {
	before, after job.Job
	place         string
	changed       bool
	err           error
}

// pick locks what p chooses.
func (t *tx) pick(ctx context.Context, p *ledger.Pick) ([]*picked, error) {
	switch {
	case len(p.IDs) > 0:
		return t.pickIDs(ctx, p)
	case !p.Due.IsZero():
		return t.pickWhere(ctx, liveTable, "state = 1 AND run_at <= $1", "run_at", p.Limit, p.Due.UnixMicro())
	case !p.Expired.IsZero():
		return t.pickWhere(ctx, liveTable, "state < 3 AND expires_at IS NOT NULL AND expires_at <= $1", "expires_at", p.Limit, p.Expired.UnixMicro())
	case p.Orphans != ledger.SessionAbsent:
		return t.pickOrphans(ctx, p)
	case p.Dead != nil:
		cond, args := t.l.cold.DeadWhere(*p.Dead)
		return t.pickWhere(ctx, "dead", cond, "id DESC", p.Limit, args...)
	default:
		return nil, nil
	}
}

// pickWhere locks the first rows of a table that are free, as many as the bound on bytes allows.
func (t *tx) pickWhere(ctx context.Context, table, cond, order string, limit int, args ...any) ([]*picked, error) {
	n := len(args)
	text := fmt.Sprintf(`WITH held AS MATERIALIZED (
			SELECT ctid AS place, coalesce(octet_length(payload), 0) + coalesce(octet_length(result), 0) AS size
			FROM errand.%s WHERE %s ORDER BY %s LIMIT $%d FOR UPDATE SKIP LOCKED),
		fits AS MATERIALIZED (
			SELECT place FROM (SELECT place, sum(size) OVER (ROWS UNBOUNDED PRECEDING) - size AS before FROM held) h
			WHERE before < $%d)
		SELECT %s FROM errand.%s j WHERE j.ctid = ANY (ARRAY (SELECT place FROM fits)) ORDER BY %s`,
		table, cond, order, n+1, n+2, columns("j."), table, "j."+order)
	return t.readPicked(ctx, table, text, append(args, limit, int64(pickBytes))...)
}

func (t *tx) readPicked(ctx context.Context, place, text string, args ...any) ([]*picked, error) {
	var out []*picked
	err := t.run(ctx, step{sql: text, args: args, scan: func(rows pgx.Rows) error {
		one, err := scanJob(nil, rows, 0, nil)
		for _, j := range one {
			out = append(out, &picked{before: j, place: place})
		}
		return err
	}})
	return out, err
}

// pickOrphans finds the sessions first: few, and each has its own part of the
// index. Sessions that are absent from both tables have no job, for a lease
// locks the session's row and removing it leaves its id in session_gone; a
// database put together by hand is covered by the last branch.
func (t *tx) pickOrphans(ctx context.Context, p *ledger.Pick) ([]*picked, error) {
	sessions := "SELECT id FROM errand.session WHERE state = 3"
	if p.Orphans == ledger.SessionDrained {
		sessions = `SELECT id FROM errand.session WHERE state = 4 UNION SELECT id FROM errand.session_gone
			UNION SELECT j.session FROM errand.job_row j WHERE j.state = 3 AND NOT EXISTS (SELECT FROM errand.session s WHERE s.id = j.session)
			UNION SELECT b.session FROM errand.lease_block b WHERE NOT EXISTS (SELECT FROM errand.session s WHERE s.id = b.session)`
	}
	rows, err := t.pickWhere(ctx, liveTable, "state = 3 AND session = ANY (ARRAY ("+sessions+"))", "id", p.Limit)
	if err != nil || len(rows) >= p.Limit {
		return rows, err
	}
	held, err := t.readPicked(ctx, liveTable, pickHeldSQL(sessions), p.Limit-len(rows), int64(pickBytes))
	return append(rows, held...), err
}

// pickIDs looks for the ids in each place in turn. An id that is found but
// locked is busy; with Wait it has been waited for, and may have moved on.
func (t *tx) pickIDs(ctx context.Context, p *ledger.Pick) ([]*picked, error) {
	found := map[job.ID]*picked{}
	var missing []job.ID
	for range tries {
		if err := t.lockIDs(ctx, p, found); err != nil {
			return nil, err
		}
		missing = slices.DeleteFunc(slices.Clone(p.IDs), func(id job.ID) bool { return found[id] != nil })
		if len(missing) == 0 {
			break
		}
		exists, err := t.whichExist(ctx, missing)
		if err != nil {
			return nil, err
		}
		for _, id := range missing {
			if exists[id] && !p.Wait {
				found[id] = &picked{before: job.Job{ID: id}, err: job.ErrBusy}
			}
		}
		if !p.Wait || len(exists) == 0 {
			break
		}
	}
	out := make([]*picked, len(p.IDs))
	if err := t.showLeases(ctx, slices.Collect(maps.Values(found))); err != nil {
		return nil, err
	}
	for i, id := range p.IDs {
		if out[i] = found[id]; out[i] == nil {
			out[i] = &picked{before: job.Job{ID: id}, err: job.ErrNotFound}
		}
	}
	return out, nil
}

// lockIDs locks what is free of the ids, in the order of the ids: two calls
// that wait cannot lock each other up.
func (t *tx) lockIDs(ctx context.Context, p *ledger.Pick, found map[job.ID]*picked) error {
	skip := "SKIP LOCKED"
	if p.Wait {
		skip = ""
	}
	for _, place := range places {
		var ids []job.ID
		for _, id := range p.IDs {
			if found[id] == nil {
				ids = append(ids, id)
			}
		}
		if len(ids) == 0 {
			return nil
		}
		rows, err := t.readPicked(ctx, place, fmt.Sprintf("SELECT %s FROM errand.%s WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE %s",
			coldsql.ColumnList, place, skip), uuids(ids))
		if err != nil {
			return err
		}
		for _, r := range rows {
			found[r.before.ID] = r
		}
	}
	return nil
}

func (t *tx) whichExist(ctx context.Context, ids []job.ID) (map[job.ID]bool, error) {
	exists := map[job.ID]bool{}
	parts := make([]string, len(places))
	for i, place := range places {
		parts[i] = "SELECT id FROM errand." + place + " WHERE id = ANY ($1::uuid[])"
	}
	err := t.run(ctx, step{sql: strings.Join(parts, " UNION ALL "), args: []any{uuids(ids)}, scan: func(rows pgx.Rows) error {
		r := rowReader{vals: rows.RawValues()}
		exists[r.uuid()] = true
		return r.err
	}})
	return exists, err
}
