package sqlite

import (
	"slices"
	"strings"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/coldsql"
)

// A row of 37 columns is dear: each that is not set costs its place in every statement, bound,
// copied and looked at. Most jobs have never been leased and have none of the options, so
// that of theirs two thirds are known. Such a job is plain, and its row says so: its call is 0, which no
// lease has, and which readers take for NULL. Whatever changes a row of job_row writes its
// call too, so that the mark is never on a row that is not plain; all but Fence, which
// raises the token, so that is looked at. A plain row without the mark, as those from before
// there were marks, is only slower.

// isPlain reports whether j, waiting, is all told by what insertPlain stores.
func isPlain(j *job.Job) bool {
	return (j.State == job.Ready || j.State == job.Scheduled) && j.Version > 0 &&
		j.Attempt == 0 && j.Token == 0 && j.Crashes == 0 && j.Redrives == 0 &&
		j.ExpiresAt.IsZero() && j.LeasedAt.IsZero() && j.DoneAt.IsZero() && j.Timeout == 0 &&
		j.UniqueKey == "" && j.UniqueMode == job.NotUnique && j.UniqueFor == 0 && j.Session.IsZero() && j.Call == 0 &&
		j.SettledToken == 0 && j.SettledAs == 0 && !j.CancelRequested && j.Reason == "" &&
		(j.ContentType == "" || j.ContentType == job.DefaultContentType) && len(j.Tags) == 0 && j.Trace == "" &&
		j.Result == nil && j.Progress == nil && len(j.Errors) == 0
}

// plainVersion is the version of a plain row, 0 of others.
const plainVersion = "CASE WHEN call = 0 AND token = 0 THEN version ELSE 0 END"

// callColumn is where Values has the call.
var callColumn = slices.Index(coldsql.Columns, "call")

// rowValues appends the values of j for a table in the order of coldsql.Columns.
func rowValues(dst []any, table string, j *job.Job) []any {
	n := len(dst)
	dst = coldsql.Values(dst, j, blobID)
	if table == liveTable && isPlain(j) {
		dst[n+callColumn] = int64(0)
	}
	return dst
}

// insertPlain stores plain jobs. The columns that it does not name are NULL, or have their defaults.
const (
	insertPlain = `INSERT INTO job_row (id, queue, kind, state, priority, lane, seq, run_at, created_at, max_attempts, version,
		call, digest, payload) VALUES %s`
	plainParams = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)"
)

// plainValues appends the arguments of plainParams.
func plainValues(dst []any, j *job.Job) []any {
	var payload any
	if j.Payload != nil {
		payload = j.Payload
	}
	return append(dst, blobID(j.ID), j.Queue, j.Kind, int64(j.State), int64(j.Priority), int64(j.Lane), j.Seq,
		coldsql.Micros(j.RunAt), coldsql.Micros(j.CreatedAt), int64(j.MaxAttempts), j.Version, j.Digest, payload)
}

// copyPlain is copyRun for plain jobs that are leased beside their rows. It names rid, so that
// its columns are those of the table in their order: SQLite then copies no value twice. What does not
// depend on the row is computed once.
var copyPlain = " (rid, " + coldsql.ColumnList + ") SELECT NULL, " + plainCopied() + " FROM job_row AS j WHERE j.rid BETWEEN ?3 AND ?4"

func plainCopied() string {
	from := map[string]string{
		"state": "4", "version": "j.version + 2", "attempt": "1", "token": "1", "settled_token": "1", "settled_as": "3",
		"crashes": "0", "redrives": "0", "cancel_requested": "0", "leased_at": "?2", "done_at": "?1",
	}
	for _, c := range []string{"id", "queue", "kind", "priority", "lane", "seq", "run_at", "created_at", "max_attempts", "digest", "payload"} {
		from[c] = "j." + c
	}
	list := make([]string, len(coldsql.Columns))
	for i, c := range coldsql.Columns {
		if list[i] = from[c]; list[i] == "" {
			list[i] = "NULL"
		}
	}
	return strings.Join(list, ", ")
}
