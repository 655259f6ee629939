package postgres

import (
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/coldsql"
)

// updateSQL writes the columns that a transition among the live states changes.
// The rows are locked. For the form of the look-up see succeedSQL.
const updateSQL = `UPDATE errand.job_row j SET state = u.state, lane = u.lane, seq = u.seq, run_at = u.run_at,
		expires_at = u.expires_at, leased_at = u.leased_at, done_at = u.done_at,
		attempt = u.attempt, crashes = u.crashes, redrives = u.redrives, token = u.token, version = u.version,
		session = u.session, call = u.call, settled_token = u.settled_token, settled_as = u.settled_as,
		cancel_requested = u.cancel_requested, reason = u.reason, progress = u.progress,
		errors = u.errors, last_error = u.last_error
	FROM (SELECT h.place, v.* FROM unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::bigint[], $5::bigint[],
		$6::bigint[], $7::bigint[], $8::bigint[], $9::integer[], $10::integer[], $11::integer[], $12::bigint[], $13::bigint[],
		$14::uuid[], $15::bigint[], $16::bigint[], $17::smallint[], $18::boolean[], $19::text[], $20::bytea[],
		$21::text[], $22::text[])
		AS v (id, state, lane, seq, run_at, expires_at, leased_at, done_at, attempt, crashes, redrives, token, version,
			session, call, settled_token, settled_as, cancel_requested, reason, progress, errors, last_error)
		CROSS JOIN LATERAL (SELECT ctid AS place FROM errand.job_row WHERE id = v.id OFFSET 0) AS h) AS u
	WHERE j.ctid = u.place`

// updateSteps updates live jobs in place.
func updateSteps(jobs []*job.Job) []step {
	if len(jobs) == 0 {
		return nil
	}
	args := []any{
		column(jobs, func(j *job.Job) pgtype.UUID { return uuidArg(j.ID) }),
		column(jobs, func(j *job.Job) int16 { return int16(j.State) }),
		column(jobs, func(j *job.Job) int16 { return int16(j.Lane) }),
		column(jobs, func(j *job.Job) int64 { return j.Seq }),
		column(jobs, func(j *job.Job) int64 { return coldsql.Micros(j.RunAt) }),
		column(jobs, func(j *job.Job) pgtype.Int8 { return optInt8Arg(coldsql.Micros(j.ExpiresAt)) }),
		column(jobs, func(j *job.Job) pgtype.Int8 { return optInt8Arg(coldsql.Micros(j.LeasedAt)) }),
		column(jobs, func(j *job.Job) pgtype.Int8 { return optInt8Arg(coldsql.Micros(j.DoneAt)) }),
		column(jobs, func(j *job.Job) int32 { return int32(j.Attempt) }),
		column(jobs, func(j *job.Job) int32 { return int32(j.Crashes) }),
		column(jobs, func(j *job.Job) int32 { return int32(j.Redrives) }),
		column(jobs, func(j *job.Job) int64 { return j.Token }),
		column(jobs, func(j *job.Job) int64 { return j.Version }),
		column(jobs, func(j *job.Job) pgtype.UUID { return optUUIDArg(j.Session) }),
		column(jobs, func(j *job.Job) pgtype.Int8 { return optInt8Arg(j.Call) }),
		column(jobs, func(j *job.Job) pgtype.Int8 { return optInt8Arg(j.SettledToken) }),
		column(jobs, func(j *job.Job) pgtype.Int2 { return optInt2Arg(int64(j.SettledAs)) }),
		column(jobs, func(j *job.Job) bool { return j.CancelRequested }),
		column(jobs, func(j *job.Job) pgtype.Text { return optTextArg(j.Reason) }),
		column(jobs, func(j *job.Job) []byte { return j.Progress }),
		column(jobs, func(j *job.Job) pgtype.Text { return optTextArg(failuresText(j)) }),
		column(jobs, func(j *job.Job) pgtype.Text { return optTextArg(lastError(j)) }),
	}
	return []step{{sql: updateSQL, args: args}}
}

// failuresText is the JSON of the failures. Failures are strings, numbers and times: they have one.
func failuresText(j *job.Job) string {
	s, _ := coldsql.JSON(j.Errors).(string)
	return s
}

// column gathers one field of jobs, or of whatever else.
func column[E, T any](of []*E, field func(*E) T) []T {
	out := make([]T, len(of))
	for i, e := range of {
		out[i] = field(e)
	}
	return out
}
