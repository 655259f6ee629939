package postgres

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// claimSQL takes up to $12 jobs of one queue, as job.Rules.Step does for Lease:
//
//	want    the lanes, if the session is live, the queue is not paused and, unless $13, has no suspects
//	seen    the first jobs in the order, merged over the lanes ($5) of several kinds: see seenSQL
//	share   how many of them each lane has, up to the bytes that fit; of lanes that are
//	        not merged ($5 is empty) as many as are wanted
//	locked  so many of each lane, past those that another claim holds, and not one more
//	        than $6
//	fits    those whose payloads fit together, $12 at most: a later round looks
//	        further than it takes
//
// The first columns of each row are how many were seen, and whether some were locked
// that did not fit.
var claimSQL = fmt.Sprintf(`WITH %[1]s AND ($13 OR `+noSuspects+`)),
	%[2]s
	%[3]s RETURNING (SELECT count(*) FROM seen), (SELECT count(*) FROM locked) > (SELECT count(*) FROM fits), %[4]s`,
	mayTake, takeParts, takeUpdate, claimedColumns("j."))

// The parts that claimSQL and claimFewSQL have in common. The first is open: what
// they know of suspects goes behind it.
var (
	mayTake = fmt.Sprintf(`%s
		WHERE EXISTS (SELECT FROM errand.session s WHERE s.id = $8 AND s.state = %d)
			AND NOT EXISTS (SELECT FROM errand.queue q WHERE q.name = $1 AND q.paused)`, wantSQL, ledger.SessionLive)
	takeParts = fmt.Sprintf(`%[1]s,
	share AS MATERIALIZED (
		SELECT i, count(*) AS n FROM
			(SELECT i, sum(size) OVER (ROWS UNBOUNDED PRECEDING) - size AS before FROM seen) s
		WHERE before < $10 GROUP BY i
		UNION ALL SELECT i, $6 FROM want WHERE cardinality($5::smallint[]) = 0),
	locked AS MATERIALIZED (
		SELECT r.* FROM share s JOIN want w ON w.i = s.i CROSS JOIN LATERAL (
			SELECT j.ctid AS place, j.lane, j.seq, %[2]s %[3]s
			ORDER BY j.seq LIMIT s.n FOR UPDATE SKIP LOCKED) r
		LIMIT $6),
	fits AS MATERIALIZED (
		SELECT place FROM (SELECT place, sum(size) OVER w AS total, row_number() OVER w AS nth
			FROM locked WINDOW w AS (ORDER BY lane, seq)) l
		WHERE nth <= $12 AND (total <= $10 OR (nth = 1 AND $11)))`, seenSQL(payloadSize), payloadSize, laneRows)
	takeUpdate = fmt.Sprintf(`UPDATE errand.job_row j SET %s, session = $8, call = nullif($9::bigint, 0), leased_at = $7
		WHERE j.ctid = ANY (ARRAY (SELECT place FROM fits))`, leaseSet)
)

// noSuspects is the condition that queue $1 has none.
const noSuspects = "NOT EXISTS (SELECT FROM errand.job_row j WHERE j.queue = $1 AND j.state = 2 AND j.lane = -2)"

// claimedColumns are those of a job, but for what the claim knows: see scan.
func claimedColumns(prefix string) string {
	list := slices.Clone(coldsql.Columns)
	for i, c := range list {
		if knownToClaim(c) {
			list[i] = "NULL"
		} else {
			list[i] = prefix + c
		}
	}
	return strings.Join(list, ", ")
}

// knownToClaim tells the columns of a leased job that whoever claimed it knows.
func knownToClaim(column string) bool {
	switch column {
	case "queue", "state", "leased_at", "session", "call":
		return true
	}
	return false
}

// payloadSize is what a job weighs in an answer.
const payloadSize = "coalesce(octet_length(j.payload), 0) AS size"

// leaseSet is what a lease changes in a row whoever takes it.
const leaseSet = "state = 3, token = token + 1, version = version + 1, attempt = attempt + 1"

// claimRounds bounds how often a request looks again, further on, because
// other claims held the first jobs in the order.
const claimRounds = 4

// claimSeed is what the claims of one transaction begin with.
type claimSeed struct {
	queueState
	live     map[job.ID]bool
	suspects map[string]bool // queues that have some
}

func newClaimSeed() claimSeed {
	return claimSeed{queueState: newQueueState(), live: map[job.ID]bool{}, suspects: map[string]bool{}}
}

