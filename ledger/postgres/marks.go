package postgres

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/job"
)

// A lane's ready jobs are taken in the order of seq, so the front of the ready
// index is made of entries of jobs that have left. While anybody's old
// transaction keeps vacuum from removing them, a claim that starts at the front walks
// over all of them. So each process remembers per lane a mark, at or below which it
// believes nothing is ready, and starts behind it.
//
// The mark may be wrong in three cases: an insert drew its number, and committed
// after a later number was claimed; a claim skipped a row because another
// claim held it, which then rolled back; a row was passed over as expired by
// a clock. A rescan, part of a claim or of Heads every rescanEvery, and in part of each Pulse, reads from the floor on without locks, and
// pulls the mark back to the first row that looks ready. The floor is the point below which
// no transaction can put a row any more:
//
//   - Whoever draws numbers first takes a shared advisory lock, and holds it
//     until its transaction has ended (and, as PostgreSQL releases locks after
//     that, until what it wrote can be seen).
//   - A sample reads the last number drawn, and then who holds the lock. When all
//     those have let go, everything up to that number has come to rest, so what
//     a rescan then does not see will never be there.
//
// The user's own long transactions play no part in it: enqueue_v1 draws no
// numbers, and stores jobs as scheduled. Lanes before the priorities have no
// mark, for jobs return to them with the numbers that they had.

// rescanEvery is half of the half second in which a late row must be found.
const rescanEvery = 200 * time.Millisecond

// maxMarks bounds the marks of a process. Beyond it all are forgotten, which
// costs one slow claim a lane.
const maxMarks = 50_000

// laneKey names a lane of ready jobs.
type laneKey struct {
	queue, kind string
	lane        job.Lane
}

// mark is what a process knows of a lane.
type mark struct {
	low   int64 // claims start behind it
	floor int64 // nothing at or below it is or becomes ready
	gen   int64 // raised when low is pulled back
	seen  time.Time
}

// marks are the marks of a process. Zero marks are right, and slow.
type marks struct {
	mu      sync.Mutex
	lanes   map[laneKey]*mark
	claimed map[string]claimedLast // by queue
	settled int64                  // everything up to it has come to rest
	samples []sample               // older than that, oldest first
	sampled time.Time

	rescan sync.Mutex // held by the one that rescans
}

// sample is the last number drawn at a moment, and who may still be writing.
type sample struct {
	last    int64
	writers []string
}

// claimedLast is what is remembered of a queue's last claim that got jobs.
type claimedLast struct {
	jobs  int
	bulky bool // its payloads were such that a batch may not hold its number of them
	mixed bool // not all of them were plain: see isPlain

	locked time.Time // monotonic: when a claim by blocks last waited in vain for the queue's lock
}

func newMarks() *marks {
	return &marks{lanes: map[laneKey]*mark{}, claimed: map[string]claimedLast{}}
}

