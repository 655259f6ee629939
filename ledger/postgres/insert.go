package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// seqBlock is how many order numbers one value of errand.seq stands for.
const seqBlock = 1024

// insertTries bounds how often an insert starts again because another
// transaction stored one of its ids at the same moment.
const insertTries = 5

// Insert implements ledger.Jobs. A call whose items have fresh ids and no keys is
// stored as it is and answered by the absence of an error; any other call
// looks first (insert_careful.go).
func (l *Ledger) Insert(ctx context.Context, now time.Time, items []ledger.Item) ([]ledger.Inserted, error) {
	if len(items) == 0 {
		return nil, nil
	}
	if plain(items) {
		answers, err := l.insertPlain(ctx, items)
		if code := sqlState(err); code != stateUniqueViolation && code != stateDivisionByZero {
			return answers, err
		}
	}
	for try := 1; ; try++ {
		answers, err := l.insertCareful(ctx, now, items)
		again := errors.Is(err, errKeyMoved) || sqlState(err) == stateUniqueViolation || sqlState(err) == stateDivisionByZero
		if !again || try == insertTries {
			return answers, err
		}
	}
}

// plain reports whether no item needs a look before it is stored.
func plain(items []ledger.Item) bool {
	for i := range items {
		if !items[i].Fresh || items[i].IdempotencyKey != "" || items[i].Job.UniqueKey != "" {
			return false
		}
	}
	return true
}

// insertPlain stores the items in three round trips, or few of them in one. Nothing in
// it waits for another transaction, unless that one inserts the very same id.
func (l *Ledger) insertPlain(ctx context.Context, items []ledger.Item) ([]ledger.Inserted, error) {
	jobs, untouched := make([]*job.Job, len(items)), true
	for i := range items {
		jobs[i] = &items[i].Job
		untouched = untouched && isUntouched(jobs[i])
	}
	err := l.inTx(ctx, "insert", func(t *tx) error {
		if untouched && len(jobs) <= fewItems {
			return t.insertFew(ctx, jobs)
		}
		return t.store(ctx, jobs, untouched, nearElsewhere(jobs))
	})
	if err != nil {
		return nil, err
	}
	answers := make([]ledger.Inserted, len(items))
	for i, j := range jobs {
		answers[i] = ledger.Inserted{Outcome: ledger.InsertedNew, Holder: j.ID, State: j.State}
	}
	return answers, nil
}

// store inserts the jobs in their order, and commits if check, behind them, finds
// that they are new.
func (t *tx) store(ctx context.Context, jobs []*job.Job, untouched bool, check step) error {
	seqs, err := t.drawSeqs(ctx, jobs)
	if err != nil {
		return err
	}
	d := deltas{}
	if err := t.copyJobs(ctx, liveTable, jobs, seqs, untouched, d); err != nil {
		return err
	}
	return t.commit(ctx, append(d.steps(), check)...)
}

// copyJobs inserts the jobs into a table and counts them.
func (t *tx) copyJobs(ctx context.Context, table string, jobs []*job.Job, seqs []int64, untouched bool, d deltas) error {
	rows := newCopyRows(jobs, untouched)
	for i, j := range jobs {
		if err := rows.add(j, seqs[i]); err != nil {
			return err
		}
		d.add(j, 1)
	}
	return rows.send(ctx, t, table)
}

// knownElsewhere fails, by a division by zero, if one of the jobs just stored
// is also a dead letter: so the commit behind it needs no answer first. It comes
// after the insert, which has waited for whoever was moving the id.
func knownElsewhere(jobs []*job.Job) step {
	return step{
		sql:  "SELECT 1 / CASE WHEN EXISTS (SELECT FROM errand.dead WHERE id = ANY ($1::uuid[])) THEN 0 ELSE 1 END",
		args: []any{column(jobs, func(j *job.Job) pgtype.UUID { return uuidArg(j.ID) })},
	}
}

// nearInTime is how far apart many ids may have been made to be looked for at once,
// in milliseconds.
const nearInTime = 1000

// nearElsewhere is knownElsewhere by one look for all ids, if they are many and were
// made at about the same time: it fails as well if there is a dead letter between
// them that is none of them.
func nearElsewhere(jobs []*job.Job) step {
	order := func(a, b *job.Job) int { return bytes.Compare(a.ID[:], b.ID[:]) }
	first, last := slices.MinFunc(jobs, order).ID, slices.MaxFunc(jobs, order).ID
	made := func(id job.ID) uint64 { return binary.BigEndian.Uint64(id[:]) >> 16 }
	if len(jobs) <= fewItems || made(last)-made(first) > nearInTime {
		return knownElsewhere(jobs)
	}
	return step{sql: nearSQL, args: []any{uuidArg(first), uuidArg(last)}}
}

const nearSQL = "SELECT 1 / CASE WHEN EXISTS (SELECT FROM errand.dead WHERE id BETWEEN $1 AND $2) THEN 0 ELSE 1 END"

// lockWritingStep takes the lock that a transaction holds that draws numbers.
var lockWritingStep = step{sql: "SELECT pg_advisory_xact_lock_shared($1, $2)", args: []any{lockClass, lockWriting}}

// drawSeqs returns the jobs' places in the order: one drawn for each ready job that
// has none. The lock tells everybody's marks that a transaction has drawn and not ended; it is
// taken in a statement before the draw (marks.go).
func (t *tx) drawSeqs(ctx context.Context, jobs []*job.Job) ([]int64, error) {
	need := 0
	for _, j := range jobs {
		if wantsSeq(j) {
			need++
		}
	}
	var blocks []int64
	var steps []step
	if need > 0 {
		steps = []step{lockWritingStep, {
			sql:  "SELECT nextval('errand.seq') FROM generate_series(1, $1::integer)",
			args: []any{(need + seqBlock - 1) / seqBlock},
			scan: func(r pgx.Rows) error {
				var n int64
				err := r.Scan(&n)
				blocks = append(blocks, n)
				return err
			},
		}}
	}
	if err := t.run(ctx, steps...); err != nil {
		return nil, err
	}
	seqs, drawn := make([]int64, len(jobs)), 0
	for i, j := range jobs {
		if seqs[i] = j.Seq; wantsSeq(j) {
			seqs[i] = blocks[drawn/seqBlock] + int64(drawn%seqBlock)
			drawn++
		}
	}
	return seqs, nil
}

func wantsSeq(j *job.Job) bool { return j.State == job.Ready && j.Seq == 0 }