// request is a claim under way.
type request struct {
	*ledger.Claim
	kinds []string
	merge bool      // the statement looks before it locks: see claimStep
	past  bool      // the turn of suspects is over
	lanes []laneKey // but for that of suspects
	gens  map[laneKey]int64
	lows  map[laneKey]int64 // where the claim began
	jobs  []job.Job
	room  int   // for so many jobs at first: as many as the queue's last claim got
	bytes int64 // left
	seen  int   // by the last statement
	limit int   // of the last statement
	full  bool  // the next job in the order does not fit
	few   bool  // claimFewSQL does it, which says what it saw even if it took nothing
	odd   bool  // and that the queue has suspects

	traces coldsql.Traces
	places map[lease]int // of a request by name, once it was made: where its refs stand
}

// Claim implements ledger.Jobs.
func (l *Ledger) Claim(ctx context.Context, now time.Time, reqs []ledger.Claim) ([]ledger.Claimed, error) {
	if len(reqs) == 0 {
		return nil, nil
	}
	rescanned := l.rescanBeside(ctx, now, l.markedLanes(headsOf(reqs)))
	answers, err := l.claim(ctx, now, reqs)
	if err != nil || slices.ContainsFunc(answers, isFinal) {
		return answers, err
	}
	if back, err := rescanned(); err != nil || !back {
		return answers, err
	}
	return l.claim(ctx, now, reqs)
}

// claim serves the requests in parts: those of a queue whose last claim got many jobs by blocks,
// each such queue by itself, and then the others.
func (l *Ledger) claim(ctx context.Context, now time.Time, reqs []ledger.Claim) ([]ledger.Claimed, error) {
	answers := make([]ledger.Claimed, len(reqs))
	rest := make([]int, 0, len(reqs))
	few, done := true, false
	var failed error // why not; that it is unknown says more than another one
	answer := func(places []int, got []ledger.Claimed, err error) {
		for k, i := range places {
			if err != nil {
				answers[i].Err = err // the others keep what was committed for them
			} else {
				answers[i] = got[k]
			}
		}
		done = done || err == nil
		if failed == nil || errors.Is(err, job.ErrUnknown) {
			failed = err
		}
	}
	for _, part := range partsOf(reqs) {
		some := chosen(reqs, part)
		if !l.blocksExpected(some) {
			rest, few = append(rest, part...), few && l.fewExpected(some)
			continue
		}
		got, served, err := l.claimBlocks(ctx, now, some)
		if err == nil && !served {
			rest, few = append(rest, part...), false
			continue
		}
		answer(part, got, err)
	}
	if len(rest) > 0 {
		slices.Sort(rest) // requests keep their order
		claim := l.claimMany
		if few {
			claim = l.claimFew
		}
		got, err := claim(ctx, now, chosen(reqs, rest))
		answer(rest, got, err)
	}
	if !done {
		return nil, failed
	}
	return answers, nil
}

// partsOf puts the requests that are alike together: each part has their places.
func partsOf(reqs []ledger.Claim) [][]int {
	type same struct{ queue, kinds string }
	at := map[same]int{}
	var parts [][]int
	for i := range reqs {
		s := same{reqs[i].Queue, strings.Join(reqs[i].Kinds, "\x00")}
		k, ok := at[s]
		if !ok {
			k, parts = len(parts), append(parts, nil)
			at[s] = k
		}
		parts[k] = append(parts[k], i)
	}
	return parts
}

func chosen(reqs []ledger.Claim, places []int) []ledger.Claim {
	if len(places) == len(reqs) {
		return reqs
	}
	some := make([]ledger.Claim, len(places))
	for k, i := range places {
		some[k] = reqs[i]
	}
	return some
}

// isFinal reports whether a claim with this answer must not be made again: it brought
// jobs, or may have, for nobody knows whether it was committed.
func isFinal(a ledger.Claimed) bool {
	return len(a.Jobs) > 0 || a.Err != nil && !errors.Is(a.Err, job.ErrSessionLost)
}

