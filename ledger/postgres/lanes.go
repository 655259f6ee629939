package postgres

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// laneRows is where a lane's ready jobs are, behind its mark: w is a row of want. The
// numbers in blocks are read once for all lanes.
const laneRows = `FROM errand.job_row j WHERE j.queue = $1 AND j.kind = w.kind AND j.lane = w.lane AND j.state = 2
		AND j.seq > w.low AND (j.expires_at IS NULL OR j.expires_at > $7)
		AND (j.lane < 0 OR j.seq NOT IN (SELECT unnest(b.seqs) FROM (SELECT $1 AS queue, * FROM want) AS l ` + blocksBehind + `))`

// wantSQL is the head of a statement over lanes, up to a condition: want are the
// lanes ($2 to $4, as lanesRead.args has them).
const wantSQL = `want AS MATERIALIZED (
		SELECT * FROM unnest($2::text[], $3::smallint[], $4::bigint[]) WITH ORDINALITY AS u (kind, lane, low, i)`

// seenSQL is the part of a statement that reads, without locks, the first $6
// jobs of queue $1 in the order (lane, seq), merged over the kinds, lane number ($5) by
// lane number, so that it stops where it has enough: seen is the place in want,
// the seq and the columns of each job.
func seenSQL(columns string) string {
	return fmt.Sprintf(`seen AS MATERIALIZED (
		SELECT c.* FROM unnest($5::smallint[]) AS p (lane) CROSS JOIN LATERAL (
			SELECT w.i, r.* FROM want w CROSS JOIN LATERAL (
				SELECT j.seq, %s %s ORDER BY j.seq LIMIT $6) r
			WHERE w.lane = p.lane ORDER BY r.seq LIMIT $6) c
		LIMIT $6)`, columns, laneRows)
}

// lanesRead is one reading of lanes of a queue, each from its mark on.
type lanesRead struct {
	queue    string
	kinds    []string
	numbers  []int16
	distinct []int16 // of the numbers, in order
	lows     []int64
	gens     []int64 // of the marks
}

func (l *Ledger) readLanes(queue string, lanes []laneKey) *lanesRead {
	n := len(lanes)
	r := &lanesRead{queue: queue, kinds: make([]string, n), numbers: make([]int16, n), lows: make([]int64, n), gens: make([]int64, n)}
	for i, k := range lanes {
		r.kinds[i], r.numbers[i] = k.kind, int16(k.lane)
		r.lows[i], r.gens[i] = l.marks.start(k)
		if !slices.Contains(r.distinct, r.numbers[i]) {
			r.distinct = append(r.distinct, r.numbers[i])
		}
	}
	slices.Sort(r.distinct)
	return r
}

// args are the first seven arguments of a statement with seenSQL.
func (r *lanesRead) args(limit int, now time.Time) []any {
	return []any{r.queue, r.kinds, r.numbers, r.lows, r.distinct, limit, now.UnixMicro()}
}

// lanesIn returns the lanes of the kinds, but for that of suspects, the first first.
func lanesIn(queue string, kinds []string) []laneKey {
	lanes := make([]laneKey, 0, len(kinds)*int(job.LaneLast-job.LaneFront+1))
	for lane := job.LaneFront; lane <= job.LaneLast; lane++ {
		for _, kind := range kinds {
			lanes = append(lanes, laneKey{queue, kind, lane})
		}
	}
	return lanes
}

// markedLanes returns the lanes with marks that the requests may read.
func (l *Ledger) markedLanes(reqs []ledger.Head) []laneKey {
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

// queueState is what a reading of queues begins with.
type queueState struct {
	paused map[string]bool
	kinds  map[string][]string // with ready jobs, of queues asked for without kinds
}

func newQueueState() queueState {
	return queueState{paused: map[string]bool{}, kinds: map[string][]string{}}
}

// kindsOf returns the kinds that a request asks for, each once.
func (s queueState) kindsOf(queue string, asked []string) []string {
	if len(asked) == 0 {
		asked = s.kinds[queue]
	}
	return slices.Compact(slices.Sorted(slices.Values(asked)))
}

// pausedStep reads which of the queues are paused.
func (s queueState) pausedStep(queues []string) step {
	return textSet("SELECT name FROM errand.queue WHERE paused AND name = ANY ($1::text[])", queues, s.paused)
}

// kindsSteps read the kinds of the queues that are asked for without any.
func (s queueState) kindsSteps(reqs []ledger.Head) []step {
	var every []string
	for i := range reqs {
		if len(reqs[i].Kinds) == 0 && !slices.Contains(every, reqs[i].Queue) {
			every = append(every, reqs[i].Queue)
		}
	}
	if len(every) == 0 {
		return nil
	}
	return []step{{
		sql: `SELECT queue, kind FROM errand.counter WHERE queue = ANY ($1::text[]) AND state = 2
			GROUP BY queue, kind HAVING sum(n) > 0`,
		args: []any{every},
		scan: func(r pgx.Rows) error {
			var queue, kind string
			err := r.Scan(&queue, &kind)
			s.kinds[queue] = append(s.kinds[queue], kind)
			return err
		},
	}}
}

// textSet puts the texts that a statement returns into a set.
func textSet(sql string, arg []string, set map[string]bool) step {
	return step{sql: sql, args: []any{arg}, scan: func(r pgx.Rows) error {
		var s string
		err := r.Scan(&s)
		set[s] = true
		return err
	}}
}
