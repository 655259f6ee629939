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
func (l *Ledger) Succeed(ctx context.Context, now time.Time, items []ledger.Success) ([]bool, error) {
	if len(items) == 0 {
		return nil, nil
	}
	var done []bool
	err := l.w.do(ctx, "succeed", len(items), func(t *tx) error {
		s := &success{tx: t, now: now, items: items, done: make([]bool, len(items)), seen: make(map[job.ID]bool, len(items))}
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
	done  []bool
	seen  map[job.ID]bool // settled by an earlier item of the call
}

// settled is a job that a chunk settles.
type settled struct {
	item, rid int64
	j         job.Job // queue, kind and unique key
}

const succeedFind = `SELECT v.column1, j.rid, j.queue, j.kind, j.unique_key, j.unique_mode
	FROM (VALUES %s) AS v CROSS JOIN job AS j ON j.id = v.column2 WHERE j.state = 3 AND j.token = v.column3`

// succeedCopy is job.Rules.Settle for event Succeed, from live to archive: what
// it changes is written out, everything else is copied.
var succeedCopy = func() string {
	changed := map[string]string{
		"state": "4", "version": "j.version + 1", "session": "NULL", "call": "NULL", "cancel_requested": "0",
		"reason": "NULL", "settled_token": "j.token", "settled_as": "3", "result": "v.column2", "done_at": "v.column3",
	}
	from := make([]string, len(coldsql.Columns))
	for i, c := range coldsql.Columns {
		if from[i] = changed[c]; from[i] == "" {
			from[i] = "j." + c
		}
	}
	return " (" + coldsql.ColumnList + ") SELECT " + strings.Join(from, ", ") +
		" FROM (VALUES %s) AS v CROSS JOIN job AS j ON j.rid = v.column1"
}()

func (s *success) chunk(from, to int) error {
	found, err := s.find(from, to)
	if err != nil || len(found) == 0 {
		return err
	}
	slice, err := s.sliceFor(s.now)
	if err != nil {
		return err
	}
	insert := "INSERT INTO " + slice.table() + succeedCopy
	err = chunks(len(found), func(from, to int) error {
		args := make([]any, 0, 3*(to-from))
		for _, f := range found[from:to] {
			var result any
			if r := s.items[f.item].Result; r != nil {
				result = r
			}
			args = append(args, f.rid, result, coldsql.Micros(s.now))
		}
		_, err := s.exec(rowsText(insert, "(?, ?, ?)", to-from), args...)
		return err
	})
	if err != nil {
		return err
	}
	rids := make([]int64, len(found))
	for i, f := range found {
		rids[i] = f.rid
		s.done[f.item] = true
		if f.j.HoldsKey() {
			if err := s.freeUnique(&f.j); err != nil {
				return err
			}
		}
		s.countKey(counterKey{queue: f.j.Queue, kind: f.j.Kind, state: job.Running}, -1)
		s.countKey(counterKey{queue: f.j.Queue, kind: f.j.Kind, state: job.Succeeded, slice: slice.n}, 1)
	}
	return s.eachRID("DELETE FROM job WHERE rid IN (%s)", nil, rids, nil)
}

// find returns the items that are running under their token.
func (s *success) find(from, to int) ([]settled, error) {
	args := make([]any, 0, 3*(to-from))
	for i := from; i < to; i++ {
		args = append(args, int64(i), blobID(s.items[i].ID), s.items[i].Token)
	}
	var found []settled
	err := s.query(rowsText(succeedFind, "(?, ?, ?)", to-from), args, func(row []driver.Value) error {
		f := settled{j: job.Job{State: job.Running}}
		f.item, f.rid = row[0].(int64), row[1].(int64)
		f.j.Queue, f.j.Kind = row[2].(string), row[3].(string)
		f.j.UniqueKey, _ = row[4].(string)
		mode, _ := row[5].(int64)
		f.j.UniqueMode = job.UniqueMode(mode)
		f.j.ID = s.items[f.item].ID
		if !s.seen[f.j.ID] {
			s.seen[f.j.ID] = true
			found = append(found, f)
		}
		return nil
	})
	return found, err
}
