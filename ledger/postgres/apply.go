package postgres

import (
	"cmp"
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// errNeedSlices ends a transaction that is to be run again once the archive has
// the slices it needs: making one takes a transaction of its own.
var errNeedSlices = errors.New("an archive slice is missing")

// Apply implements ledger.Jobs.
func (l *Ledger) Apply(ctx context.Context, now time.Time, pick ledger.Pick, fn func(*job.Job) error) ([]ledger.Applied, error) {
	var slices []int64
	for {
		var rows []*picked
		err := l.withSlices(ctx, slices, func() error {
			return l.inTx(ctx, "apply", func(t *tx) (err error) {
				rows, slices, err = t.apply(ctx, now, &pick, fn)
				return err
			})
		})
		switch {
		case errors.Is(err, errNeedSlices):
			continue
		case err != nil:
			return nil, err
		}
		l.endLeases(rows)
		return applied(rows), nil
	}
}

// endLeases forgets the leases of jobs that were changed.
func (l *Ledger) endLeases(rows []*picked) {
	for _, p := range rows {
		if p.changed && p.before.State == job.Running {
			l.leases.end(p.before.ID, p.before.Token, true)
		}
	}
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

// apply is one try. The slices it returns are those that the archive is to have.
func (t *tx) apply(ctx context.Context, now time.Time, pick *ledger.Pick, fn func(*job.Job) error) ([]*picked, []int64, error) {
	rows, err := t.pick(ctx, pick)
	if err != nil {
		return nil, nil, err
	}
	for i, p := range rows {
		if p.err == nil && slices.Index(rows[:i], p) < 0 { // an id named twice is one job
			p.after = p.before
			p.after.Errors = slices.Clone(p.before.Errors)
			p.err = fn(&p.after)
		}
	}
	if err := t.moveKeys(ctx, now, rows); err != nil {
		return nil, nil, err
	}
	changed := changedOf(rows)
	if len(changed) == 0 {
		return rows, nil, t.commit(ctx)
	}
	if missing := t.l.missingSlices(changed); len(missing) > 0 {
		return nil, missing, errNeedSlices
	}
	return rows, nil, t.writeBack(ctx, changed)
}

// changedOf returns the rows that fn has changed, each once.
func changedOf(rows []*picked) []*picked {
	var out []*picked
	seen := map[*picked]bool{}
	for _, p := range rows {
		if p.err == nil && !seen[p] && !reflect.DeepEqual(p.before, p.after) {
			p.changed = true
			out = append(out, p)
		}
		seen[p] = true
	}
	return out
}

func (l *Ledger) missingSlices(rows []*picked) []int64 {
	var missing []int64
	for _, p := range rows {
		if placeOf(p.after.State) == "archive" {
			if n := sliceOf(p.after.DoneAt); !l.slices.has(n) && !slices.Contains(missing, n) {
				missing = append(missing, n)
			}
		}
	}
	return missing
}

// placeOf returns the table that keeps jobs of a state: "" for Deleted.
func placeOf(s job.State) string {
	switch s {
	case job.Scheduled, job.Ready, job.Running:
		return liveTable
	case job.Dead:
		return "dead"
	case job.Succeeded, job.Cancelled:
		return "archive"
	default:
		return ""
	}
}

// moveKeys frees the keys that jobs hold no longer and takes those that they hold
// now. A job whose key is not to be had stays as it was.
func (t *tx) moveKeys(ctx context.Context, now time.Time, rows []*picked) error {
	var freed []*job.Job
	var takers []*picked
	for _, p := range rows {
		if p.err != nil || p.before.UniqueKey == "" && p.after.UniqueKey == "" {
			continue
		}
		had, has := p.before.HoldsKey(), p.after.HoldsKey()
		if had && !has {
			freed = append(freed, &p.before)
		}
		if has && !had && !slices.Contains(takers, p) {
			takers = append(takers, p)
		}
	}
	if steps := freeKeySteps(freed); len(steps) > 0 {
		if err := t.run(ctx, steps...); err != nil {
			return err
		}
	}
	if len(takers) == 0 {
		return nil
	}
	slices.SortFunc(takers, func(a, b *picked) int {
		return cmp.Or(cmp.Compare(a.after.Kind, b.after.Kind), cmp.Compare(a.after.UniqueKey, b.after.UniqueKey))
	})
	ok, err := t.patiently(ctx, keyPatience, func() error { return t.takeKeys(ctx, now, takers) })
	if err == nil && !ok {
		for _, p := range takers {
			p.err = job.Errorf(job.Aborted, job.ReasonKeyBusy, "an open transaction holds the unique key %q: try again", p.after.UniqueKey)
		}
	}
	return err
}

// takeKeys takes the keys that are free and refuses the jobs whose key another one holds.
func (t *tx) takeKeys(ctx context.Context, now time.Time, takers []*picked) error {
	scopes, keys := make([]string, len(takers)), make([]string, len(takers))
	ids, until := make([]job.ID, len(takers)), make([]int64, len(takers))
	for i, p := range takers {
		scopes[i], keys[i], ids[i] = p.after.Kind, p.after.UniqueKey, p.after.ID
	}
	return t.run(ctx, append(takeUniqueSteps(now, scopes, keys, ids, until), step{
		sql: `SELECT u.n, k.job FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u (s, k, n)
			CROSS JOIN LATERAL (SELECT job FROM errand.unique_key WHERE scope = u.s AND key = u.k OFFSET 0) AS k`,
		args: []any{scopes, keys},
		scan: func(rows pgx.Rows) error {
			r := rowReader{vals: rows.RawValues()}
			n, id := r.int8(), r.uuid()
			if r.err != nil {
				return r.err
			}
			if p := takers[n-1]; id != p.after.ID {
				e := job.Errorf(job.AlreadyExists, job.ReasonUniqueHeld, "job %s holds the unique key %q", id, p.after.UniqueKey)
				e.Holder = id
				p.err = e
			}
			return nil
		},
	})...)
}

// writeBack stores the changed jobs with their counters and commits: what
// stays among the live ones is updated in place, the rest is removed and
// copied to where it belongs.
func (t *tx) writeBack(ctx context.Context, rows []*picked) error {
	if err := t.drawPicked(ctx, rows); err != nil {
		return err
	}
	d := deltas{}
	var stay []*job.Job
	leave := map[string][]job.ID{}
	arrive := map[string][]*job.Job{}
	for _, p := range rows {
		d.add(&p.before, -1)
		to := placeOf(p.after.State)
		if to == liveTable && p.place == liveTable && sameFixed(&p.before, &p.after) {
			stay = append(stay, &p.after)
			d.add(&p.after, 1)
			continue
		}
		leave[p.place] = append(leave[p.place], p.before.ID)
		if to != "" {
			arrive[to] = append(arrive[to], &p.after)
		}
	}
	steps := updateSteps(stay)
	for _, place := range places {
		if ids := leave[place]; len(ids) > 0 {
			steps = append(steps, step{sql: "DELETE FROM errand." + place + " WHERE id = ANY ($1::uuid[])", args: []any{uuids(ids)}})
		}
	}
	if len(arrive) == 0 {
		return t.commit(ctx, append(steps, d.steps()...)...)
	}
	if err := t.run(ctx, steps...); err != nil {
		return err
	}
	for _, place := range places {
		if len(arrive[place]) > 0 {
			if err := t.copyJobs(ctx, place, arrive[place], seqsOf(arrive[place]), false, d); err != nil {
				return err
			}
		}
	}
	return t.commit(ctx, d.steps()...)
}

// drawPicked draws numbers for the jobs that became ready.
func (t *tx) drawPicked(ctx context.Context, rows []*picked) error {
	var jobs []*job.Job
	for _, p := range rows {
		if p.before.State == job.Running && p.after.State == job.Ready && p.after.Lane >= 0 {
			p.after.Seq = 0 // the old number may be in a block
		}
		if wantsSeq(&p.after) {
			jobs = append(jobs, &p.after)
		}
	}
	if len(jobs) == 0 {
		return nil
	}
	seqs, err := t.drawSeqs(ctx, jobs)
	for i := range seqs {
		jobs[i].Seq = seqs[i]
	}
	return err
}

func seqsOf(jobs []*job.Job) []int64 {
	return column(jobs, func(j *job.Job) int64 { return j.Seq })
}

// sameFixed reports whether nothing changed that updateSteps does not write.
func sameFixed(a, b *job.Job) bool {
	return a.ID == b.ID && a.Queue == b.Queue && a.Kind == b.Kind && a.Priority == b.Priority && a.Digest == b.Digest &&
		a.CreatedAt.Equal(b.CreatedAt) && a.MaxAttempts == b.MaxAttempts && a.Timeout == b.Timeout &&
		a.UniqueKey == b.UniqueKey && a.UniqueMode == b.UniqueMode && a.UniqueFor == b.UniqueFor &&
		a.ContentType == b.ContentType && a.Trace == b.Trace && slices.Equal(a.Tags, b.Tags) &&
		slices.Equal(a.Payload, b.Payload) && slices.Equal(a.Result, b.Result)
}
