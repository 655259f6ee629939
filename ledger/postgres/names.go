package postgres

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/coldsql"
)

// namedSQL takes jobs by id and token for several requests, as job.Rules.Step
// does for Lease. $1 to $3 are the refs and the number of each one's request; the
// other arrays have one value for each request. The first column is the ref's place.
//
//	locked  the jobs that may be had, past those that someone else holds
//	fits    of each request, so many of them as it may get
//
// For the form of the look-up see succeedSQL.
var namedSQL = fmt.Sprintf(`WITH locked AS MATERIALIZED (
		SELECT u.i, u.r, h.* FROM unnest($1::uuid[], $2::bigint[], $3::integer[]) WITH ORDINALITY AS u (id, token, r, i)
		CROSS JOIN LATERAL (
			SELECT j.ctid AS place, %[1]s FROM errand.job_row j
			WHERE j.id = u.id AND j.token = u.token AND j.state + 0 = %[2]d AND j.lane > %[3]d AND j.queue = ($4::text[])[u.r]
				AND (($5::text[])[u.r] IS NULL OR ($5::text[])[u.r]::jsonb ? j.kind)
				AND (j.expires_at IS NULL OR j.expires_at > $10)
				AND NOT EXISTS (SELECT FROM errand.lease_block b WHERE %[6]s) FOR UPDATE SKIP LOCKED) AS h),
	fits AS MATERIALIZED (
		SELECT i, r, place FROM (SELECT l.*, sum(size) OVER w AS total, row_number() OVER w AS nth
			FROM locked l WINDOW w AS (PARTITION BY r ORDER BY i)) o
		WHERE nth <= ($8::bigint[])[r] AND (nth = 1 OR total <= ($9::bigint[])[r]))
	UPDATE errand.job_row j SET %[4]s, session = ($6::uuid[])[f.r], call = nullif(($7::bigint[])[f.r], 0), leased_at = $10
	FROM fits f WHERE j.ctid = f.place RETURNING f.i, %[5]s`,
	payloadSize, job.Ready, job.LaneSuspect, leaseSet, columns("j."), inBlock)

// lease names a job under one of its tokens.
type lease struct {
	id    job.ID
	token int64
}

// names are requests by name that one statement serves: no two of them name
// the same lease, so it does not matter that it looks for all at once.
type names struct {
	work   []*request
	places map[lease]int
	ids    []pgtype.UUID
	tokens []int64
	of     []int32 // the number of the request, from 1
}

func newNames(w *request) *names {
	n := &names{places: make(map[lease]int, len(w.Refs))}
	n.add(w)
	return n
}

// add takes a request in, unless one before it may get a job that this one names.
func (n *names) add(w *request) bool {
	for i := range w.Refs {
		if _, taken := n.places[lease{w.Refs[i].ID, w.Refs[i].Token}]; taken {
			return false
		}
	}
	n.work = append(n.work, w)
	w.places = n.places
	for i := range w.Refs {
		k := lease{w.Refs[i].ID, w.Refs[i].Token}
		if _, twice := n.places[k]; twice {
			continue
		}
		n.places[k] = len(n.ids)
		n.ids, n.tokens, n.of = append(n.ids, uuidArg(k.id)), append(n.tokens, k.token), append(n.of, int32(len(n.work)))
	}
	return true
}

func (n *names) step(now time.Time) step {
	return step{
		sql: namedSQL,
		args: []any{
			n.ids, n.tokens, n.of,
			column(n.work, func(w *request) string { return w.Queue }),
			column(n.work, func(w *request) pgtype.Text { return optTextArg(kindsText(w.Kinds)) }),
			column(n.work, func(w *request) pgtype.UUID { return uuidArg(w.Session) }),
			column(n.work, func(w *request) int64 { return w.Call }),
			column(n.work, func(w *request) int64 { return int64(w.Max) }),
			column(n.work, func(w *request) int64 { return w.bytes }),
			now.UnixMicro(),
		},
		scan: func(rows pgx.Rows) error {
			r := rowReader{vals: rows.RawValues()}
			place := r.int8() - 1
			if r.err != nil {
				return r.err
			}
			w := n.work[n.of[place]-1]
			var err error
			w.jobs, err = scanJob(w.jobs, rows, 1, &w.traces)
			return err
		},
	}
}

// kindsText is a JSON array, or "" for every kind.
func kindsText(kinds []string) string {
	s, _ := coldsql.JSON(kinds).(string)
	return s
}
