package postgres

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// claimSQL takes up to $6 jobs of one queue, as job.Rules.Step does for Lease:
//
//	seen    the first jobs in the order (lane, seq), merged over the kinds, without locks,
//	        lane number by lane number, so that it stops where it has enough
//	share   how many of them each lane has, up to the bytes that fit
//	locked  so many of each lane, past those that another claim holds
//	fits    those whose payloads fit together, $12 at most: a later round looks
//	        further than it takes
//
// The first columns of each row are how many were seen, and whether some were locked
// that did not fit; without a job the rest is NULL.
var claimSQL = fmt.Sprintf(`WITH want AS MATERIALIZED (
		SELECT * FROM unnest($2::text[], $3::smallint[], $4::bigint[]) WITH ORDINALITY AS u (kind, lane, low, i)),
	seen AS MATERIALIZED (
		SELECT c.i, c.size FROM unnest($5::smallint[]) AS p (lane) CROSS JOIN LATERAL (
			SELECT w.i, r.size FROM want w CROSS JOIN LATERAL (
				SELECT j.seq, coalesce(octet_length(j.payload), 0) AS size %[1]s ORDER BY j.seq LIMIT $6) r
			WHERE w.lane = p.lane ORDER BY r.seq LIMIT $6) c
		LIMIT $6),
	share AS MATERIALIZED (
		SELECT i, count(*) AS n FROM
			(SELECT i, sum(size) OVER (ROWS UNBOUNDED PRECEDING) - size AS before FROM seen) s
		WHERE before < $10 GROUP BY i),
	locked AS MATERIALIZED (
		SELECT r.* FROM share s JOIN want w ON w.i = s.i CROSS JOIN LATERAL (
			SELECT j.ctid AS place, j.lane, j.seq, coalesce(octet_length(j.payload), 0) AS size %[1]s
			ORDER BY j.seq LIMIT s.n FOR UPDATE SKIP LOCKED) r),
	fits AS MATERIALIZED (
		SELECT place FROM (SELECT place, sum(size) OVER w AS total, row_number() OVER w AS nth
			FROM locked WINDOW w AS (ORDER BY lane, seq)) l
		WHERE nth <= $12 AND (total <= $10 OR (nth = 1 AND $11))),
	taken AS (
		UPDATE errand.job j SET state = 3, token = token + 1, version = version + 1, attempt = attempt + 1,
			session = $8, call = nullif($9::bigint, 0), leased_at = $7
		WHERE j.ctid = ANY (ARRAY (SELECT place FROM fits)) RETURNING %[2]s)
	SELECT (SELECT count(*) FROM seen), (SELECT count(*) FROM locked) > (SELECT count(*) FROM fits), taken.* FROM (SELECT 1) AS one LEFT JOIN taken ON true`,
	`FROM errand.job j WHERE j.queue = $1 AND j.kind = w.kind AND j.lane = w.lane AND j.state = 2
		AND j.seq > w.low AND (j.expires_at IS NULL OR j.expires_at > $7)`,
	columns("j."))

// claimRounds bounds how often a request looks again, further on, because
// other claims held the first jobs in the order.
const claimRounds = 4

// claimSeed is what the claims of one transaction begin with.
type claimSeed struct {
	live     map[job.ID]bool
	paused   map[string]bool
	kinds    map[string][]string // of queues asked for without kinds
	suspects map[string]bool     // queues that have some
}

// request is a claim under way.
type request struct {
	*ledger.Claim
	index int // in the call
	lanes []laneKey
	gens  map[laneKey]int64
	lows  map[laneKey]int64 // where the claim began
	jobs  []job.Job
	bytes int64 // left
	seen  int   // by the last statement
	limit int   // of the last statement
	full  bool  // the next job in the order does not fit
}

