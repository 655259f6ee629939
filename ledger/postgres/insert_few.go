package postgres

import (
	"context"
	"reflect"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/coldsql"
)

// fewItems is up to how many jobs go as arguments of a statement, in one round
// trip: for more of them COPY costs less, though it takes three.
const fewItems = 64

// insertFewSQL stores jobs that nothing has happened to yet, and draws one block
// of order numbers if one of them is ready.
const insertFewSQL = `WITH block AS MATERIALIZED (SELECT nextval('errand.seq') AS first)
	INSERT INTO errand.job (id, queue, kind, state, priority, lane, seq, run_at, created_at, expires_at,
		max_attempts, timeout_us, digest, content_type, tags, trace, payload)
	SELECT id, queue, kind, state, priority, lane, CASE WHEN state = 2 THEN (SELECT first FROM block) + i - 1 ELSE 0 END,
		run_at, created_at, expires_at, max_attempts, timeout_us, digest, content_type, tags, trace, payload
	FROM unnest($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::smallint[], $6::smallint[], $7::bigint[], $8::bigint[],
		$9::bigint[], $10::integer[], $11::bigint[], $12::bigint[], $13::text[], $14::text[], $15::text[], $16::bytea[])
		WITH ORDINALITY AS u (id, queue, kind, state, priority, lane, run_at, created_at,
			expires_at, max_attempts, timeout_us, digest, content_type, tags, trace, payload, i)`

// few reports whether insertFewSQL stores all that the jobs have.
func few(jobs []job.Job) bool {
	if len(jobs) > fewItems {
		return false
	}
	for _, j := range jobs {
		stored := job.Job{
			ID: j.ID, Queue: j.Queue, Kind: j.Kind, State: j.State, Priority: j.Priority, Lane: j.Lane, RunAt: j.RunAt,
			CreatedAt: j.CreatedAt, ExpiresAt: j.ExpiresAt, MaxAttempts: j.MaxAttempts, Timeout: j.Timeout, Digest: j.Digest,
			ContentType: j.ContentType, Tags: j.Tags, Trace: j.Trace, Payload: j.Payload, Version: 1,
		}
		if !reflect.DeepEqual(j, stored) {
			return false
		}
	}
	return true
}

// insertFew stores the jobs in one round trip. The lock tells everybody's marks
// that a transaction has drawn and not ended: see drawSeqs.
func (t *tx) insertFew(ctx context.Context, jobs []job.Job) error {
	d := deltas{}
	all := make([]*job.Job, len(jobs))
	tags := make([]pgtype.Text, len(jobs))
	for i := range jobs {
		all[i] = &jobs[i]
		text, err := jsonText(len(jobs[i].Tags), jobs[i].Tags)
		if err != nil {
			return err
		}
		tags[i] = optTextArg(text)
		d.add(all[i], 1)
	}
	steps := []step{lockWritingStep, {sql: insertFewSQL, args: []any{
		column(all, func(j *job.Job) pgtype.UUID { return uuidArg(j.ID) }),
		column(all, func(j *job.Job) string { return j.Queue }),
		column(all, func(j *job.Job) string { return j.Kind }),
		column(all, func(j *job.Job) int16 { return int16(j.State) }),
		column(all, func(j *job.Job) int16 { return int16(j.Priority) }),
		column(all, func(j *job.Job) int16 { return int16(j.Lane) }),
		column(all, func(j *job.Job) int64 { return coldsql.Micros(j.RunAt) }),
		column(all, func(j *job.Job) int64 { return coldsql.Micros(j.CreatedAt) }),
		column(all, func(j *job.Job) pgtype.Int8 { return optInt8Arg(coldsql.Micros(j.ExpiresAt)) }),
		column(all, func(j *job.Job) int32 { return int32(j.MaxAttempts) }),
		column(all, func(j *job.Job) pgtype.Int8 { return optInt8Arg(j.Timeout.Microseconds()) }),
		column(all, func(j *job.Job) int64 { return j.Digest }),
		column(all, func(j *job.Job) pgtype.Text { return optTextArg(contentType(j)) }),
		tags,
		column(all, func(j *job.Job) pgtype.Text { return optTextArg(j.Trace) }),
		column(all, func(j *job.Job) []byte { return j.Payload }),
	}}}
	return t.commit(ctx, append(append(steps, d.steps()...), knownElsewhere(jobs))...)
}
