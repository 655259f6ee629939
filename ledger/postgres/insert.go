package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

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
	jobs := make([]job.Job, len(items))
	for i := range items {
		jobs[i] = items[i].Job
	}
	few := few(jobs)
	err := l.inTx(ctx, "insert", func(t *tx) error {
		if few {
			return t.insertFew(ctx, jobs)
		}
		if err := t.drawSeqs(ctx, jobs); err != nil {
			return err
		}
		d := deltas{}
		if err := t.copyJobs(ctx, "job", jobs, d); err != nil {
			return err
		}
		return t.commit(ctx, append(d.steps(), knownElsewhere(jobs))...)
	})
	if err != nil {
		return nil, err
	}
	answers := make([]ledger.Inserted, len(items))
	for i := range jobs {
		answers[i] = ledger.Inserted{Outcome: ledger.InsertedNew, Holder: jobs[i].ID, State: jobs[i].State}
	}
	return answers, nil
}

// knownElsewhere fails, by a division by zero, if one of the jobs just stored
// is also a dead letter: so the commit behind it needs no answer first. It comes
// after the insert, which has waited for whoever was moving the id.
func knownElsewhere(jobs []job.Job) step {
	ids := make([]job.ID, len(jobs))
	for i := range jobs {
		ids[i] = jobs[i].ID
	}
	return step{
		sql:  "SELECT 1 / CASE WHEN EXISTS (SELECT FROM errand.dead WHERE id = ANY ($1::uuid[])) THEN 0 ELSE 1 END",
		args: []any{uuids(ids)},
	}
}

// lockWritingStep takes the lock that a transaction holds that draws numbers.
var lockWritingStep = step{sql: "SELECT pg_advisory_xact_lock_shared($1, $2)", args: []any{lockClass, lockWriting}}

// drawSeqs gives each ready job that has none its place in the order. The lock
// tells everybody's marks that a transaction has drawn and not ended; it is
// taken in a statement before the draw (marks.go).
func (t *tx) drawSeqs(ctx context.Context, jobs []job.Job) error {
	need := 0
	for i := range jobs {
		if wantsSeq(&jobs[i]) {
			need++
		}
	}
	if need == 0 {
		return t.run(ctx)
	}
	var blocks []int64
	err := t.run(ctx,
		lockWritingStep,
		step{
			sql:  "SELECT nextval('errand.seq') FROM generate_series(1, $1::integer)",
			args: []any{(need + seqBlock - 1) / seqBlock},
			scan: func(r pgx.Rows) error {
				var n int64
				err := r.Scan(&n)
				blocks = append(blocks, n)
				return err
			},
		})
	if err != nil {
		return err
	}
	drawn := 0
	for i := range jobs {
		if wantsSeq(&jobs[i]) {
			jobs[i].Seq = blocks[drawn/seqBlock] + int64(drawn%seqBlock)
			drawn++
		}
	}
	return nil
}

func wantsSeq(j *job.Job) bool { return j.State == job.Ready && j.Seq == 0 }

// copyJobs inserts the jobs into a table and counts them.
func (t *tx) copyJobs(ctx context.Context, table string, jobs []job.Job, d deltas) error {
	rows := newCopyRows(len(jobs))
	for i := range jobs {
		if err := rows.add(&jobs[i]); err != nil {
			return err
		}
		d.add(&jobs[i], 1)
	}
	return rows.send(ctx, t, table)
}
