package sqlite

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// Apply implements ledger.Jobs.
func (l *Ledger) Apply(ctx context.Context, now time.Time, pick ledger.Pick, fn func(*job.Job) error) ([]ledger.Applied, error) {
	var out []ledger.Applied
	err := l.w.do(ctx, "apply", max(len(pick.IDs), pick.Limit, 1), func(t *tx) error {
		rows, err := t.pick(&pick, l.store.DeadWhere)
		if err != nil {
			return err
		}
		if err := t.applyAll(now, rows, fn); err != nil {
			return err
		}
		out = applied(rows)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func applied(rows []*picked) []ledger.Applied {
	out := make([]ledger.Applied, len(rows))
	for i, p := range rows {
		out[i] = ledger.Applied{Job: p.after, From: p.before.State, Err: p.err}
		if p.err != nil {
			out[i].Job = p.before
		}
	}
	return out
}

func (t *tx) applyAll(now time.Time, rows []*picked, fn func(*job.Job) error) error {
	done := make(map[*picked]bool, len(rows))
	for _, p := range rows {
		if p.err != nil || done[p] {
			continue
		}
		done[p] = true
		p.after = p.before
		p.after.Errors = slices.Clone(p.before.Errors)
		if p.err = fn(&p.after); p.err != nil || reflect.DeepEqual(p.before, p.after) {
			continue
		}
		if err := t.apply(now, p); err != nil {
			return err
		}
	}
	return nil
}

// apply stores one changed job, with its key. A key that another job holds is
// the job's own problem: p.err.
func (t *tx) apply(now time.Time, p *picked) error {
	had, has := p.before.HoldsKey(), p.after.HoldsKey()
	if has && !had {
		holder, held, err := t.takeUnique(&p.after, now)
		if err != nil {
			return err
		}
		if held && holder != p.after.ID {
			e := job.Errorf(job.AlreadyExists, job.ReasonUniqueHeld, "job %s holds the unique key %q", holder, p.after.UniqueKey)
			e.Holder = holder
			p.err = e
			return nil
		}
	}
	if had && !has {
		if err := t.freeUnique(&p.before); err != nil {
			return err
		}
	}
	if p.after.State == job.Ready && p.after.Seq == 0 {
		seq, err := t.draw()
		if err != nil {
			return err
		}
		p.after.Seq = seq
	}
	return t.move(p)
}

// move writes the row where it belongs now.
func (t *tx) move(p *picked) error {
	table, slice, err := t.placeOf(&p.after)
	if err != nil {
		return err
	}
	delete(t.mem.leases, p.before.ID)
	t.count(&p.before, p.slice, -1)
	if table != "" {
		t.count(&p.after, slice, 1)
	}
	if p.table == liveTable {
		if err := t.unlease([]int64{p.rid}); err != nil {
			return err
		}
	}
	if p.after.State == job.Ready {
		t.mem.unmark(&p.after)
	}
	values := rowValues(make([]any, 0, len(coldsql.Columns)+1), table, &p.after)
	if table == p.table {
		_, err := t.exec(updateText(table), append(values, p.rid)...)
		return err
	}
	if _, err := t.exec("DELETE FROM "+p.table+" WHERE rid = ?", p.rid); err != nil || table == "" {
		return err
	}
	_, err = t.exec("INSERT INTO "+table+" ("+coldsql.ColumnList+") VALUES "+columnParams, values...)
	return err
}

// liveTable holds the rows behind the view job.
const liveTable = "job_row"

// placeOf returns the table for a job in its state, "" for a deleted one.
func (t *tx) placeOf(j *job.Job) (table string, n int64, err error) {
	switch j.State {
	case job.Scheduled, job.Ready, job.Running:
		return liveTable, 0, nil
	case job.Dead:
		return "dead", 0, nil
	case job.Deleted:
		return "", 0, nil
	default:
		s, err := t.sliceFor(j.DoneAt)
		return s.table(), s.n, err
	}
}

func updateText(table string) string {
	return rowsText("UPDATE "+table+" SET ("+coldsql.ColumnList+") = %s WHERE rid = ?", columnParams, 1)
}

// Fence raises the tokens and versions of all jobs by 2^32 and returns how many
// jobs there are. After a restore to an earlier point every lease and every
// cached state from the lost time is older than that.
func (l *Ledger) Fence(ctx context.Context) (int64, error) {
	var n int64
	err := l.w.do(ctx, "fence", batchWeight, func(t *tx) error {
		n = 0
		clear(t.mem.leases)
		tables := []string{liveTable, "dead"}
		for _, s := range t.mem.slices {
			tables = append(tables, s.table())
		}
		for _, table := range tables {
			changed, err := t.exec(strings.Replace("UPDATE % SET token = token + (1 << 32), version = version + (1 << 32)", "%", table, 1))
			if err != nil {
				return err
			}
			n += changed
		}
		return nil
	})
	return n, err
}
