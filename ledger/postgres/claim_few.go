package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// fewClaimed is up to how many jobs a claim is expected to get for it to be made in one
// round trip, each leased in its row. For more of them the rows cost more than another trip and a block.
const fewClaimed = 32

// claimFewSQL is claimSQL together with what follows from the jobs it takes:
//
//	odd      whether the queue has suspects: then it takes nothing
//	taken    the jobs, leased
//	counted  their counters
//	freed    their unique keys that end with a lease
//
// It returns one row at least, without a job if it took none. After the columns
// that claimSQL's rows begin with comes odd.
var claimFewSQL = fmt.Sprintf(`WITH odd AS MATERIALIZED (
		SELECT EXISTS (SELECT FROM errand.job_row j WHERE j.queue = $1 AND j.state = 2 AND j.lane = -2) AS suspects),
	%[1]s AND NOT (SELECT suspects FROM odd)), %[2]s,
	taken AS (
		%[3]s RETURNING %[4]s),
	counted AS (
		INSERT INTO errand.counter_delta (queue, kind, state, slice, n)
		SELECT $1, t.kind, c.state, 0, c.sign * count(*)
		FROM taken t CROSS JOIN (VALUES (%[5]d::smallint, -1), (%[6]d::smallint, 1)) AS c (state, sign)
		GROUP BY t.kind, c.state, c.sign),
	freed AS (
		DELETE FROM errand.unique_key WHERE ctid = ANY (ARRAY (
			SELECT h.place FROM (SELECT id, kind, unique_key FROM taken
				WHERE unique_mode = %[7]d AND unique_key <> '' ORDER BY kind COLLATE "C", unique_key COLLATE "C") AS u CROSS JOIN LATERAL (
				SELECT k.ctid AS place FROM errand.unique_key k
				WHERE k.scope = u.kind AND k.key = u.unique_key AND k.job = u.id FOR UPDATE) AS h)))
	SELECT (SELECT count(*) FROM seen), (SELECT count(*) FROM locked) > (SELECT count(*) FROM fits), (SELECT suspects FROM odd), %[8]s
	FROM (VALUES (0)) AS one LEFT JOIN taken t ON true`,
	mayTake, takeParts, takeUpdate, returnedColumns(), job.Ready, job.Running, job.WhileQueued, claimedColumns("t."))

// returnedColumns are those of claimedColumns that come from the row.
func returnedColumns() string {
	return "j." + strings.Join(slices.DeleteFunc(slices.Clone(coldsql.Columns), knownToClaim), ", j.")
}

// expected returns how many jobs requests that are alike may get, by what the queue's last claim got,
// and reports whether all of them search for kinds that are known.
func (l *Ledger) expected(reqs []ledger.Claim) (last claimedLast, searching bool) {
	last = l.marks.lastClaimed(reqs[0].Queue)
	wanted := 0
	for i := range reqs {
		r := &reqs[i]
		if len(r.Refs) > 0 || r.SuspectsOnly || len(r.Kinds) == 0 || r.Max <= 0 {
			return last, false
		}
		wanted += r.Max
	}
	last.jobs = min(last.jobs, wanted)
	return last, true
}

// fewExpected reports whether the requests, which are alike, may share one round trip.
func (l *Ledger) fewExpected(reqs []ledger.Claim) bool {
	last, searching := l.expected(reqs)
	return searching && last.jobs <= l.few && !last.bulky
}

// claimFew serves the requests in one round trip. Those that it cannot serve so
// have taken nothing in it, and are served by a transaction of their own behind it.
func (l *Ledger) claimFew(ctx context.Context, now time.Time, reqs []ledger.Claim) ([]ledger.Claimed, error) {
	var answers []ledger.Claimed
	var left []int
	err := l.inTx(ctx, "claim", func(t *tx) (err error) {
		answers, left, err = t.claimFew(ctx, now, reqs)
		return err
	})
	if err != nil || len(left) == 0 {
		return answers, err
	}
	rest := make([]ledger.Claim, len(left))
	for k, i := range left {
		rest[k] = reqs[i]
	}
	late, err := l.claimMany(ctx, now, rest)
	if err != nil && len(left) == len(reqs) {
		return nil, err
	}
	for k, i := range left {
		if err != nil {
			answers[i].Err = err // the others keep what was committed for them
		} else {
			answers[i] = late[k]
		}
	}
	return answers, nil
}

// claimFew is one try. left are the requests that took nothing and may get
// something yet: their queues have suspects, others held what they saw, or one like them
// went first and got all that it may have.
//
// The marks are raised once it has committed: no other claim of the process begins before that.
func (t *tx) claimFew(ctx context.Context, now time.Time, reqs []ledger.Claim) (answers []ledger.Claimed, left []int, err error) {
	work := make([]*request, len(reqs))
	for i := range reqs {
		work[i] = t.l.newRequest(&reqs[i])
	}
	// A queue that had less than was asked for will have so again: one request shows
	// that there is nothing for the others like it, and they need no statement.
	sent := work
	if alike(work) && work[0].room < work[0].Max {
		sent = work[:1]
	}
	leave, err := t.l.enterClaim(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	seed := newClaimSeed()
	steps := []step{seed.sessionsStep(work, false)}
	for _, w := range sent {
		w.few, w.limit = true, w.Max
		steps = append(steps, t.l.claimStep(now, w, w.lanes))
	}
	t.lock = lockPausing
	if err := t.commit(ctx, steps...); err != nil {
		return nil, nil, err
	}
	answers = make([]ledger.Claimed, len(reqs))
	for i, w := range work {
		live := seed.live[w.Session]
		if !live {
			answers[i].Err = job.ErrSessionLost
		}
		if i < len(sent) {
			w.sort()
			t.l.learn(w)
			answers[i].Jobs, answers[i].More = w.jobs, w.cut() || w.wantsMore()
		}
		// Those that had no statement of their own know what the first one showed.
		open := w.odd || w.wantsMore()
		if i >= len(sent) {
			open = !work[0].exhausted(seed)
		}
		if live && len(w.jobs) == 0 && open {
			left = append(left, i)
		}
	}
	return answers, left, nil
}

// alike reports whether all requests ask for the same.
func alike(work []*request) bool {
	for _, w := range work[1:] {
		if w.Queue != work[0].Queue || !slices.Equal(w.kinds, work[0].kinds) {
			return false
		}
	}
	return true
}

// cut reports whether the bound on bytes ended the request.
func (w *request) cut() bool { return w.full || w.bytes <= 0 }

// exhausted reports whether the request has shown that there is no more of what it asked for.
func (w *request) exhausted(seed claimSeed) bool {
	return seed.live[w.Session] && !w.odd && !w.cut() && len(w.jobs) < w.Max && !w.wantsMore()
}

// scanFew reads a row of claimFewSQL.
func (w *request) scanFew(rows pgx.Rows, now time.Time) error {
	const head = 3
	r := rowReader{vals: rows.RawValues()}
	w.seen, w.full, w.odd = int(r.int8()), r.bool(), r.bool()
	if r.err != nil {
		return r.err
	}
	if id := r.next(16); id == nil {
		return r.err
	}
	return w.scanJob(rows, head, now)
}