// claimMany serves any requests, in two round trips at least.
func (l *Ledger) claimMany(ctx context.Context, now time.Time, reqs []ledger.Claim) ([]ledger.Claimed, error) {
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

// headsOf returns what the requests that are not by name read.
func headsOf(reqs []ledger.Claim) []ledger.Head {
	heads := make([]ledger.Head, 0, len(reqs))
	for i := range reqs {
		if r := &reqs[i]; len(r.Refs) == 0 {
			heads = append(heads, ledger.Head{Queue: r.Queue, Kinds: r.Kinds})
		}
	}
	return heads
}

// claim is one try.
func (t *tx) claim(ctx context.Context, now time.Time, reqs []ledger.Claim) (answers []ledger.Claimed, err error) {
	work := make([]*request, len(reqs))
	for i := range reqs {
		work[i] = t.l.newRequest(&reqs[i])
	}
	defer func() {
		if err != nil {
			t.l.marks.retreat(work)
		}
	}()
	seed, err := t.claimAll(ctx, now, work)
	if err != nil {
		return nil, err
	}
	answers = make([]ledger.Claimed, len(reqs))
	for i, w := range work {
		answers[i].Jobs, answers[i].More = w.jobs, w.cut() || len(w.Refs) == 0 && w.wantsMore()
		if !seed.live[w.Session] {
			answers[i].Err = job.ErrSessionLost
		}
	}
	return answers, t.commit(ctx, claimedSteps(work)...)
}

// seedSteps are what a claim begins with, behind the lock on pausing: see claimAll.
func (s claimSeed) seedSteps(work []*request) []step {
	queues, searched := make([]string, len(work)), make([]ledger.Head, 0, len(work))
	for i, w := range work {
		queues[i] = w.Queue
		if len(w.Refs) == 0 {
			searched = append(searched, ledger.Head{Queue: w.Queue, Kinds: w.Kinds})
		}
	}
	steps := []step{s.sessionsStep(work, false), s.pausedStep(queues)}
	if len(searched) > 0 {
		steps = append(steps, s.suspectsStep(queues))
		steps = append(steps, s.kindsSteps(searched)...)
	}
	return steps
}

// suspectsStep reads which of the queues have suspects.
func (s claimSeed) suspectsStep(queues []string) step {
	return textSet(`SELECT q FROM unnest($1::text[]) AS u (q)
		WHERE EXISTS (SELECT FROM errand.job_row j WHERE j.queue = u.q AND j.state = 2 AND j.lane = -2)`, queues, s.suspects)
}

// sessionsSQL takes the leasing locks of queues, which are a condition so that they are taken
// before anything is read, and reads sessions.
const sessionsSQL = `SELECT id, state FROM errand.session WHERE id = ANY ($1::uuid[])
	AND (SELECT count(pg_advisory_xact_lock%s($2, k)) FROM unnest($3::integer[]) AS u (k)) > 0 ORDER BY id FOR KEY SHARE`

var sessionsSQLs = map[bool]string{false: fmt.Sprintf(sessionsSQL, "_shared"), true: fmt.Sprintf(sessionsSQL, "")}

// sessionsStep takes the leasing locks of the queues of the requests, alone or shared, and
// reads their sessions, whose rows are locked against MoveSession, not against Beat.
func (s claimSeed) sessionsStep(work []*request, alone bool) step {
	return step{
		sql: sessionsSQLs[alone],
		args: []any{
			column(work, func(w *request) pgtype.UUID { return uuidArg(w.Session) }),
			lockLeasing, leasingKeys(column(work, func(w *request) string { return w.Queue })),
		},
		scan: func(rows pgx.Rows) error {
			r := rowReader{vals: rows.RawValues()}
			id := r.uuid()
			s.live[id] = ledger.SessionState(r.int2()) == ledger.SessionLive
			return r.err
		},
	}
}

func (l *Ledger) newRequest(r *ledger.Claim) *request {
	w := &request{Claim: r, bytes: int64(r.MaxBytes)}
	if r.MaxBytes <= 0 {
		w.bytes = math.MaxInt64
	}
	if len(r.Refs) == 0 {
		w.gens, w.lows = map[laneKey]int64{}, map[laneKey]int64{}
		w.search(l, queueState{}.kindsOf(r.Queue, r.Kinds))
	}
	return w
}

// search sets the kinds to look for.
func (w *request) search(l *Ledger, kinds []string) {
	last := l.marks.lastClaimed(w.Queue)
	w.kinds, w.merge, w.room = kinds, len(kinds) > 1 || last.bulky, last.jobs
	if !w.SuspectsOnly {
		w.lanes = lanesIn(w.Queue, w.kinds)
	}
}

// claimAll runs the requests: the first round of those that search for given
// kinds together with what a claim begins with, for their statements see for
// themselves what they may not take; then suspects; then all that want more in one
// pipeline, and again those that found the first jobs in others' hands.
func (t *tx) claimAll(ctx context.Context, now time.Time, work []*request) (claimSeed, error) {
	seed := newClaimSeed()
	// Those behind a request that cannot go first might take what is its.
	first := work
	if i := slices.IndexFunc(work, func(w *request) bool { return len(w.lanes) == 0 && !w.SuspectsOnly }); i >= 0 {
		first = work[:i]
	}
	if slices.ContainsFunc(work, func(w *request) bool { return len(w.Refs) == 0 }) {
		leave, err := t.l.enterClaim(ctx)
		if err != nil {
			return seed, err
		}
		defer leave() // the commits overlap
	}
	// The lock on pausing comes in a statement before the settings are read, so that
	// a claim that SetPaused did not wait for sees what it set.
	t.lock = lockPausing
	if err := t.run(ctx, append(seed.seedSteps(work), t.l.claimSteps(now, first)...)...); err != nil {
		return seed, err
	}
	var able []*request
	for _, w := range work {
		if seed.live[w.Session] && !seed.paused[w.Queue] && w.Max > 0 {
			able = append(able, w)
		}
	}
	if err := t.claimSuspects(ctx, now, seed, able); err != nil {
		return seed, err
	}
	for range claimRounds {
		steps := t.l.claimSteps(now, able)
		if len(steps) == 0 {
			break
		}
		if err := t.run(ctx, steps...); err != nil {
			return seed, err
		}
	}
	for _, w := range able {
		w.sort()
		t.l.learn(w)
	}
	return seed, nil
}

// enterClaim waits for the claim of this process that is looking for rows: claims that
// look at the same moment would all walk over the rows that the others lock.
func (l *Ledger) enterClaim(ctx context.Context) (leave func(), err error) {
	select {
	case l.claiming <- struct{}{}:
		return func() { <-l.claiming }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// claimSuspects prepares the requests for the next round, and gives suspects to
// those that may have one.
func (t *tx) claimSuspects(ctx context.Context, now time.Time, seed claimSeed, work []*request) error {
	asked := map[job.ID]bool{}
	for _, w := range work {
		if len(w.Refs) == 0 && len(w.Kinds) == 0 {
			w.search(t.l, seed.kindsOf(w.Queue, nil))
		}
		if len(w.kinds) == 0 || !seed.suspects[w.Queue] {
			continue
		}
		w.limit, w.past = 0, true // its first round took nothing
		if !asked[w.Session] {
			took, err := t.claimSuspect(ctx, now, w)
			if err != nil {
				return err
			}
			asked[w.Session] = took
		}
	}
	return nil
}

// claimSteps is one round of the requests that want more, in their order. Those
// by name that follow one another share a statement.
func (l *Ledger) claimSteps(now time.Time, work []*request) []step {
	var steps []step
	var together *names
	flush := func() {
		if together != nil {
			steps = append(steps, together.step(now))
		}
		together = nil
	}
	for _, w := range work {
		switch {
		case !w.wantsMore():
		case len(w.Refs) > 0:
			if together == nil || !together.add(w) {
				flush()
				together = newNames(w)
			}
		default:
			flush()
			w.merge = w.merge && (w.limit == 0 || w.seen > 0)
			w.limit = w.Max - len(w.jobs) + max(w.limit-len(w.jobs), 0)
			steps = append(steps, l.claimStep(now, w, w.lanes))
		}
	}
	flush()
	return steps
}

// wantsMore reports whether another statement may find more: it is the first;
// or the last one merged lanes, saw as many jobs as it looked for and got fewer, or got
// none, for then it does not say what it saw. One that does not merge passes over
// what others hold.
func (w *request) wantsMore() bool {
	if len(w.Refs) > 0 {
		return w.places == nil
	}
	if len(w.lanes) == 0 || len(w.jobs) >= w.Max || w.bytes <= 0 || w.full {
		return false
	}
	return w.limit == 0 || w.merge && (w.seen == w.limit || len(w.jobs) == 0 && !w.few)
}

// claimSuspect takes at most one suspect for a session that holds none. The
// lock keeps two servers from doing so for one session at once.
func (t *tx) claimSuspect(ctx context.Context, now time.Time, w *request) (bool, error) {
	alone, holds := false, true
	key := int32(binary.BigEndian.Uint32(w.Session[12:]))
	err := t.run(ctx,
		step{sql: "SELECT pg_try_advisory_xact_lock($1, $2)", args: []any{lockSuspects, key},
			scan: func(r pgx.Rows) error { return r.Scan(&alone) }},
		step{sql: "SELECT EXISTS (SELECT FROM errand.job_row WHERE session = $1 AND state = 3 AND crashes > 0)",
			args: []any{uuidArg(w.Session)}, scan: func(r pgx.Rows) error { return r.Scan(&holds) }})
	if err != nil || !alone || holds {
		return holds, err
	}
	lanes := make([]laneKey, len(w.kinds))
	for i, kind := range w.kinds {
		lanes[i] = laneKey{w.Queue, kind, job.LaneSuspect}
	}
	w.limit = 1
	err = t.run(ctx, t.l.claimStep(now, w, lanes))
	w.limit = 0
	return len(w.jobs) > 0, err
}

// claimStep is one run of claimSQL over the lanes. Lanes of several kinds are
// merged, by a look at their first jobs before any is locked; those of one are locked as
// they come. Payloads that may be too large together are looked at as well.
func (l *Ledger) claimStep(now time.Time, w *request, lanes []laneKey) step {
	read := l.readLanes(w.Queue, lanes)
	for i, k := range lanes {
		if _, ok := w.gens[k]; !ok {
			w.gens[k], w.lows[k] = read.gens[i], read.lows[i]
		}
	}
	if !w.merge {
		read.distinct = []int16{}
	}
	w.seen = 0
	args := append(read.args(min(w.limit, w.Max*claimRounds), now), uuidArg(w.Session), w.Call,
		w.bytes, len(w.jobs) == 0, w.Max-len(w.jobs))
	if w.few {
		return step{sql: claimFewSQL, args: args, scan: func(rows pgx.Rows) error { return w.scanFew(rows, now) }}
	}
	args = append(args, w.past)
	return step{sql: claimSQL, args: args, scan: func(rows pgx.Rows) error { return w.scan(rows, now) }}
}

func (w *request) scan(rows pgx.Rows, now time.Time) error {
	r := rowReader{vals: rows.RawValues()}
	if w.seen, w.full = int(r.int8()), r.bool(); r.err != nil {
		return r.err
	}
	return w.scanJob(rows, 2, now)
}

// scanJob reads the row's job, after skip columns.
func (w *request) scanJob(rows pgx.Rows, skip int, now time.Time) error {
	if w.jobs == nil {
		w.jobs = make([]job.Job, 0, min(w.Max, w.room))
	}
	var err error
	if w.jobs, err = scanJob(w.jobs, rows, skip, &w.traces); err != nil {
		return err
	}
	j := &w.jobs[len(w.jobs)-1]
	j.Queue, j.State, j.Session, j.Call, j.LeasedAt = w.Queue, job.Running, w.Session, w.Call, coldsql.Time(now.UnixMicro())
	w.bytes -= int64(len(j.Payload))
	return nil
}

func (w *request) sort() {
	if w.places == nil {
		sortClaimed(w.jobs)
		return
	}
	slices.SortFunc(w.jobs, func(a, b job.Job) int {
		return cmp.Compare(w.places[lease{a.ID, a.Token - 1}], w.places[lease{b.ID, b.Token - 1}])
	})
}

// sortClaimed puts jobs into the order of a claim.
func sortClaimed(jobs []job.Job) {
	order := func(a, b job.Job) int { return cmp.Or(cmp.Compare(a.Lane, b.Lane), cmp.Compare(a.Seq, b.Seq)) }
	if !slices.IsSortedFunc(jobs, order) { // it mostly is, and jobs are large to move
		slices.SortFunc(jobs, order)
	}
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

// learn raises the marks of the lanes that a claim took from, before it has
// committed: the next claim of the process need not walk over its rows. If it does not
// commit, retreat takes that back. Jobs taken by name say nothing of those before them.
func (l *Ledger) learn(w *request) {
	if w.places != nil || len(w.jobs) == 0 {
		return
	}
	bytes, mixed := 0, false
	for i := range w.jobs {
		j := &w.jobs[i]
		bytes += len(j.Payload)
		mixed = mixed || !isPlain(j)
		k := laneKey{j.Queue, j.Kind, j.Lane}
		if i+1 < len(w.jobs) {
			if next := &w.jobs[i+1]; k == (laneKey{next.Queue, next.Kind, next.Lane}) {
				continue // in the order of the lane: only its last number counts
			}
		}
		l.marks.advance(k, w.gens[k], j.Seq)
	}
	bulky := w.full || bytes/len(w.jobs) > job.MaxBatchBytes/job.MaxBatch
	l.marks.setClaimed(w.Queue, claimedLast{jobs: len(w.jobs), bulky: bulky, mixed: mixed}, len(w.jobs) == w.Max)
}
