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
// A job that was leased in a block, at the time in $6, still has a row that is ready, with the token
// from before: see blocks.go. The others have 0 there.
//
// Rows are looked up one by one through the primary key, by subqueries that the
// planner cannot turn round: a plain join it would, while a table is small, drive
// from a whole index of the table, and keep that plan when the table has grown.
// "state + 0" keeps it from the partial indexes, which have no id.
var succeedSQL = fmt.Sprintf(`WITH held AS MATERIALIZED (
		SELECT h.place, u.result AS outcome, u.i AS item, (u.leased > 0)::integer AS more, nullif(u.leased, 0) AS leased
		FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $6::bigint[]) WITH ORDINALITY AS u (id, token, result, leased, i)
		CROSS JOIN LATERAL (
			SELECT j.ctid AS place FROM errand.job_row j
			WHERE j.id = u.id AND j.token = u.token - (u.leased > 0)::integer
				AND j.state + 0 = CASE WHEN u.leased > 0 THEN %[6]d ELSE %[1]d END FOR UPDATE SKIP LOCKED) AS h),
	gone AS (
		DELETE FROM errand.job_row j USING held h WHERE j.ctid = h.place
		RETURNING j.*, h.outcome, h.item, h.more, h.leased),
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
	SELECT item, queue, kind, priority, attempt + more, max_attempts, crashes, version + 1 + more, created_at, run_at, coalesce(leased, leased_at)
	FROM gone`,
	job.Running, coldsql.ColumnList, succeededRow(), job.Succeeded, job.UntilDone, job.Ready)

// succeededRow is what becomes of a row's columns.
func succeededRow() string {
	set := map[string]string{
		"state":            fmt.Sprint(int(job.Succeeded)),
		"done_at":          "$4::bigint",
		"version":          "version + 1 + more",
		"attempt":          "attempt + more",
		"token":            "token + more",
		"leased_at":        "coalesce(leased, leased_at)",
		"session":          "NULL",
		"call":             "NULL",
		"settled_token":    "token + more",
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

// Succeed implements ledger.Jobs, in one round trip, or in three for jobs that another process
// has leased in blocks. Of two items of one lease the row that is deleted once answers one.
func (l *Ledger) Succeed(ctx context.Context, now time.Time, items []ledger.Success) ([]ledger.Succeeded, error) {
	if len(items) == 0 {
		return nil, nil
	}
	at := l.leases.leasedAt(items)
	answers, err := l.succeed(ctx, now, items, at)
	if err != nil {
		return nil, err
	}
	var left []int
	var others []ledger.Success
	for i := range items {
		switch {
		case at[i] != 0:
			l.leases.end(items[i].ID, answers[i].OK)
		case !answers[i].OK:
			left, others = append(left, i), append(others, items[i])
		}
	}
	if len(left) == 0 {
		return answers, nil
	}
	// What was done stands, so from here on an error is no answer to it: who settles the
	// others finds out by Apply.
	at = make([]int64, len(others))
	if found, err := l.adopt(ctx, others, at); err != nil || !found {
		return answers, nil
	}
	late, err := l.succeed(ctx, now, others, at)
	if err != nil {
		return answers, nil
	}
	for k, i := range left {
		answers[i] = late[k]
	}
	return answers, nil
}

// succeed settles the items, of which at says when they were leased in a block, 0 for those that were not.
func (l *Ledger) succeed(ctx context.Context, now time.Time, items []ledger.Success, at []int64) ([]ledger.Succeeded, error) {
	ids, tokens := successKeys(items)
	results := make([][]byte, len(items))
	for i := range items {
		results[i] = items[i].Result
	}
	slice := sliceOf(now)
	answers := make([]ledger.Succeeded, len(items))
	names := sameNames{}
	err := l.withSlices(ctx, []int64{slice}, func() error {
		return l.inTx(ctx, "succeed", func(t *tx) error {
			clear(answers)
			return t.commit(ctx, step{
				sql:  succeedSQL,
				args: []any{ids, tokens, results, coldsql.Micros(now), slice, at},
				scan: func(rows pgx.Rows) error {
					r := rowReader{vals: rows.RawValues()}
					item := r.int8()
					answers[item-1] = ledger.Succeeded{
						OK: true, Queue: names.of(r.next(0)), Kind: names.of(r.next(0)), Priority: int(r.int2()),
						Attempt: r.int4(), MaxAttempts: r.int4(), Crashes: r.int4(), Version: r.int8(),
						CreatedAt: r.time(), RunAt: r.time(), LeasedAt: r.time(),
					}
					return r.err
				},
			})
		})
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

// sameNames keeps one string of each name that comes again and again.
type sameNames map[string]string

func (n sameNames) of(b []byte) string {
	if s, ok := n[string(b)]; ok { // does not copy b
		return s
	}
	s := string(b)
	n[s] = s
	return s
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
