package postgres

import (
	"context"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/coldsql"
)

// fewItems is up to how many jobs go as arguments of a statement, in one round
// trip: for more of them COPY costs less, though it takes three.
const fewItems = 64

// untouchedColumns are those of a job that nothing has happened to yet; the others have
// their defaults.
const (
	untouchedColumns = `id, queue, kind, state, priority, lane, seq, run_at, created_at, expires_at,
		max_attempts, timeout_us, digest, content_type, tags, trace, payload`
	untouchedCount = 17
)

// isUntouched reports whether untouchedColumns hold all of j.
func isUntouched(j *job.Job) bool {
	return j.LeasedAt.IsZero() && j.DoneAt.IsZero() && j.Attempt == 0 && j.Crashes == 0 && j.Redrives == 0 &&
		j.UniqueKey == "" && j.UniqueMode == job.NotUnique && j.UniqueFor == 0 && j.Session.IsZero() && j.Call == 0 &&
		j.Token == 0 && j.Version == 1 && j.SettledToken == 0 && j.SettledAs == 0 && !j.CancelRequested && j.Reason == "" &&
		j.Seq == 0 && j.Result == nil && j.Progress == nil && len(j.Errors) == 0
}

// insertFewSQL stores jobs that nothing has happened to yet, draws one block
// of order numbers if one of them is ready, and counts them ($17 to $21).
const insertFewSQL = `WITH block AS MATERIALIZED (SELECT nextval('errand.seq') AS first),
	counted AS (INSERT INTO errand.counter_delta (queue, kind, state, slice, n)
		SELECT * FROM unnest($17::text[], $18::text[], $19::smallint[], $20::bigint[], $21::bigint[]))
	INSERT INTO errand.job_row (` + untouchedColumns + `)
	SELECT id, queue, kind, state, priority, lane, CASE WHEN state = 2 THEN (SELECT first FROM block) + i - 1 ELSE 0 END,
		run_at, created_at, expires_at, max_attempts, timeout_us, digest, content_type, tags, trace, payload
	FROM unnest($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::smallint[], $6::smallint[], $7::bigint[], $8::bigint[],
		$9::bigint[], $10::integer[], $11::bigint[], $12::bigint[], $13::text[], $14::text[], $15::text[], $16::bytea[])
		WITH ORDINALITY AS u (id, queue, kind, state, priority, lane, run_at, created_at,
			expires_at, max_attempts, timeout_us, digest, content_type, tags, trace, payload, i)`

// insertFew stores the jobs in one round trip. The lock tells everybody's marks
// that a transaction has drawn and not ended: see drawSeqs.
func (t *tx) insertFew(ctx context.Context, jobs []*job.Job) error {
	d := deltas{}
	var traces coldsql.Traces
	tags := make([]pgtype.Text, len(jobs))
	for i, j := range jobs {
		text, err := jsonText(len(j.Tags), j.Tags)
		if err != nil {
			return err
		}
		tags[i] = optTextArg(text)
		d.add(j, 1)
	}
	t.lock = lockWriting
	return t.commit(ctx, step{sql: insertFewSQL, args: append([]any{
		column(jobs, func(j *job.Job) pgtype.UUID { return uuidArg(j.ID) }),
		column(jobs, func(j *job.Job) string { return j.Queue }),
		column(jobs, func(j *job.Job) string { return j.Kind }),
		column(jobs, func(j *job.Job) int16 { return int16(j.State) }),
		column(jobs, func(j *job.Job) int16 { return int16(j.Priority) }),
		column(jobs, func(j *job.Job) int16 { return int16(j.Lane) }),
		column(jobs, func(j *job.Job) int64 { return coldsql.Micros(j.RunAt) }),
		column(jobs, func(j *job.Job) int64 { return coldsql.Micros(j.CreatedAt) }),
		column(jobs, func(j *job.Job) pgtype.Int8 { return optInt8Arg(coldsql.Micros(j.ExpiresAt)) }),
		column(jobs, func(j *job.Job) int32 { return int32(j.MaxAttempts) }),
		column(jobs, func(j *job.Job) pgtype.Int8 { return optInt8Arg(j.Timeout.Microseconds()) }),
		column(jobs, func(j *job.Job) int64 { return j.Digest }),
		column(jobs, func(j *job.Job) pgtype.Text { return optTextArg(contentType(j)) }),
		tags,
		column(jobs, func(j *job.Job) pgtype.Text { return optTextArg(traces.Pack(j.Trace)) }),
		column(jobs, func(j *job.Job) []byte { return j.Payload }),
	}, d.columns()...)}, knownElsewhere(jobs))
}