// Claim implements ledger.Jobs.
func (l *Ledger) Claim(ctx context.Context, now time.Time, reqs []ledger.Claim) ([]ledger.Claimed, error) {
	if len(reqs) == 0 {
		return nil, nil
	}
	if err := l.rescanLanes(ctx, now, l.lanesOf(reqs)); err != nil {
		return nil, err
	}
	var answers []ledger.Claimed
	err := l.inTx(ctx, "claim", func(t *tx) (err error) {
		answers, err = t.claim(ctx, now, reqs)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

// claim is one try.
func (t *tx) claim(ctx context.Context, now time.Time, reqs []ledger.Claim) (answers []ledger.Claimed, err error) {
	seed, err := t.claimSeed(ctx, reqs)
	if err != nil {
		return nil, err
	}
	answers = make([]ledger.Claimed, len(reqs))
	var work []*request
	for i := range reqs {
		switch r := &reqs[i]; {
		case !seed.live[r.Session]:
			answers[i].Err = job.ErrSessionLost
		case !seed.paused[r.Queue] && r.Max > 0:
			work = append(work, newRequest(r, i, seed))
		}
	}
	defer func() {
		if err != nil {
			t.l.marks.retreat(work)
		}
	}()
	if err := t.claimAll(ctx, now, seed, work); err != nil {
		return nil, err
	}
	for _, w := range work {
		answers[w.index].Jobs = w.jobs
	}
	return answers, t.commit(ctx, claimedSteps(work)...)
}

// lanesOf returns the lanes with marks that the requests may read.
func (l *Ledger) lanesOf(reqs []ledger.Claim) []laneKey {
	var keys []laneKey
	every := map[string]bool{}
	for i := range reqs {
		r := &reqs[i]
		if len(r.Kinds) == 0 {
			every[r.Queue] = true
		}
		for _, kind := range r.Kinds {
			for lane := job.Lane(0); lane <= job.LaneLast; lane++ {
				keys = append(keys, laneKey{r.Queue, kind, lane})
			}
		}
	}
	if len(every) > 0 {
		l.marks.mu.Lock()
		defer l.marks.mu.Unlock()
		for k := range l.marks.lanes {
			if every[k.queue] {
				keys = append(keys, k)
			}
		}
	}
	// A lane that two requests share is read once.
	slices.SortFunc(keys, func(a, b laneKey) int {
		return cmp.Or(cmp.Compare(a.queue, b.queue), cmp.Compare(a.kind, b.kind), cmp.Compare(a.lane, b.lane))
	})
	return slices.Compact(keys)
}

// claimSeed begins the transaction. The session rows are locked against
// MoveSession, not against Beat; the lock on pausing comes in a statement before the
// settings are read, so that a claim that SetPaused did not wait for sees what it set.
func (t *tx) claimSeed(ctx context.Context, reqs []ledger.Claim) (claimSeed, error) {
	s := claimSeed{live: map[job.ID]bool{}, paused: map[string]bool{}, kinds: map[string][]string{}, suspects: map[string]bool{}}
	var sessions []job.ID
	var queues, every []string
	for i := range reqs {
		sessions, queues = append(sessions, reqs[i].Session), append(queues, reqs[i].Queue)
		if len(reqs[i].Kinds) == 0 && !slices.Contains(every, reqs[i].Queue) {
			every = append(every, reqs[i].Queue)
		}
	}
	steps := []step{
		{sql: "SELECT pg_advisory_xact_lock_shared($1, $2)", args: []any{lockClass, lockPausing}},
		{
			sql:  "SELECT id, state FROM errand.session WHERE id = ANY ($1::uuid[]) ORDER BY id FOR KEY SHARE",
			args: []any{uuids(sessions)},
			scan: func(rows pgx.Rows) error {
				r := rowReader{vals: rows.RawValues()}
				id := r.uuid()
				s.live[id] = ledger.SessionState(r.int2()) == ledger.SessionLive
				return r.err
			},
		},
		textSet("SELECT name FROM errand.queue WHERE paused AND name = ANY ($1::text[])", queues, s.paused),
		textSet(`SELECT q FROM unnest($1::text[]) AS u (q)
			WHERE EXISTS (SELECT FROM errand.job j WHERE j.queue = u.q AND j.state = 2 AND j.lane = -2)`, queues, s.suspects),
	}
	if len(every) > 0 {
		steps = append(steps, step{
			sql: `SELECT queue, kind FROM errand.counter WHERE queue = ANY ($1::text[]) AND state = 2
				GROUP BY queue, kind HAVING sum(n) > 0`,
			args: []any{every},
			scan: func(r pgx.Rows) error {
				var queue, kind string
				err := r.Scan(&queue, &kind)
				s.kinds[queue] = append(s.kinds[queue], kind)
				return err
			},
		})
	}
	return s, t.run(ctx, steps...)
}

func textSet(sql string, arg []string, set map[string]bool) step {
	return step{sql: sql, args: []any{arg}, scan: func(r pgx.Rows) error {
		var s string
		err := r.Scan(&s)
		set[s] = true
		return err
	}}
}

func newRequest(r *ledger.Claim, index int, seed claimSeed) *request {
	w := &request{Claim: r, index: index, gens: map[laneKey]int64{}, lows: map[laneKey]int64{}, bytes: int64(r.MaxBytes)}
	if r.MaxBytes <= 0 {
		w.bytes = math.MaxInt64
	}
	kinds := r.Kinds
	if len(kinds) == 0 {
		kinds = seed.kinds[r.Queue]
	}
	kinds = slices.Compact(slices.Sorted(slices.Values(kinds)))
	for _, kind := range kinds {
		for lane := job.LaneFront; lane <= job.LaneLast; lane++ {
			w.lanes = append(w.lanes, laneKey{r.Queue, kind, lane})
		}
	}
	return w
}

// claimAll runs the requests: suspects first, then all of them in one
// pipeline, and again those that found the first jobs in others' hands.
func (t *tx) claimAll(ctx context.Context, now time.Time, seed claimSeed, work []*request) error {
	asked := map[job.ID]bool{}
	for _, w := range work {
		if seed.suspects[w.Queue] && !asked[w.Session] {
			took, err := t.claimSuspect(ctx, now, w)
			if err != nil {
				return err
			}
			asked[w.Session] = took
		}
	}
	// One at a time: claims of a process that look at the same moment would all
	// walk over the rows that the others lock. The commits overlap.
	select {
	case t.l.claiming <- struct{}{}:
		defer func() { <-t.l.claiming }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for range claimRounds {
		var steps []step
		for _, w := range work {
			if w.wantsMore() {
				w.limit = w.Max - len(w.jobs) + max(w.limit-len(w.jobs), 0)
				steps = append(steps, t.l.claimStep(now, w, w.lanes))
			}
		}
		if len(steps) == 0 {
			break
		}
		if err := t.run(ctx, steps...); err != nil {
			return err
		}
	}
	for _, w := range work {
		w.sort()
		t.l.advance(w)
	}
	return nil
}

// wantsMore reports whether another statement may find more: it is the first,
// or the last one saw as many jobs as it looked for and got fewer.
func (w *request) wantsMore() bool {
	if len(w.lanes) == 0 || len(w.jobs) >= w.Max || w.bytes <= 0 || w.full {
		return false
	}
	return w.limit == 0 || w.seen == w.limit
}

// claimSuspect takes at most one suspect for a session that holds none. The
// lock keeps two servers from doing so for one session at once.
func (t *tx) claimSuspect(ctx context.Context, now time.Time, w *request) (bool, error) {
	alone, holds := false, true
	key := int32(binary.BigEndian.Uint32(w.Session[12:]))
	err := t.run(ctx,
		step{sql: "SELECT pg_try_advisory_xact_lock($1, $2)", args: []any{lockSuspects, key},
			scan: func(r pgx.Rows) error { return r.Scan(&alone) }},
		step{sql: "SELECT EXISTS (SELECT FROM errand.job WHERE session = $1 AND state = 3 AND crashes > 0)",
			args: []any{uuidArg(w.Session)}, scan: func(r pgx.Rows) error { return r.Scan(&holds) }})
	if err != nil || !alone || holds {
		return holds, err
	}
	var lanes []laneKey
	for i := 0; i < len(w.lanes); i++ {
		if k := w.lanes[i]; k.lane == job.LaneFront {
			lanes = append(lanes, laneKey{k.queue, k.kind, job.LaneSuspect})
		}
	}
	if len(lanes) == 0 {
		return false, nil
	}
	w.limit = 1
	err = t.run(ctx, t.l.claimStep(now, w, lanes))
	w.limit, w.seen = 0, 0
	return len(w.jobs) > 0, err
}

// claimStep is one run of claimSQL over the lanes.
func (l *Ledger) claimStep(now time.Time, w *request, lanes []laneKey) step {
	kinds, numbers, lows := make([]string, len(lanes)), make([]int16, len(lanes)), make([]int64, len(lanes))
	var distinct []int16
	for i, k := range lanes {
		low, gen := l.marks.start(k)
		if _, ok := w.gens[k]; !ok {
			w.gens[k], w.lows[k] = gen, low
		}
		kinds[i], numbers[i], lows[i] = k.kind, int16(k.lane), low
		if !slices.Contains(distinct, numbers[i]) {
			distinct = append(distinct, numbers[i])
		}
	}
	slices.Sort(distinct)
	return step{
		sql: claimSQL,
		args: []any{w.Queue, kinds, numbers, lows, distinct, min(w.limit, w.Max*claimRounds), now.UnixMicro(), uuidArg(w.Session), w.Call,
			w.bytes, len(w.jobs) == 0, w.Max - len(w.jobs)},
		scan: w.scan,
	}
}

func (w *request) scan(rows pgx.Rows) error {
	r := rowReader{vals: rows.RawValues()}
	w.seen, w.full = int(r.int8()), r.bool()
	if len(r.vals) > 0 && r.vals[0] == nil {
		return r.err // nothing was taken
	}
	j, err := scanJob(rows, 2)
	if err != nil {
		return err
	}
	w.bytes -= int64(len(j.Payload))
	w.jobs = append(w.jobs, j)
	return nil
}

func (w *request) sort() {
	slices.SortFunc(w.jobs, func(a, b job.Job) int {
		return cmp.Or(cmp.Compare(a.Lane, b.Lane), cmp.Compare(a.Seq, b.Seq))
	})
}

// claimedSteps counts the jobs taken and frees the keys that end with a lease.
func claimedSteps(work []*request) []step {
	d := deltas{}
	var freed []*job.Job
	for _, w := range work {
		for i := range w.jobs {
			j := &w.jobs[i]
			d.add(j, 1)
			d[counterKey{queue: j.Queue, kind: j.Kind, state: job.Ready}]--
			if j.UniqueMode == job.WhileQueued && j.UniqueKey != "" {
				freed = append(freed, j)
			}
		}
	}
	return append(d.steps(), freeKeySteps(freed)...)
}

// freeKeySteps frees the unique keys that the jobs hold, if they do.
func freeKeySteps(jobs []*job.Job) []step {
	if len(jobs) == 0 {
		return nil
	}
	slices.SortFunc(jobs, func(a, b *job.Job) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.UniqueKey, b.UniqueKey))
	})
	scopes, keys, ids := make([]string, len(jobs)), make([]string, len(jobs)), make([]job.ID, len(jobs))
	for i, j := range jobs {
		scopes[i], keys[i], ids[i] = j.Kind, j.UniqueKey, j.ID
	}
	return []step{{
		sql: `DELETE FROM errand.unique_key WHERE ctid = ANY (ARRAY (
			SELECT h.place FROM unnest($1::text[], $2::text[], $3::uuid[]) AS u (s, k, j) CROSS JOIN LATERAL (
				SELECT k.ctid AS place FROM errand.unique_key k
				WHERE k.scope = u.s AND k.key = u.k AND k.job = u.j FOR UPDATE) AS h))`,
		args: []any{scopes, keys, uuids(ids)},
	}}
}

// advance raises the marks of the lanes that a claim took from, before it has
// committed: the next claim of the process need not walk over its rows. If it does not
// commit, retreat takes that back.
func (l *Ledger) advance(w *request) {
	last := map[laneKey]int64{}
	for i := range w.jobs {
		j := &w.jobs[i]
		k := laneKey{j.Queue, j.Kind, j.Lane}
		last[k] = max(last[k], j.Seq)
	}
	for k, seq := range last {
		l.marks.advance(k, w.gens[k], seq)
	}
}
