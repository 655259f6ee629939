package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// pulseSQL looks for what it is asked for: see ledger.Ask. What it is not asked
// for is not looked for. The first and the last of its columns are the clock
// before and after the look.
const pulseSQL = `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
	CASE WHEN $1 THEN EXISTS (SELECT FROM errand.job_row WHERE state = 1 AND run_at <= $2)
		OR EXISTS (SELECT FROM errand.job_row WHERE state < 3 AND expires_at IS NOT NULL AND expires_at <= $2) ELSE false END,
	CASE WHEN $3 THEN EXISTS (SELECT FROM errand.job_row j WHERE j.state = 3
		AND NOT EXISTS (SELECT FROM errand.session s WHERE s.id = j.session AND s.state IN (1, 2)))
		OR EXISTS (SELECT FROM (SELECT * FROM errand.lease_block o
			WHERE NOT EXISTS (SELECT FROM errand.session s WHERE s.id = o.session AND s.state IN (1, 2)) OFFSET 0) AS b WHERE ` + blockLives + `) ELSE false END,
	CASE WHEN $4 THEN EXISTS (SELECT FROM errand.job_row WHERE state = 3 AND cancel_requested) ELSE false END,
	(extract(epoch FROM clock_timestamp()) * 1000000)::bigint`

// anyReadySQL finds which lanes have ready jobs, from their floors on: expired ones too, for
// by another clock they are not, and a floor above them would hide them for good.
const anyReadySQL = `SELECT u.n FROM unnest($1::text[], $2::text[], $3::smallint[], $4::bigint[])
		WITH ORDINALITY AS u (queue, kind, lane, low, n)
	WHERE EXISTS (SELECT FROM errand.job_row j WHERE j.queue = u.queue AND j.kind = u.kind AND j.lane = u.lane AND j.state = 2
		AND j.seq > u.low
		AND (j.lane < 0 OR j.seq NOT IN (SELECT unnest(b.seqs) FROM unnest($1::text[], $2::text[], $3::smallint[], $4::bigint[])
			AS l (queue, kind, lane, low) ` + blocksBehind + `)))`

// Pulse implements ledger.Ledger: one transaction, in one round trip. Where
// kinds are named it begins at the floors, at or below which nothing is ready, whoever
// commits late, and raises those of the lanes that have nothing, as a rescan does: nobody
// else does while nothing is claimed.
func (l *Ledger) Pulse(ctx context.Context, now time.Time, ask ledger.Ask) (ledger.Pulse, error) {
	lanes, every := lanesAsked(ask.Queues)
	clock := time.Now()
	rescans := len(lanes) > 0 && l.marks.rescan.TryLock() // samples are taken one after the other
	if rescans {
		defer l.marks.rescan.Unlock()
	}
	var p ledger.Pulse
	var s sample
	var some []bool
	err := l.inTx(ctx, "pulse", func(t *tx) error {
		p, s, some = ledger.Pulse{}, sample{}, make([]bool, len(lanes))
		steps := []step{{
			sql:  pulseSQL,
			args: []any{ask.Due, now.UnixMicro(), ask.Orphans, ask.Cancels},
			scan: func(r pgx.Rows) error {
				var from, to int64
				err := r.Scan(&from, &p.Due, &p.Orphans, &p.Cancels, &to)
				p.Now = coldsql.Time(from + (to-from)/2)
				return err
			},
		}}
		if len(every) > 0 {
			steps = append(steps, step{
				sql:  "SELECT queue FROM errand.counter WHERE state = 2 AND queue = ANY ($1::text[]) GROUP BY queue HAVING sum(n) > 0",
				args: []any{every},
				scan: func(r pgx.Rows) error {
					var queue string
					err := r.Scan(&queue)
					p.Ready = append(p.Ready, queue)
					return err
				},
			})
		}
		if rescans {
			steps = append(steps, sampleSteps(&s)...) // before the look: what has come to rest by then, it sees
		}
		if len(lanes) > 0 {
			steps = append(steps, l.anyReadyStep(lanes, some))
		}
		return t.end(ctx, steps...)
	})
	if err != nil {
		return ledger.Pulse{}, err
	}
	if rescans {
		l.marks.bare(lanes, some, l.marks.take(s, clock), clock)
	}
	for i, k := range lanes {
		if some[i] && !slices.Contains(p.Ready, k.queue) {
			p.Ready = append(p.Ready, k.queue)
		}
	}
	return p, nil
}

// maxPulseLanes bounds the lanes that a pulse looks at. One Lease call may name a million
// pairs of queue and kind, and the marks of claims have to keep their room.
const maxPulseLanes = 10_000

// lanesAsked returns the lanes of the kinds that are named, each once, and the queues that are
// asked for without any, or for which there is no room.
func lanesAsked(heads []ledger.Head) (lanes []laneKey, every []string) {
	seen := map[laneKey]bool{}
	for _, h := range heads {
		if n := len(h.Kinds) * int(job.LaneLast-job.LaneSuspect+1); n == 0 || len(lanes)+n > maxPulseLanes {
			every = append(every, h.Queue)
			continue
		}
		for _, kind := range h.Kinds {
			for lane := job.LaneSuspect; lane <= job.LaneLast; lane++ {
				if k := (laneKey{h.Queue, kind, lane}); !seen[k] {
					seen[k] = true
					lanes = append(lanes, k)
				}
			}
		}
	}
	return lanes, every
}

func (l *Ledger) anyReadyStep(keys []laneKey, some []bool) step {
	queues, kinds, lanes := make([]string, len(keys)), make([]string, len(keys)), make([]int16, len(keys))
	for i, k := range keys {
		queues[i], kinds[i], lanes[i] = k.queue, k.kind, int16(k.lane)
	}
	return step{
		sql:  anyReadySQL,
		args: []any{queues, kinds, lanes, l.marks.floors(keys)},
		scan: func(rows pgx.Rows) error {
			r := rowReader{vals: rows.RawValues()}
			n := r.int8()
			some[n-1] = true
			return r.err
		},
	}
}
