package postgres

import (
	"context"
	"slices"

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
// of order numbers if one of them is ready, and counts them ($17 to $21). It reads the arrays by
// position: unnest of all of them would first put each one into a store of its own, which
// took a tenth of the server's time.
const insertFewSQL = `WITH block AS MATERIALIZED (SELECT nextval('errand.seq') AS first),
	counted AS (INSERT INTO errand.counter_delta (queue, kind, state, slice, n)
		SELECT ($17::text[])[i], ($18::text[])[i], ($19::smallint[])[i], ($20::bigint[])[i], n
		FROM unnest($21::bigint[]) WITH ORDINALITY AS u (n, i))
	INSERT INTO errand.job_row (` + untouchedColumns + `)
	SELECT id, ($2::text[])[i], ($3::text[])[i], ($4::smallint[])[i], ($5::smallint[])[i], ($6::smallint[])[i],
		CASE WHEN ($4::smallint[])[i] = 2 THEN (SELECT first FROM block) + i - 1 ELSE 0 END,
		($7::bigint[])[i], ($8::bigint[])[i], ($9::bigint[])[i], ($10::integer[])[i], ($11::bigint[])[i], ($12::bigint[])[i],
		($13::text[])[i], ($14::text[])[i], ($15::text[])[i], ($16::bytea[])[i]
	FROM (SELECT id, n::integer AS i FROM unnest($1::uuid[]) WITH ORDINALITY AS u (id, n) OFFSET 0) AS j`

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
	return t.whole(ctx, step{sql: insertFewSQL, args: append([]any{
		column(jobs, func(j *job.Job) pgtype.UUID { return uuidArg(j.ID) }),
		column(jobs, func(j *job.Job) string { return j.Queue }),
		column(jobs, func(j *job.Job) string { return j.Kind }),
		column(jobs, func(j *job.Job) int16 { return int16(j.State) }),
		column(jobs, func(j *job.Job) int16 { return int16(j.Priority) }),
		column(jobs, func(j *job.Job) int16 { return int16(j.Lane) }),
		column(jobs, func(j *job.Job) int64 { return coldsql.Micros(j.RunAt) }),
		column(jobs, func(j *job.Job) int64 { return coldsql.Micros(j.CreatedAt) }),
		nullIfNone(column(jobs, func(j *job.Job) pgtype.Int8 { return optInt8Arg(coldsql.Micros(j.ExpiresAt)) })),
		column(jobs, func(j *job.Job) int32 { return int32(j.MaxAttempts) }),
		nullIfNone(column(jobs, func(j *job.Job) pgtype.Int8 { return optInt8Arg(j.Timeout.Microseconds()) })),
		column(jobs, func(j *job.Job) int64 { return j.Digest }),
		nullIfNone(column(jobs, func(j *job.Job) pgtype.Text { return optTextArg(contentType(j)) })),
		nullIfNone(tags),
		nullIfNone(column(jobs, func(j *job.Job) pgtype.Text { return optTextArg(traces.Pack(j.Trace)) })),
		column(jobs, func(j *job.Job) []byte { return j.Payload }),
	}, d.columns()...)}, knownElsewhere(jobs))
}

// nullIfNone is a column of a field that few jobs have: NULL for an array of which every element is.
func nullIfNone[T comparable](vals []T) any {
	var null T
	if slices.ContainsFunc(vals, func(v T) bool { return v != null }) {
		return vals
	}
	return nil
}
