package sqlite

import (
	"context"
	"database/sql/driver"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// Succeed implements ledger.Jobs.
func (l *Ledger) Succeed(ctx context.Context, now time.Time, items []ledger.Success) ([]ledger.Succeeded, error) {
	if len(items) == 0 {
		return nil, nil
	}
	var done []ledger.Succeeded
	err := l.w.do(ctx, "succeed", len(items), func(t *tx) error {
		s := &success{tx: t, now: now, items: items, done: make([]ledger.Succeeded, len(items)), seen: make(map[job.ID]bool, len(items))}
		done = s.done
		return chunks(len(items), s.chunk)
	})
	if err != nil {
		return nil, err
	}
	return done, nil
}

// success is one Succeed under way.
type success struct {
	*tx
	now   time.Time
	items []ledger.Success
	done  []ledger.Succeeded
	seen  map[job.ID]bool // settled by an earlier item of the call
}

// settled is a job that a chunk settles.
type settled struct {
	lease
	item int
}

const succeedFind = `SELECT v.column1, j.rid, j.queue, j.kind, j.unique_key, j.unique_mode,
	j.attempt + (b.block IS NOT NULL), j.version + (b.block IS NOT NULL), j.created_at, j.run_at, coalesce(b.leased_at, j.leased_at),
	j.priority, j.max_attempts, j.crashes
	FROM (VALUES %s) AS v CROSS JOIN job_row AS j ON j.id = v.column2
	LEFT JOIN lease AS l ON l.rid = j.rid LEFT JOIN lease_block AS b ON b.block = l.block
	WHERE (b.block IS NOT NULL OR j.state = 3) AND j.token + (b.block IS NOT NULL) = v.column3`

// succeedCopy is job.Rules.Settle for event Succeed, from live to archive: what
// it changes is written out, everything else is copied. Of a job that is leased beside its
// row it takes the lease into account: columns 4 and 5 are 1 and the time of the lease, else 0 and NULL.
var succeedCopy = func() string {
	changed := map[string]string{
		"state": "4", "version": "j.version + v.column4 + 1", "attempt": "j.attempt + v.column4", "token": "j.token + v.column4",
		"leased_at": "coalesce(v.column5, j.leased_at)", "session": "NULL", "call": "NULL", "cancel_requested": "0",
		"reason": "NULL", "settled_token": "j.token + v.column4", "settled_as": "3", "result": "v.column2", "done_at": "v.column3",
	}
	from := make([]string, len(coldsql.Columns))
	for i, c := range coldsql.Columns {
		if from[i] = changed[c]; from[i] == "" {
			from[i] = "j." + c
		}
	}
	return " (" + coldsql.ColumnList + ") SELECT " + strings.Join(from, ", ") +
		" FROM (VALUES %s) AS v CROSS JOIN job_row AS j ON j.rid = v.column1"
}()

func (s *success) chunk(from, to int) error {
	found, err := s.leased(from, to)
	if err != nil || len(found) == 0 {
		return err
	}
	slice, err := s.sliceFor(s.now)
	if err != nil {
		return err
	}
	insert := "INSERT INTO " + slice.table() + succeedCopy
	err = chunks(len(found), func(from, to int) error {
		args := make([]any, 0, 5*(to-from))
		for _, f := range found[from:to] {
			var result, leasedAt any
			if r := s.items[f.item].Result; r != nil {
				result = r
			}
			apart := int64(0)
			if id, ok := s.mem.leased[f.rid]; ok {
				apart, leasedAt = 1, s.mem.blocks[id].leasedAt
			}
			args = append(args, f.rid, result, coldsql.Micros(s.now), apart, leasedAt)
		}
		_, err := s.exec(rowsText(insert, "(?, ?, ?, ?, ?)", to-from), args...)
		return err
	})
	if err != nil {
		return err
	}
	rids := make([]int64, len(found))
	for i, f := range found {
		rids[i] = f.rid
		s.done[f.item] = f.was
		if f.key != "" {
			j := job.Job{ID: s.items[f.item].ID, Kind: f.was.Kind, State: job.Running, UniqueKey: f.key, UniqueMode: f.mode}
			if j.HoldsKey() {
				if err := s.freeUnique(&j); err != nil {
					return err
				}
			}
		}
		s.countKey(counterKey{queue: f.was.Queue, kind: f.was.Kind, state: job.Running}, -1)
		s.countKey(counterKey{queue: f.was.Queue, kind: f.was.Kind, state: job.Succeeded, slice: slice.n}, 1)
	}
	if err := s.unlease(rids); err != nil {
		return err
	}
	return s.eachRID("DELETE FROM job_row WHERE rid IN (%s)", nil, rids, nil)
}

// leased returns the items that are running under their token: from memory those
// that are there, the others from their rows.
func (s *success) leased(from, to int) ([]settled, error) {
	found := make([]settled, 0, to-from)
	var rest []int
	for i := from; i < to; i++ {
		l, ok := s.mem.leases[s.items[i].ID]
		switch {
		case !ok:
			rest = append(rest, i)
		case l.token == s.items[i].Token:
			delete(s.mem.leases, s.items[i].ID)
			s.seen[s.items[i].ID] = true
			found = append(found, settled{lease: l, item: i})
		}
	}
	err := chunks(len(rest), func(from, to int) error {
		return s.find(rest[from:to], func(f settled) { found = append(found, f) })
	})
	return found, err
}

// find reads the items that are running under their token.
func (s *success) find(items []int, each func(settled)) error {
	args := make([]any, 0, 3*len(items))
	for _, i := range items {
		args = append(args, int64(i), blobID(s.items[i].ID), s.items[i].Token)
	}
	return s.query(rowsText(succeedFind, "(?, ?, ?)", len(items)), args, func(row []driver.Value) error {
		f := settled{item: int(row[0].(int64)), lease: lease{rid: row[1].(int64)}}
		if key, ok := row[4].(string); ok {
			f.key, f.mode = key, job.UniqueMode(row[5].(int64))
		}
		f.was = ledger.Succeeded{
			OK: true, Queue: row[2].(string), Kind: row[3].(string), Attempt: int(row[6].(int64)), Version: row[7].(int64) + 1,
			CreatedAt: micros(row[8]), RunAt: micros(row[9]), LeasedAt: micros(row[10]),
			Priority: int(row[11].(int64)), MaxAttempts: int(row[12].(int64)), Crashes: int(row[13].(int64)),
		}
		if id := s.items[f.item].ID; !s.seen[id] {
			s.seen[id] = true
			each(f)
		}
		return nil
	})
}

// micros is the time of a column, zero where it is NULL.
func micros(v driver.Value) time.Time {
	us, _ := v.(int64)
	return coldsql.Time(us)
}
