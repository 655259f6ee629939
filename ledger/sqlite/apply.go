package sqlite

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

var assignments = strings.Join(coldsql.Columns, " = ?, ") + " = ?"

// Apply implements ledger.Jobs. There is one writer, so no row is ever busy.
func (l *Ledger) Apply(ctx context.Context, now time.Time, pick ledger.Pick, fn func(*job.Job) error) ([]ledger.Applied, error) {
	if pick.IDs == nil && pick.Limit < 1 {
		return nil, job.Errorf(job.InvalidArgument, job.ReasonBadField, "a pick needs a limit of at least 1, not %d", pick.Limit)
	}
	var answers []ledger.Applied
	err := l.w.do(ctx, "apply", func(t *tx) error {
		answers = nil
		if pick.IDs != nil {
			return t.applyIDs(now, pick.IDs, fn, &answers)
		}
		jobs, err := t.pick(l.store, &pick)
		if err != nil {
			return err
		}
		for i := range jobs {
			a, err := t.applyOne(now, &jobs[i], fn)
			if err != nil {
				return err
			}
			answers = append(answers, a)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

func (t *tx) applyIDs(now time.Time, ids []job.ID, fn func(*job.Job) error, answers *[]ledger.Applied) error {
	first := map[job.ID]int{}
	for i, id := range ids {
		if n, ok := first[id]; ok { // an id named twice is one job
			*answers = append(*answers, (*answers)[n])
			continue
		}
		first[id] = i
		j, found, err := t.load(id)
		if err != nil {
			return err
		}
		a := ledger.Applied{Job: job.Job{ID: id}, Err: job.ErrNotFound}
		if found {
			if a, err = t.applyOne(now, &j, fn); err != nil {
				return err
			}
		}
		*answers = append(*answers, a)
	}
	return nil
}

func (t *tx) load(id job.ID) (job.Job, bool, error) {
	for _, place := range []string{live, dead, archived} {
		got, err := t.jobs("SELECT "+coldsql.ColumnList+" FROM "+place+" WHERE id = ?", id[:])
		if err != nil || len(got) > 0 {
			return append(got, job.Job{})[0], len(got) > 0, err
		}
	}
	return job.Job{}, false, nil
}

// pick reads the jobs that a criterion chooses.
func (t *tx) pick(s *coldsql.Store, p *ledger.Pick) ([]job.Job, error) {
	from, args := "", []any{}
	switch {
	case !p.Due.IsZero():
		from, args = "job WHERE state = 1 AND run_at <= ? ORDER BY run_at, rid", append(args, coldsql.Micros(p.Due))
	case !p.Expired.IsZero():
		from, args = "job WHERE state < 3 AND expires_at IS NOT NULL AND expires_at <= ? ORDER BY expires_at", append(args, coldsql.Micros(p.Expired))
	case p.Orphans == ledger.SessionDead:
		from = "job WHERE state = 3 AND session IN (SELECT id FROM session WHERE state = 3)"
	case p.Orphans == ledger.SessionDrained:
		from = "job WHERE state = 3 AND coalesce((SELECT s.state FROM session s WHERE s.id = job.session), 4) = 4"
	case p.Dead != nil:
		cond, condArgs := s.DeadWhere(*p.Dead)
		from, args = "dead WHERE "+cond+" ORDER BY id DESC", condArgs
	default:
		return nil, job.Errorf(job.InvalidArgument, job.ReasonBadField, "a pick needs a criterion")
	}
	return t.jobs(fmt.Sprintf("SELECT %s FROM %s LIMIT %d", coldsql.ColumnList, from, p.Limit), args...)
}

// applyOne has fn change a job and stores what became of it.
func (t *tx) applyOne(now time.Time, before *job.Job, fn func(*job.Job) error) (ledger.Applied, error) {
	after := *before
	after.Errors = slices.Clone(before.Errors)
	refused := ledger.Applied{Job: *before, From: before.State}
	if refused.Err = fn(&after); refused.Err != nil {
		return refused, nil
	}
	had, has := before.HoldsKey(), after.HoldsKey()
	if has && !had && after.UniqueKey != "" {
		holder, held, err := t.keyHolder(now, &after)
		if err != nil {
			return refused, err
		}
		if held {
			e := job.Errorf(job.AlreadyExists, job.ReasonUniqueHeld, "job %s holds the unique key %q", holder, after.UniqueKey)
			e.Holder = holder
			refused.Err = e
			return refused, nil
		}
		if err := t.takeKey(now, &after); err != nil {
			return refused, err
		}
	}
	if had && !has {
		if err := t.freeKey(before); err != nil {
			return refused, err
		}
	}
	if reflect.DeepEqual(*before, after) {
		return ledger.Applied{Job: after, From: before.State}, nil
	}
	err := t.store(before, &after)
	return ledger.Applied{Job: after, From: before.State}, err
}

// store replaces a row, or moves it to the place of its new state.
func (t *tx) store(before, after *job.Job) error {
	t.count(before, -1)
	from, err := t.table(before)
	if err != nil {
		return err
	}
	if from == live && placeOf(after.State) == live {
		if after.State == job.Ready && after.Seq == 0 {
			t.w.seq++
			after.Seq = t.w.seq
		}
		t.count(after, 1)
		_, err := t.c.exec("UPDATE job SET "+assignments+" WHERE id = ?", append(coldsql.Values(nil, after, blobID), before.ID[:])...)
		return err
	}
	if _, err := t.c.exec("DELETE FROM "+from+" WHERE id = ?", before.ID[:]); err != nil {
		return err
	}
	if after.State == job.Deleted {
		return nil
	}
	return t.put(after)
}
