package postgres

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// A claim of many jobs leases them in blocks: it reads them, and stores a lease_block for
// each lane, with their numbers. To write to their rows would cost the server three times as
// much, and half of all of the log (docs/decisions/0011-postgres-leases.md).
//
// As no row is locked or changed by it, whoever decides by a row's being ready must
// know of all blocks:
//
//   - A claim of any kind and an Apply of ready jobs hold the leasing lock of their queue, shared, until
//     they have ended; a claim by blocks holds it alone. It is taken in a statement before the
//     one that looks, so that this one sees every block.
//   - A job leaves its block by a change of its row: state, lane and number no longer are those
//     of the block. The row then has the token of the lease, where before it had the one
//     before it: of a settle, which expects one of them, and a change, one finds nothing.
//   - A block is removed when no row is left in it.
//
// Only plain jobs are leased so: see isPlain.

// inBlock is the condition that b is the block in which the ready job of the row j is leased.
const inBlock = `b.queue = j.queue AND b.kind = j.kind AND b.lane = j.lane AND b.last_seq >= j.seq AND b.first_seq <= j.seq
	AND j.seq = ANY (b.seqs)`

// blocksBehind joins to lanes l the blocks b that have numbers behind l.low. Each lane's are
// looked up by themselves, so that those that have ended before are not met.
const blocksBehind = `CROSS JOIN LATERAL (SELECT seqs FROM errand.lease_block WHERE queue = l.queue AND kind = l.kind
	AND lane = l.lane AND last_seq > l.low OFFSET 0) AS b`

// blockRow reads a row of the ready job s.seq of the block b.
const blockRow = `FROM errand.job_row j WHERE j.queue = b.queue AND j.kind = b.kind AND j.lane = b.lane AND j.seq = s.seq AND j.state = 2`

// blockLives is the condition that a job is left in the block b.
const blockLives = `EXISTS (SELECT FROM unnest(b.seqs) AS s (seq) CROSS JOIN LATERAL (SELECT ` + blockRow + ` OFFSET 0) AS r)`

// The statements that read what a claim by blocks may take, of one kind and of several: nothing from
// a queue that has suspects.
var (
	readKindSQL = fmt.Sprintf(`WITH %s WHERE cardinality($5::smallint[]) > 0 AND %s)
		SELECT r.* FROM want w CROSS JOIN LATERAL (SELECT %s %s ORDER BY j.seq LIMIT $6) AS r LIMIT $6`,
		wantSQL, noSuspects, plainColumns, laneRows)
	readKindsSQL = fmt.Sprintf(`WITH %s WHERE %s), %s
		SELECT %s FROM errand.job_row j WHERE j.ctid = ANY (ARRAY (SELECT place FROM seen))`,
		wantSQL, noSuspects, seenSQL("j.ctid AS place"), plainColumns)
)

// plainPayload is the largest payload of a job that is leased in a block, in bytes, and blockJobs how
// many jobs a claim by blocks reads at the most: it has read all before it can know how many fit.
const (
	plainPayload = 16 << 10
	blockJobs    = 4 * job.MaxBatch
)

// plainColumns are whether the payload is too large, and those of a claimed job, without such a payload.
var plainColumns = fmt.Sprintf("octet_length(j.payload) > %d, %s", plainPayload,
	strings.Replace(claimedColumns("j."), "j.payload", fmt.Sprintf("CASE WHEN octet_length(j.payload) <= %d THEN j.payload END", plainPayload), 1))

// isPlain reports whether a ready job may be leased in a block. Jobs before the lanes of the priorities
// may come back to them with the number that they had; a unique key that ends with the lease
// takes a statement of its own; and those that expire are found by a look at their rows.
func isPlain(j *job.Job) bool {
	return j.Lane >= 0 && j.Crashes == 0 && j.ExpiresAt.IsZero() && (j.UniqueMode != job.WhileQueued || j.UniqueKey == "") &&
		len(j.Payload) <= plainPayload
}

