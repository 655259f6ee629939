package coldsql

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// idsAStatement bounds the parameters of one statement.
const idsAStatement = 100

// The three places where jobs are kept.
var places = []string{"job", "dead", "archive"}

// Get implements ledger.Reader. All places are read by one statement, so that
// a job on its way from one to the other is not missed.
func (s *Store) Get(ctx context.Context, ids []job.ID) ([]job.Job, error) {
	jobs := make([]job.Job, 0, len(ids))
	for len(ids) > 0 {
		n := min(len(ids), idsAStatement)
		var q query
		in := s.ids(&q, ids[:n])
		var parts []string
		for _, place := range places {
			parts = append(parts, fmt.Sprintf("SELECT %s FROM %s%s WHERE id IN (%s)", ColumnList, s.Prefix, place, in))
		}
		var err error
		if jobs, err = s.appendJobs(ctx, "get", jobs, strings.Join(parts, " UNION ALL "), q.args); err != nil {
			return nil, err
		}
		ids = ids[n:]
	}
	return jobs, nil
}

// List implements ledger.Reader.
func (s *Store) List(ctx context.Context, f ledger.Query) ([]job.Job, error) {
	var q query
	cond := where(s.listConditions(&q, f))
	limit := q.arg(int64(f.Limit))
	inner, outer := s.shortColumns()
	var parts []string
	for i, place := range s.placesOf(f) {
		parts = append(parts, fmt.Sprintf("SELECT * FROM (SELECT %s FROM %s WHERE %s ORDER BY id DESC LIMIT %s) AS page_%d",
			inner, place, cond, limit, i))
	}
	text := fmt.Sprintf("SELECT %s FROM (%s) AS page ORDER BY id DESC LIMIT %s",
		outer, strings.Join(parts, " UNION ALL "), limit)
	return s.appendJobs(ctx, "list", nil, text, q.args)
}

// placesOf returns the relations in which the jobs that f chooses can be.
func (s *Store) placesOf(f ledger.Query) []string {
	switch {
	case f.Error != "" || f.State == job.Dead:
		return []string{s.Prefix + "dead"}
	case f.State == job.Succeeded || f.State == job.Cancelled:
		return []string{s.Prefix + "archive"}
	case f.State != 0:
		return []string{s.live(f.State)}
	}
	var all []string
	for _, place := range places {
		all = append(all, s.Prefix+place)
	}
	return all
}

func (s *Store) listConditions(q *query, f ledger.Query) []string {
	var conds []string
	if f.State != 0 {
		// Written out, not bound: a planner matches partial indexes by text.
		conds = append(conds, fmt.Sprintf("state = %d", f.State))
	}
	if f.Queue != "" {
		conds = append(conds, "queue = "+q.arg(f.Queue))
	}
	if f.Kind != "" {
		conds = append(conds, "kind = "+q.arg(f.Kind))
	}
	if f.Error != "" {
		conds = append(conds, contains("last_error", q.arg(f.Error)))
	}
	if f.Tag != "" {
		conds = append(conds, fmt.Sprintf(s.HasTag, q.arg(f.Tag)))
	}
	if !f.After.IsZero() {
		conds = append(conds, "id < "+q.arg(s.ID(f.After)))
	}
	return conds
}

// shortColumns returns what List reads of each place, and what it makes of it:
// Columns without payload and result, and with the newest failure only.
func (s *Store) shortColumns() (inner, outer string) {
	var in, out []string
	for _, c := range Columns {
		switch c {
		case "payload", "result":
			out = append(out, "NULL AS "+c)
		case "errors":
			in = append(in, fmt.Sprintf("'[' || %s || ']' AS errors", s.NewestFailure))
			out = append(out, c)
		default:
			in, out = append(in, c), append(out, c)
		}
	}
	return strings.Join(in, ", "), strings.Join(out, ", ")
}

// DeadWhere returns the condition and its arguments ($1 and on) by which f
// chooses rows of the relation dead. The order of a pick is id, descending:
// a place in it stays known when the job itself has left.
func (s *Store) DeadWhere(f ledger.DeadFilter) (string, []any) {
	var q query
	conds := s.listConditions(&q, ledger.Query{Queue: f.Queue, Kind: f.Kind, Error: f.Error, After: f.AfterID})
	if !f.Before.IsZero() {
		conds = append(conds, "done_at < "+q.arg(Micros(f.Before)))
	}
	return where(conds), q.args
}

// CountDead implements ledger.Reader.
func (s *Store) CountDead(ctx context.Context, f ledger.DeadFilter, most int) (int, error) {
	cond, args := s.DeadWhere(f)
	q := query{args: args}
	text := fmt.Sprintf("SELECT count(*) FROM (SELECT 1 FROM %sdead WHERE %s LIMIT %s) AS chosen", s.Prefix, cond, q.arg(int64(most)))
	var n int
	err := s.each(ctx, "count dead letters", text, q.args, func(rows *sql.Rows) error { return rows.Scan(&n) })
	return n, err
}

func (s *Store) appendJobs(ctx context.Context, op string, jobs []job.Job, text string, args []any) ([]job.Job, error) {
	var row Row
	err := s.each(ctx, op, text, args, func(rows *sql.Rows) error {
		j, err := row.Scan(rows.Scan)
		jobs = append(jobs, j)
		return err
	})
	if err != nil {
		return nil, err
	}
	return jobs, nil
}
