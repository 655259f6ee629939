// Package coldsql holds the statements of a ledger that need not be fast, each
// written once in the $1 text that both SQLite and PostgreSQL run: reading
// jobs, counters, sessions and settings. It also holds the layout of a job row
// and its translation to and from job.Job, which the hot statements of both
// drivers share.
//
// Relations it expects, under Dialect.Prefix:
//
//	job, dead, archive  the columns of Columns, in any order; archive may be a view
//	session             the columns of SessionColumns
//	queue               name (unique), paused (boolean), route (or NULL), changed_at
//	relay               holder (or NULL), epoch, until_us: one row
//	identity            name: one row
//	counter             queue, kind, state, n: may hold several rows of one key,
//	                    which are added up
package coldsql

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"github.com/errandhq/errand/job"
)

// Dialect is what the two engines do not say alike.
type Dialect struct {
	// Prefix stands before every relation: "errand." or nothing.
	Prefix string
	// ID turns an id into an argument of the driver, never nil for a zero id.
	ID func(job.ID) any
	// HasTag is a condition on the column tags, a JSON array of strings or
	// NULL, with %s for the parameter that holds the tag.
	HasTag string
	// Live names the relation that holds the live jobs of a state, with the columns
	// of job; nil: job, for all states.
	Live func(job.State) string
	// NewestFailure is an expression for the last element of the column errors,
	// as JSON text; NULL where errors is.
	NewestFailure string
	// Wrap turns a driver's error of the named operation into the caller's:
	// never called with nil.
	Wrap func(op string, err error) error
}

// Store runs the cold statements over a pool. It is safe for concurrent use.
type Store struct {
	DB *sql.DB
	Dialect
}

// live is the relation for live jobs of a state.
func (s *Store) live(state job.State) string {
	if s.Live == nil {
		return s.Prefix + "job"
	}
	return s.Prefix + s.Live(state)
}

// Execer is what writes need: a pool, a connection or a transaction.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// query collects a statement's arguments while its text is written.
type query struct {
	args []any
}

// arg adds an argument and returns its parameter.
func (q *query) arg(v any) string {
	q.args = append(q.args, v)
	return "$" + strconv.Itoa(len(q.args))
}

// ids adds ids and returns their parameters, separated by commas.
func (s *Store) ids(q *query, ids []job.ID) string {
	params := make([]string, len(ids))
	for i, id := range ids {
		params[i] = q.arg(s.ID(id))
	}
	return strings.Join(params, ", ")
}

// each runs a query and calls fn on every row.
func (s *Store) each(ctx context.Context, op, text string, args []any, fn func(*sql.Rows) error) (err error) {
	defer func() {
		if err != nil {
			err = s.Wrap(op, err)
		}
	}()
	rows, err := s.DB.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // its error is that of rows.Err
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// where joins conditions; none is "true", which both engines understand.
func where(conds []string) string {
	if len(conds) == 0 {
		return "true"
	}
	return strings.Join(conds, " AND ")
}

// contains is a case-sensitive "column holds text" that both engines share:
// LIKE differs in case and in its wildcards.
func contains(column, param string) string {
	return fmt.Sprintf("replace(%s, %s, '') <> %s", column, param, column)
}
