package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// succeedText is a statement that moves running jobs into the archive, as job.Rules.Settle does for
// Succeed. held and gone are those of its parts that find and remove them, row is what becomes of their
// columns, and answer what is told of them. Rows that another transaction has locked are passed over.
func succeedText(held, gone, row, answer string) string {
	return fmt.Sprintf(`WITH held AS MATERIALIZED (%s),
	gone AS (%s),
	kept AS (
		INSERT INTO errand.archive (%s) SELECT %s FROM gone),
	counted AS (
		INSERT INTO errand.counter_delta (queue, kind, state, slice, n)
		SELECT g.queue, g.kind, c.state, c.slice, c.sign * count(*) FROM gone g
		CROSS JOIN (VALUES (%d::smallint, 0::bigint, -1), (%d::smallint, $5::bigint, 1)) AS c (state, slice, sign)
		GROUP BY g.queue, g.kind, c.state, c.slice, c.sign),
	freed AS (
		DELETE FROM errand.unique_key WHERE ctid = ANY (ARRAY (
			SELECT h.place FROM gone g CROSS JOIN LATERAL (
				SELECT k.ctid AS place FROM errand.unique_key k
				WHERE k.scope = g.kind AND k.key = g.unique_key AND k.job = g.id FOR UPDATE) AS h
			WHERE g.unique_mode = %d)))
	SELECT %s FROM gone`,
		held, gone, coldsql.ColumnList, row, job.Running, job.Succeeded, job.UntilDone, answer)
}

// The statements for jobs whose rows are running, and for those that are leased in blocks (see
// blocks.go): their rows are ready, with the token from before, and what to tell of them is known. When they were
// leased is in $6, in which the first one has nothing. The third one is for many of one claim and
// token, without results: their rows are found at once, which saves a tenth of the time.
var (
	succeedSQL = succeedText(eachHeld(fmt.Sprintf("j.token = u.token AND j.state + 0 = %d", job.Running)), eachGone,
		succeededRow(nil), "item, queue, kind, priority, attempt, max_attempts, crashes, version + 1, created_at, run_at, leased_at")
	succeedBlockSQL = succeedText(eachHeld(fmt.Sprintf("j.token = u.token - 1 AND j.state + 0 = %d", job.Ready)), eachGone,
		blockRowSucceeded("leased", "outcome"), "item")
	succeedAlikeSQL = succeedText(
		fmt.Sprintf(`SELECT ctid AS place FROM errand.job_row WHERE id = ANY ($1::uuid[]) AND token = $2::bigint - 1 AND state + 0 = %d FOR UPDATE SKIP LOCKED`, job.Ready),
		"DELETE FROM errand.job_row WHERE ctid = ANY (ARRAY (SELECT place FROM held)) RETURNING *",
		blockRowSucceeded("$3::bigint", "NULL"), "id")
)

// eachHeld looks rows up one by one through the primary key, by subqueries that the
// planner cannot turn round: a plain join it would, while a table is small, drive
// from a whole index of the table, and keep that plan when the table has grown.
// "state + 0" keeps it from the partial indexes, which have no id.
func eachHeld(cond string) string {
	return `SELECT h.place, u.i AS item, u.result AS outcome, u.leased
		FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $6::bigint[]) WITH ORDINALITY AS u (id, token, result, leased, i)
		CROSS JOIN LATERAL (SELECT j.ctid AS place FROM errand.job_row j WHERE j.id = u.id AND ` + cond + ` FOR UPDATE SKIP LOCKED) AS h`
}

const eachGone = "DELETE FROM errand.job_row j USING held h WHERE j.ctid = h.place RETURNING j.*, h.item, h.outcome, h.leased"

// blockRowSucceeded is what becomes of the columns of a job that was leased in a block.
func blockRowSucceeded(leased, outcome string) string {
	return succeededRow(map[string]string{
		"attempt": "attempt + 1", "token": "token + 1", "version": "version + 2", "settled_token": "token + 1",
		"leased_at": leased, "result": outcome,
	})
}