// start returns where a claim of the lane starts, and the mark's generation.
func (m *marks) start(k laneKey) (low, gen int64) {
	if k.lane < 0 {
		return 0, 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := m.lanes[k]; v != nil {
		return v.low, v.gen
	}
	if len(m.lanes) >= maxMarks {
		clear(m.lanes)
		clear(m.claimed)
	}
	m.lanes[k] = &mark{}
	return 0, 0
}

// advance raises the mark for a claim that took the lane's jobs up to seq. A
// mark that was pulled back since the claim began stays.
func (m *marks) advance(k laneKey, gen, seq int64) {
	if k.lane < 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := m.lanes[k]; v != nil && v.gen == gen {
		v.low = max(v.low, seq)
	}
}

func (m *marks) lastClaimed(queue string) claimedLast {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.claimed[queue]
}

// setClaimed remembers what a claim got. One that got all it asked for does not show that there are
// fewer jobs than there were.
func (m *marks) setClaimed(queue string, c claimedLast, all bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.claimed[queue]
	if all {
		c.jobs = max(c.jobs, was.jobs)
	}
	c.locked = was.locked
	m.claimed[queue] = c
}

// setLocked remembers that the queue's lock was not to be had in time.
func (m *marks) setLocked(queue string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.claimed[queue]
	c.locked = time.Now()
	m.claimed[queue] = c
}

// retreat pulls the marks back to where claims began that did not commit.
func (m *marks) retreat(work []*request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range work {
		for k, low := range w.lows {
			if v := m.lanes[k]; v != nil && v.low > low {
				v.low = low
				v.gen++
			}
		}
	}
}

// due returns those of the lanes that have not been rescanned lately, each with
// the range to read.
func (m *marks) due(keys []laneKey, now time.Time) (due []laneKey, from, to []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range keys {
		v := m.lanes[k]
		if v == nil || now.Sub(v.seen) < rescanEvery {
			continue
		}
		due, from, to = append(due, k), append(from, v.floor), append(to, max(v.low, m.settled))
	}
	return due, from, to
}

// scanned takes what a rescan of (from, to] saw: the first number that is
// ready, or 0. settled is what had come to rest before the rescan read. It reports
// whether it pulled the mark back.
func (m *marks) scanned(k laneKey, first, to, settled int64, now time.Time) (back bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.lanes[k]
	if v == nil {
		return false
	}
	v.seen = now
	if first == 0 {
		v.floor = max(v.floor, settled)
		v.low = max(v.low, to)
		return false
	}
	v.floor = max(v.floor, min(first-1, settled))
	if back = first-1 < v.low; back {
		v.gen++
	}
	v.low = first - 1
	return back
}

// floors returns the floors of lanes, 0 for those that have none.
func (m *marks) floors(keys []laneKey) []int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	floors := make([]int64, len(keys))
	for i, k := range keys {
		if v := m.lanes[k]; v != nil && k.lane >= 0 {
			floors[i] = v.floor
		}
	}
	return floors
}

// bare takes that lanes but some had nothing ready beyond their floors, when all up to
// settled had come to rest before.
func (m *marks) bare(keys []laneKey, some []bool, settled int64, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, k := range keys {
		v := m.lanes[k]
		if some[i] || k.lane < 0 || v == nil && len(m.lanes) >= maxMarks {
			continue
		}
		if v == nil {
			v = &mark{}
			m.lanes[k] = v
		}
		v.floor, v.seen = max(v.floor, settled), now
		v.low = max(v.low, v.floor)
	}
}

// take adds a sample and returns what has come to rest. writers are those who
// hold the lock now.
func (m *marks) take(s sample, now time.Time) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sampled = now
	m.samples = append(m.samples, s)
	for len(m.samples) > 0 {
		waiting := func(w string) bool { return slices.Contains(s.writers, w) }
		if slices.ContainsFunc(m.samples[0].writers, waiting) {
			break
		}
		m.settled = max(m.settled, m.samples[0].last)
		m.samples = m.samples[1:]
	}
	if len(m.samples) > 64 { // a frozen writer: keep the oldest, which comes to rest first
		m.samples = slices.Delete(m.samples, 1, 33)
	}
	return m.settled
}

// rescanPatience bounds a rescan that no caller waits for.
const rescanPatience = 10 * time.Second

// rescanBeside starts a rescan if one is due, and does not hold the caller up: one
// that has found jobs need not wait for it. Whoever found none does, by calling
// wait, which reports whether a mark was pulled back, so that another look may find some.
func (l *Ledger) rescanBeside(ctx context.Context, now time.Time, keys []laneKey) (wait func() (bool, error)) {
	if due, _, _ := l.marks.due(keys, time.Now()); len(due) == 0 {
		return func() (bool, error) { return false, nil }
	}
	var back bool
	var err error
	done := make(chan struct{})
	l.rescans.Go(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rescanPatience)
		defer cancel()
		back, err = l.rescanLanes(ctx, now, keys)
	})
	return func() (bool, error) {
		select {
		case <-done:
			return back, err
		case <-ctx.Done():
			return false, wrap("rescan", ctx.Err())
		}
	}
}

