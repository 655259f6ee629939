package sqlite

import (
	"cmp"
	"context"
	"database/sql/driver"
	"slices"
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
		return s.run()
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
// it changes is written out, everything else is copied. result is an expression. Of a job that is
// leased beside its row the lease is taken into account: apart is 1 and leasedAt its time, else 0
// and NULL.
func succeedCopy(result, now, apart, leasedAt string) string {
	changed := map[string]string{
		"state": "4", "version": "j.version + 1 + " + apart, "attempt": "j.attempt + " + apart, "token": "j.token + " + apart,
		"leased_at": "coalesce(" + leasedAt + ", j.leased_at)", "session": "NULL", "call": "NULL", "cancel_requested": "0",
		"reason": "NULL", "settled_token": "j.token + " + apart, "settled_as": "3", "result": result, "done_at": now,
	}
	from := make([]string, len(coldsql.Columns))
	for i, c := range coldsql.Columns {
		if from[i] = changed[c]; from[i] == "" {
			from[i] = "j." + c
		}
	}
	return " (" + coldsql.ColumnList + ") SELECT " + strings.Join(from, ", ")
}

var (
	copyEach = succeedCopy("v.column2", "v.column3", "v.column4", "v.column5") +
		" FROM (VALUES %s) AS v CROSS JOIN job_row AS j ON j.rid = v.column1"
	copyRun = succeedCopy("NULL", "?1", "?2", "?3") + " FROM job_row AS j WHERE j.rid BETWEEN ?4 AND ?5"
)

// run settles what is running under its token, by rows: neighbours that have no
// result and one lease, as most jobs of a claim, by one statement.
func (s *success) run() error {
	found, err := s.leased()
	if err != nil || len(found) == 0 {
		return err
	}
	slice, err := s.sliceFor(s.now)
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b settled) int { return cmp.Compare(a.rid, b.rid) })
	into := "INSERT INTO " + slice.table()
	each := make([]settled, 0, len(found))
	for rest := found; len(rest) > 0; {
		n := s.neighbours(rest)
		if n < shortestRun {
			each = append(each, rest[:n]...)
		} else if err := s.moveRun(into, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if err := chunks(len(each), func(from, to int) error { return s.moveEach(into, each[from:to]) }); err != nil {
		return err
	}
	return s.account(found, slice.n)
}

// shortestRun is how many neighbours are worth statements of their own.
const shortestRun = 8

// neighbours returns how many of the first rows follow on each other, and are alike in all that
// a statement for all of them has to say.
func (s *success) neighbours(rows []settled) int {
	if s.items[rows[0].item].Result != nil {
		return 1
	}
	block, apart := s.mem.leased[rows[0].rid]
	for n := 1; n < len(rows); n++ {
		other, too := s.mem.leased[rows[n].rid]
		if rows[n].rid != rows[n-1].rid+1 || other != block || too != apart || rows[n].plain != rows[0].plain || s.items[rows[n].item].Result != nil {
			return n
		}
	}
	return len(rows)
}

// lease says how the lease of a row goes into the copy.
func (s *success) lease(rid int64) (apart int64, leasedAt any) {
	if id, ok := s.mem.leased[rid]; ok {
		return 1, s.mem.blocks[id].leasedAt
	}
	return 0, nil
}

// moveRun moves rows that follow on each other to the archive.
func (s *success) moveRun(into string, rows []settled) error {
	first, last := rows[0].rid, rows[len(rows)-1].rid
	apart, leasedAt := s.lease(first)
	var err error
	if rows[0].plain && apart == 1 {
		_, err = s.exec(into+copyPlain, coldsql.Micros(s.now), leasedAt, first, last)
	} else {
		_, err = s.exec(into+copyRun, coldsql.Micros(s.now), apart, leasedAt, first, last)
	}
	if err != nil {
		return err
	}
	if err := s.unlease(rids(rows)); err != nil {
		return err
	}
	_, err = s.exec("DELETE FROM job_row WHERE rid BETWEEN ? AND ?", first, last)
	return err
}

// moveEach moves so many rows to the archive as there are statements for.
func (s *success) moveEach(into string, rows []settled) error {
	args := make([]any, 0, 5*len(rows))
	for _, f := range rows {
		var result any
		if r := s.items[f.item].Result; r != nil {
			result = r
		}
		apart, leasedAt := s.lease(f.rid)
		args = append(args, f.rid, result, coldsql.Micros(s.now), apart, leasedAt)
	}
	if _, err := s.exec(rowsText(into+copyEach, "(?, ?, ?, ?, ?)", len(rows)), args...); err != nil {
		return err
	}
	if err := s.unlease(rids(rows)); err != nil {
		return err
	}
	return s.eachRID("DELETE FROM job_row WHERE rid IN (%s)", nil, rids(rows), nil)
}

func rids(rows []settled) []int64 {
	out := make([]int64, len(rows))
	for i := range rows {
		out[i] = rows[i].rid
	}
	return out
}

// account answers, counts, and frees keys.
func (s *success) account(found []settled, slice int64) error {
	for i := range found {
		f := &found[i]
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
		s.countKey(counterKey{queue: f.was.Queue, kind: f.was.Kind, state: job.Succeeded, slice: slice}, 1)
	}
	return nil
}

// leased returns the items that are running under their token: from memory those
// that are there, the others from their rows.
func (s *success) leased() ([]settled, error) {
	found := make([]settled, 0, len(s.items))
	var rest []int
	for i := range s.items {
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