// leasingKeys are the second keys of the leasing locks of queues, in the order in which
// everybody takes them. Some queues share one: the server has room for so many locks in all, some thousands.
func leasingKeys(queues []string) []int32 {
	keys := make([]int32, len(queues))
	for i, q := range queues {
		h := fnv.New32a()
		_, _ = h.Write([]byte(q)) // never fails
		keys[i] = int32(h.Sum32() % 1024)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// blocksExpected reports whether the requests, which are alike, may be served by blocks: the
// queue's last claim got many jobs, and plain ones.
func (l *Ledger) blocksExpected(reqs []ledger.Claim) bool {
	last, searching := l.expected(reqs)
	return searching && last.jobs > l.few && !last.bulky && !last.mixed && time.Now().After(last.locked.Add(lockedPause))
}

// blockClaim is a claim by blocks under way, for requests that are alike.
type blockClaim struct {
	now   time.Time
	work  []*request
	seed  claimSeed
	jobs  []job.Job // what may be taken, in the order
	large map[job.ID]bool
	mixed bool // what comes behind them is not plain
	cut   bool // or there are more than are read at once
	took  []*taken
	ended []*block // to remove
}

// taken is what one request gets of one lane.
type taken struct {
	block
	lane laneKey
	w    *request
	jobs []*job.Job
}

// claimBlocks serves requests that are alike. It takes nothing, and reports false, where the queue has
// suspects, or a job that is not plain is among those that it would give.
func (l *Ledger) claimBlocks(ctx context.Context, now time.Time, reqs []ledger.Claim) (answers []ledger.Claimed, served bool, err error) {
	ended := l.leases.takeEnded()
	var c *blockClaim
	err = l.inTx(ctx, "claim", func(t *tx) (err error) {
		c = &blockClaim{now: now, seed: newClaimSeed(), ended: ended, large: map[job.ID]bool{}}
		for i := range reqs {
			c.work = append(c.work, l.newRequest(&reqs[i]))
		}
		leave, err := l.enterClaim(ctx) // behind the connection, as all claims do
		if err != nil {
			return err
		}
		defer leave() // once it has committed, and the marks are raised
		if served, err = t.claimBlocks(ctx, c); served && err == nil {
			l.remember(c)
		}
		return err
	})
	if sqlState(err) == stateLockTimeout {
		served, err = false, nil // a process that has stopped holds the lock: rows can be had beside it
		l.marks.setLocked(reqs[0].Queue)
	}
	if err != nil || !served || len(c.took) == 0 {
		l.leases.giveBack(ended)
	}
	if err != nil || !served {
		return nil, false, err
	}
	answers = make([]ledger.Claimed, len(reqs))
	var got claimedLast
	all := true
	for i, w := range c.work {
		got.jobs += len(w.jobs)
		got.bulky = got.bulky || w.cut()
		all = all && len(w.jobs) == w.Max
		answers[i].Jobs, answers[i].More = w.jobs, w.full || c.cut
		if !c.seed.live[w.Session] {
			answers[i].Err = job.ErrSessionLost
		}
	}
	if got.jobs > 0 {
		l.marks.setClaimed(reqs[0].Queue, got, all)
	}
	return answers, true, nil
}

// remember takes in what was committed.
func (l *Ledger) remember(c *blockClaim) {
	for _, p := range c.took {
		p.left = len(p.jobs)
		l.leases.add(&p.block, p.jobs)
		l.marks.advance(p.lane, c.work[0].gens[p.lane], p.jobs[len(p.jobs)-1].Seq)
	}
}

// blockPatience makes a claim by blocks wait no longer than that for the leasing lock, and the server end it if its process
// stops while it holds it, between two statements or while it is to read an answer: nobody else gets jobs of the queue then.
var blockPatience = step{sql: `SELECT set_config('lock_timeout', '200ms', true), set_config('idle_in_transaction_session_timeout', '2s', true),
	set_config('tcp_user_timeout', '2s', true)`}

// lockedPause is for how long a queue whose lock was not to be had in time is read by rows at once.
const lockedPause = time.Second

// claimBlocks is one try, in two round trips: the jobs are read, and then leased, under
// the queue's leasing lock.
func (t *tx) claimBlocks(ctx context.Context, c *blockClaim) (served bool, err error) {
	first := c.work[0]
	read, want := t.l.readLanes(first.Queue, first.lanes), 0
	for i, k := range first.lanes {
		first.gens[k] = read.gens[i]
	}
	for _, w := range c.work {
		want += w.Max
	}
	want = min(want, blockJobs)
	sql := readKindSQL
	if len(first.kinds) > 1 {
		sql = readKindsSQL
	}
	c.jobs = make([]job.Job, 0, min(want, first.room))
	t.lock = lockPausing
	err = t.run(ctx, blockPatience, c.seed.sessionsStep(c.work, true), c.seed.pausedStep([]string{first.Queue}), c.seed.suspectsStep([]string{first.Queue}),
		step{sql: sql, args: read.args(want, c.now), scan: func(rows pgx.Rows) (err error) {
			large := rows.RawValues()[0]
			if c.jobs, err = scanJob(c.jobs, rows, 1, &first.traces); err == nil && len(large) == 1 && large[0] != 0 {
				c.large[c.jobs[len(c.jobs)-1].ID] = true
			}
			return err
		}})
	switch {
	case err != nil:
		return false, err
	case c.seed.paused[first.Queue]:
		return true, nil
	case c.seed.suspects[first.Queue]:
		return false, nil
	}
	if len(first.kinds) > 1 {
		sortClaimed(c.jobs)
	}
	c.cut = len(c.jobs) == blockJobs
	for i := range c.jobs {
		if j := &c.jobs[i]; !isPlain(j) || c.large[j.ID] {
			c.jobs, c.mixed = c.jobs[:i], true
			break
		}
	}
	if all := c.deal(); c.mixed && !all {
		return false, nil
	}
	if len(c.took) == 0 {
		return true, nil
	}
	return true, t.commit(ctx, c.steps()...)
}

// deal gives the jobs to the requests, one after the other as much as it may have, and reports whether
// all of them got that.
func (c *blockClaim) deal() (all bool) {
	left, all := c.jobs, true
	for _, w := range c.work {
		if !c.seed.live[w.Session] {
			continue
		}
		n := 0
		for n < min(len(left), w.Max) && !w.full {
			if size := int64(len(left[n].Payload)); size <= w.bytes || n == 0 {
				w.bytes -= size
				n++
			} else {
				w.full = true
			}
		}
		all = all && (n == w.Max || w.full)
		w.jobs, left = left[:n:n], left[n:]
		lanes := map[laneKey]*taken{}
		for i := range w.jobs {
			j := &w.jobs[i]
			j.Queue, j.State, j.Session, j.Call, j.LeasedAt = w.Queue, job.Running, w.Session, w.Call, coldsql.Time(c.now.UnixMicro())
			j.Token, j.Version, j.Attempt = j.Token+1, j.Version+1, j.Attempt+1
			k := laneKey{j.Queue, j.Kind, j.Lane}
			p := lanes[k]
			if p == nil {
				p = &taken{block: block{leasedAt: c.now.UnixMicro()}, lane: k, w: w}
				lanes[k] = p
				c.took = append(c.took, p)
			}
			p.jobs = append(p.jobs, j)
		}
	}
	return all
}

// steps store the blocks and the counters, and remove blocks that have ended.
func (c *blockClaim) steps() []step {
	steps := make([]step, 0, len(c.took)+2)
	d := deltas{}
	for _, p := range c.took {
		seqs := column(p.jobs, func(j *job.Job) int64 { return j.Seq })
		steps = append(steps, step{
			sql: `INSERT INTO errand.lease_block (queue, kind, lane, first_seq, last_seq, session, call, leased_at, seqs)
				VALUES ($1, $2, $3, $4, $5, $6, nullif($7::bigint, 0), $8, $9) RETURNING id`,
			args: []any{p.lane.queue, p.lane.kind, int16(p.lane.lane), seqs[0], seqs[len(seqs)-1], uuidArg(p.w.Session), p.w.Call, c.now.UnixMicro(), seqs},
			scan: func(r pgx.Rows) error { return r.Scan(&p.id) },
		})
		n := int64(len(p.jobs))
		d[counterKey{queue: p.lane.queue, kind: p.lane.kind, state: job.Ready}] -= n
		d[counterKey{queue: p.lane.queue, kind: p.lane.kind, state: job.Running}] += n
	}
	if len(c.ended) > 0 {
		// Known by its time as well: after a fail-over that lost the last of it, the server gives numbers out again. Upkeep gets
		// those that somebody has locked.
		steps = append(steps, step{
			sql: `DELETE FROM errand.lease_block WHERE ctid = ANY (ARRAY (
				SELECT h.place FROM unnest($1::bigint[], $2::bigint[]) AS u (id, at) CROSS JOIN LATERAL (
					SELECT b.ctid AS place FROM errand.lease_block b WHERE b.id = u.id AND b.leased_at = u.at FOR UPDATE SKIP LOCKED) AS h))`,
			args: []any{column(c.ended, func(b *block) int64 { return b.id }), column(c.ended, func(b *block) int64 { return b.leasedAt })},
		})
	}
	return append(steps, d.steps()...)
}

// adoptSQL reads, by id and token, those jobs that are leased in blocks.
var adoptSQL = fmt.Sprintf(`SELECT u.i, h.* FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS u (id, token, i)
	CROSS JOIN LATERAL (SELECT j.queue, j.kind, j.priority, j.attempt + 1, j.max_attempts, j.crashes, j.version + 2, j.created_at, j.run_at, b.leased_at
		FROM errand.job_row j JOIN errand.lease_block b ON %s
		WHERE j.id = u.id AND j.token = u.token - 1 AND j.state + 0 = %d LIMIT 1) AS h`, inBlock, job.Ready)

// adopt returns what the success of those items will answer that other processes leased in blocks.
func (l *Ledger) adopt(ctx context.Context, items []ledger.Success) (were []ledger.Succeeded, err error) {
	names := sameNames{}
	err = l.inTx(ctx, "look for leases", func(t *tx) error {
		were = make([]ledger.Succeeded, len(items))
		ids, tokens := successKeys(items)
		return t.end(ctx, step{sql: adoptSQL, args: []any{ids, tokens}, scan: func(rows pgx.Rows) error {
			r := rowReader{vals: rows.RawValues()}
			i := r.int8()
			were[i-1] = r.succeeded(names)
			return r.err
		}})
	})
	return were, err
}

// blockOfSQL finds the blocks of ready jobs by lane and number.
const blockOfSQL = `SELECT j.i, h.session, coalesce(h.call, 0), h.leased_at
	FROM unnest($1::text[], $2::text[], $3::smallint[], $4::bigint[]) WITH ORDINALITY AS j (queue, kind, lane, seq, i)
	CROSS JOIN LATERAL (SELECT b.session, b.call, b.leased_at FROM errand.lease_block b WHERE ` + inBlock + ` LIMIT 1) AS h`

// showLeases makes of locked jobs whose rows are ready what they are, if they are leased
// in blocks, and sees to it that none is until the transaction ends. It waits for a claim by blocks that is under way, for
// some milliseconds, and if its process has stopped for two seconds.
func (t *tx) showLeases(ctx context.Context, rows []*picked) error {
	var ready []*job.Job
	for _, p := range rows {
		if p.err == nil && p.place == liveTable && p.before.State == job.Ready && p.before.Lane >= 0 {
			ready = append(ready, &p.before)
		}
	}
	if len(ready) == 0 {
		return nil
	}
	queues := column(ready, func(j *job.Job) string { return j.Queue })
	return t.run(ctx,
		step{sql: "SELECT pg_advisory_xact_lock_shared($1, k) FROM unnest($2::integer[]) AS u (k)", args: []any{lockLeasing, leasingKeys(queues)}},
		step{
			sql: blockOfSQL,
			args: []any{
				queues,
				column(ready, func(j *job.Job) string { return j.Kind }),
				column(ready, func(j *job.Job) int16 { return int16(j.Lane) }),
				column(ready, func(j *job.Job) int64 { return j.Seq }),
			},
			scan: func(rows pgx.Rows) error {
				r := rowReader{vals: rows.RawValues()}
				j := ready[r.int8()-1]
				j.Session, j.Call, j.LeasedAt = r.uuid(), r.int8(), r.time()
				j.State, j.Token, j.Version, j.Attempt = job.Running, j.Token+1, j.Version+1, j.Attempt+1
				return r.err
			},
		})
}

// pickHeldSQL locks jobs in the blocks of sessions, and reads them as they are.
func pickHeldSQL(sessions string) string {
	list := slices.Clone(coldsql.Columns)
	for i, c := range list {
		switch c {
		case "state":
			list[i] = fmt.Sprintf("%d::smallint", job.Running)
		case "token", "version", "attempt":
			list[i] = "j." + c + " + 1"
		case "session", "call", "leased_at":
			list[i] = "h." + c
		default:
			list[i] = "j." + c
		}
	}
	return fmt.Sprintf(`WITH held AS MATERIALIZED (
			SELECT r.place, r.size, b.session, b.call, b.leased_at FROM errand.lease_block b
			CROSS JOIN LATERAL unnest(b.seqs) AS s (seq)
			CROSS JOIN LATERAL (SELECT j.ctid AS place, %s %s FOR UPDATE SKIP LOCKED) AS r
			WHERE b.session = ANY (ARRAY (%s)) LIMIT $1),
		fits AS MATERIALIZED (
			SELECT * FROM (SELECT h.*, sum(h.size) OVER (ROWS UNBOUNDED PRECEDING) - h.size AS before FROM held h) AS o
			WHERE before < $2)
		SELECT %s FROM fits h JOIN errand.job_row j ON j.ctid = h.place`, payloadSize, blockRow, sessions, strings.Join(list, ", "))
}

// blockAge is how old a block is before upkeep looks whether a job is left in it: till then the process
// that made it will do.
const blockAge = 10 * time.Second

// removeBlocks removes blocks of which no job is left: those that a dead process left, and those whose last
// job was not ended by the process that leased it.
func (l *Ledger) removeBlocks(ctx context.Context, now time.Time) error {
	_, err := l.inSteps(ctx, "remove blocks", removeStep, `WITH gone AS (
			DELETE FROM errand.lease_block WHERE ctid = ANY (ARRAY (
				SELECT b.ctid FROM errand.lease_block b WHERE b.leased_at < $1 AND NOT `+blockLives+` LIMIT $2 FOR UPDATE SKIP LOCKED))
			RETURNING 1)
		SELECT count(*) FROM gone`, now.Add(-blockAge).UnixMicro(), removeStep)
	return err
}

func successKeys(items []ledger.Success) (ids []pgtype.UUID, tokens []int64) {
	ids, tokens = make([]pgtype.UUID, len(items)), make([]int64, len(items))
	for i := range items {
		ids[i], tokens[i] = uuidArg(items[i].ID), items[i].Token
	}
	return ids, tokens
}