// succeededRow is what becomes of a row's columns, some of them as in other.
func succeededRow(other map[string]string) string {
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
	maps.Copy(set, other)
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

// Succeed implements ledger.Jobs, in one round trip; in two where it did not find all of them, for another
// process may have leased them in blocks, and in three if one has. Of two items of one lease the row that is deleted once answers one.
func (l *Ledger) Succeed(ctx context.Context, now time.Time, items []ledger.Success) ([]ledger.Succeeded, error) {
	if len(items) == 0 {
		return nil, nil
	}
	were := l.leases.known(items)
	answers, err := l.succeed(ctx, now, items, were)
	if err != nil {
		return nil, err
	}
	var left []int
	var others []ledger.Success
	for i := range items {
		switch {
		case were[i].OK:
			l.leases.end(items[i].ID, items[i].Token, answers[i].OK)
		case !answers[i].OK:
			left, others = append(left, i), append(others, items[i])
		}
	}
	if len(left) == 0 {
		return answers, nil
	}
	// What was done stands, so from here on an error is no answer to it: who settles the
	// others finds out by Apply.
	were, err = l.adopt(ctx, others)
	if err != nil || !slices.ContainsFunc(were, func(s ledger.Succeeded) bool { return s.OK }) {
		return answers, nil
	}
	if late, err := l.succeed(ctx, now, others, were); err == nil {
		for k, i := range left {
			answers[i] = late[k]
		}
	}
	return answers, nil
}

// alikeKey is what settles of one claim have in common, manyAlike from how many on they are settled together.
type alikeKey struct{ token, leased int64 }

const manyAlike = 50

// succeed settles the items; were is what to answer to those that are leased in blocks.
func (l *Ledger) succeed(ctx context.Context, now time.Time, items []ledger.Success, were []ledger.Succeeded) ([]ledger.Succeeded, error) {
	var inRows, inBlocks []int
	alike := map[alikeKey][]int{}
	for i := range items {
		switch {
		case !were[i].OK:
			inRows = append(inRows, i)
		case items[i].Result == nil:
			k := alikeKey{items[i].Token, coldsql.Micros(were[i].LeasedAt)}
			alike[k] = append(alike[k], i)
		default:
			inBlocks = append(inBlocks, i)
		}
	}
	slice := sliceOf(now)
	answers := make([]ledger.Succeeded, len(items))
	names := sameNames{}
	steps := make([]step, 0, 2)
	for k, places := range alike {
		if len(places) < manyAlike {
			inBlocks = append(inBlocks, places...)
			continue
		}
		ids, at := make([]pgtype.UUID, len(places)), make(map[job.ID]int, len(places))
		for n, i := range places {
			ids[n], at[items[i].ID] = uuidArg(items[i].ID), i
		}
		steps = append(steps, step{
			sql:  succeedAlikeSQL,
			args: []any{ids, k.token, k.leased, coldsql.Micros(now), slice},
			scan: func(rows pgx.Rows) error {
				r := rowReader{vals: rows.RawValues()}
				if i, ok := at[r.uuid()]; ok {
					answers[i] = were[i]
				}
				return r.err
			},
		})
	}
	leased := make([]int64, len(inBlocks))
	for k, i := range inBlocks {
		leased[k] = coldsql.Micros(were[i].LeasedAt)
	}
	add := func(sql string, places []int, leased []int64, read func(place int, r *rowReader)) {
		if len(places) == 0 {
			return
		}
		ids, tokens, results := make([]pgtype.UUID, len(places)), make([]int64, len(places)), make([][]byte, len(places))
		for k, i := range places {
			ids[k], tokens[k], results[k] = uuidArg(items[i].ID), items[i].Token, items[i].Result
		}
		steps = append(steps, step{
			sql:  sql,
			args: []any{ids, tokens, results, coldsql.Micros(now), slice, leased},
			scan: func(rows pgx.Rows) error {
				r := rowReader{vals: rows.RawValues()}
				read(places[r.int8()-1], &r)
				return r.err
			},
		})
	}
	add(succeedSQL, inRows, nil, func(i int, r *rowReader) { answers[i] = r.succeeded(names) })
	add(succeedBlockSQL, inBlocks, leased, func(i int, _ *rowReader) { answers[i] = were[i] })
	err := l.withSlices(ctx, []int64{slice}, func() error {
		return l.inTx(ctx, "succeed", func(t *tx) error {
			clear(answers)
			return t.commit(ctx, steps...)
		})
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

// succeeded reads what a success answers.
func (r *rowReader) succeeded(names sameNames) ledger.Succeeded {
	return ledger.Succeeded{
		OK: true, Queue: names.of(r.next(0)), Kind: names.of(r.next(0)), Priority: int(r.int2()),
		Attempt: r.int4(), MaxAttempts: r.int4(), Crashes: r.int4(), Version: r.int8(),
		CreatedAt: r.time(), RunAt: r.time(), LeasedAt: r.time(),
	}
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
