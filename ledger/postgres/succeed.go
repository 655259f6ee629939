package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// succeedSQL moves running jobs into the archive, as job.Rules.Settle does for
// Succeed. Rows that another transaction has locked are passed over.
//
// Rows are looked up one by one through the primary key, by subqueries that the
// planner cannot turn round: a plain join it would, while a table is small, drive
// from a whole index of the table, and keep that plan when the table has grown.
// "state + 0" keeps it from the partial indexes, which have no id.
var succeedSQL = fmt.Sprintf(`WITH held AS MATERIALIZED (
		SELECT h.place, u.result AS outcome
		FROM unnest($1::uuid[], $2::bigint[], $3::bytea[]) AS u (id, token, result)
		CROSS JOIN LATERAL (
			SELECT j.ctid AS place FROM errand.job j
			WHERE j.id = u.id AND j.token = u.token AND j.state + 0 = %[1]d FOR UPDATE SKIP LOCKED) AS h),
	gone AS (
		DELETE FROM errand.job j USING held h WHERE j.ctid = h.place
		RETURNING j.*, h.outcome),
	kept AS (
		INSERT INTO errand.archive (%[2]s) SELECT %[3]s FROM gone),
	counted AS (
		INSERT INTO errand.counter_delta (queue, kind, state, slice, n)
		SELECT g.queue, g.kind, c.state, c.slice, c.sign * count(*) FROM gone g
		CROSS JOIN (VALUES (%[1]d::smallint, 0::bigint, -1), (%[4]d::smallint, $5::bigint, 1)) AS c (state, slice, sign)
		GROUP BY g.queue, g.kind, c.state, c.slice, c.sign),
	freed AS (
		DELETE FROM errand.unique_key WHERE ctid = ANY (ARRAY (
			SELECT h.place FROM gone g CROSS JOIN LATERAL (
				SELECT k.ctid AS place FROM errand.unique_key k
				WHERE k.scope = g.kind AND k.key = g.unique_key AND k.job = g.id FOR UPDATE) AS h
			WHERE g.unique_mode = %[5]d)))
	SELECT id, token FROM gone`,
	job.Running, coldsql.ColumnList, succeededRow(), job.Succeeded, job.UntilDone)

// succeededRow is what becomes of a row's columns.
func succeededRow() string {
	set := map[string]string{
		"state":            fmt.Sprint(int(job.Succeeded)),
		"done_at":          "$4::bigint",
		"version":          "version + 1",
		"session":          "NULL",
		"call":             "NULL",
		"settled_token":    "token",
		"settled_as":       fmt.Sprint(int(job.Succeed)),
		"cancel_requested": "false",
		"reason":           "NULL",
		"result":           "outcome",
	}
	text := ""
	for i, c := range coldsql.Columns {
		if i > 0 {
			text += ", "
		}
		if expr, ok := set[c]; ok {
			c = expr
		}
		text += c
	}
	return text
}

// lease names a job under one of its tokens.
type lease struct {
	id    job.ID
	token int64
}

// Succeed implements ledger.Jobs, in one round trip.
func (l *Ledger) Succeed(ctx context.Context, now time.Time, items []ledger.Success) ([]bool, error) {
	if len(items) == 0 {
		return nil, nil
	}
	ids, tokens, results := make([]job.ID, len(items)), make([]int64, len(items)), make([][]byte, len(items))
	for i := range items {
		ids[i], tokens[i], results[i] = items[i].ID, items[i].Token, items[i].Result
	}
	slice := sliceOf(now)
	done := make(map[lease]bool, len(items))
	err := l.withSlices(ctx, []int64{slice}, func() error {
		return l.inTx(ctx, "succeed", func(t *tx) error {
			clear(done)
			return t.commit(ctx, step{
				sql:  succeedSQL,
				args: []any{uuids(ids), tokens, results, coldsql.Micros(now), slice},
				scan: func(rows pgx.Rows) error {
					r := rowReader{vals: rows.RawValues()}
					id := r.uuid()
					done[lease{id, r.int8()}] = true
					return r.err
				},
			})
		})
	})
	if err != nil {
		return nil, err
	}
	answers := make([]bool, len(items))
	for i := range items {
		k := lease{items[i].ID, items[i].Token}
		answers[i] = done[k]
		delete(done, k) // the same item again finds the job gone
	}
	return answers, nil
}

// withSlices runs fn with the archive slices that it needs made. If one of them
// was dropped behind this process's back it is made again, and fn run again.
func (l *Ledger) withSlices(ctx context.Context, slices []int64, fn func() error) error {
	for try := 1; ; try++ {
		for _, n := range slices {
			if _, err := l.ensureSlice(ctx, n); err != nil {
				return err
			}
		}
		err := fn()
		if sqlState(err) != stateNoPartition || try == tries {
			return err
		}
		for _, n := range slices {
			l.slices.forget(n)
		}
	}
}