// rescanLanes brings the marks of the lanes up to date where that is due, and
// reports whether it pulled one back. One call of the process does it at a time; the others go on
// with what is known.
func (l *Ledger) rescanLanes(ctx context.Context, now time.Time, keys []laneKey) (back bool, err error) {
	clock := time.Now() // monotonic: paces the rescans, decides nothing
	if due, _, _ := l.marks.due(keys, clock); len(due) == 0 || !l.marks.rescan.TryLock() {
		return false, nil
	}
	defer l.marks.rescan.Unlock()
	if err := l.sampleWriters(ctx, clock); err != nil {
		return false, err
	}
	l.marks.mu.Lock()
	settled := l.marks.settled
	l.marks.mu.Unlock()
	due, from, to := l.marks.due(keys, clock)
	first, err := l.firstReady(ctx, now, due, from, to)
	if err != nil {
		return false, err
	}
	for i, k := range due {
		back = l.marks.scanned(k, first[i], to[i], settled, clock) || back
	}
	return back, nil
}

// sampleSteps read the last number drawn and then, in a statement of its
// own, who holds the lock: the other order would miss a writer that comes between.
func sampleSteps(s *sample) []step {
	return []step{
		{
			sql:  "SELECT CASE WHEN is_called THEN last_value + $1 ELSE 0 END FROM errand.seq",
			args: []any{int64(seqBlock - 1)},
			scan: func(r pgx.Rows) error { return r.Scan(&s.last) },
		},
		{
			sql: `SELECT virtualtransaction FROM pg_locks WHERE locktype = 'advisory' AND granted
				AND classid::bigint = $1 AND objid::bigint = $2 AND objsubid = 2
				AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
			args: []any{int64(lockClass), int64(lockWriting)},
			scan: func(r pgx.Rows) error {
				var v string
				err := r.Scan(&v)
				s.writers = append(s.writers, v)
				return err
			},
		},
	}
}

func (l *Ledger) sampleWriters(ctx context.Context, clock time.Time) error {
	var s sample
	err := l.inTx(ctx, "sample writers", func(t *tx) error {
		s = sample{}
		return t.end(ctx, sampleSteps(&s)...)
	})
	if err != nil {
		return err
	}
	l.marks.take(s, clock)
	return nil
}

// firstReadySQL finds the first job that looks ready in each range. It sees
// through the locks of claims under way.
const firstReadySQL = `SELECT u.n, coalesce((SELECT j.seq FROM errand.job_row j
		WHERE j.queue = u.queue AND j.kind = u.kind AND j.lane = u.lane AND j.state = 2
		AND j.seq > u.low AND j.seq <= u.high AND (j.expires_at IS NULL OR j.expires_at > $6)
		AND (j.lane < 0 OR j.seq NOT IN (SELECT unnest(b.seqs) FROM unnest($1::text[], $2::text[], $3::smallint[], $4::bigint[])
			AS l (queue, kind, lane, low) ` + blocksBehind + `))
		ORDER BY j.seq LIMIT 1), 0)
	FROM unnest($1::text[], $2::text[], $3::smallint[], $4::bigint[], $5::bigint[])
		WITH ORDINALITY AS u (queue, kind, lane, low, high, n)`

func (l *Ledger) firstReady(ctx context.Context, now time.Time, keys []laneKey, from, to []int64) ([]int64, error) {
	queues, kinds, lanes := make([]string, len(keys)), make([]string, len(keys)), make([]int16, len(keys))
	for i, k := range keys {
		queues[i], kinds[i], lanes[i] = k.queue, k.kind, int16(k.lane)
	}
	first := make([]int64, len(keys))
	if slices.Equal(from, to) {
		return first, nil // all has come to rest: the ranges are empty
	}
	err := l.inTx(ctx, "rescan", func(t *tx) error {
		return t.end(ctx, step{
			sql:  firstReadySQL,
			args: []any{queues, kinds, lanes, from, to, now.UnixMicro()},
			scan: func(rows pgx.Rows) error {
				r := rowReader{vals: rows.RawValues()}
				n := r.int8()
				first[n-1] = r.int8()
				return r.err
			},
		})
	})
	return first, err
}
