package sqlite

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

var marks = "?" + strings.Repeat(", ?", len(coldsql.Columns)-1)

// put stores a job where its state belongs and counts it.
func (t *tx) put(j *job.Job) error {
	table, err := t.table(j)
	if err != nil {
		return err
	}
	if j.State == job.Ready && j.Seq == 0 {
		t.w.seq++
		j.Seq = t.w.seq
	}
	t.count(j, 1)
	_, err = t.c.exec(fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", table, coldsql.ColumnList, marks),
		coldsql.Values(nil, j, blobID)...)
	return err
}

// Insert implements ledger.Jobs.
func (l *Ledger) Insert(ctx context.Context, now time.Time, items []ledger.Item) ([]ledger.Inserted, error) {
	if len(items) == 0 {
		return nil, nil
	}
	var answers []ledger.Inserted
	err := l.w.do(ctx, "insert", func(t *tx) error {
		answers = make([]ledger.Inserted, len(items))
		for i := range items {
			a, err := t.insertOne(now, &items[i])
			if err != nil {
				return err
			}
			answers[i] = a
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

func (t *tx) insertOne(now time.Time, it *ledger.Item) (ledger.Inserted, error) {
	j := it.Job
	if a, found, err := t.known(&j, it.Fresh); found || err != nil {
		return a, err
	}
	if it.IdempotencyKey != "" {
		var holder job.ID
		var digest int64
		found, err := t.c.get("SELECT job, digest FROM idempotency_key WHERE caller = ? AND key = ?",
			[]any{it.Caller, it.IdempotencyKey}, &holder, &digest)
		if err != nil {
			return ledger.Inserted{}, err
		}
		if found {
			a := ledger.Inserted{Outcome: ledger.Duplicate, Holder: holder}
			if digest != j.Digest {
				a.Outcome = ledger.KeyReused
			}
			a.State, _, _, err = t.find(holder, true)
			return a, err
		}
	}
	if j.UniqueKey != "" {
		holder, held, err := t.keyHolder(now, &j)
		if err != nil {
			return ledger.Inserted{}, err
		}
		if held {
			a := ledger.Inserted{Outcome: ledger.UniqueHeld, Holder: holder}
			a.State, _, _, err = t.find(holder, true)
			return a, err
		}
		if err := t.takeKey(now, &j); err != nil {
			return ledger.Inserted{}, err
		}
	}
	if it.IdempotencyKey != "" {
		_, err := t.c.exec("INSERT INTO idempotency_key (caller, key, job, digest, used_at) VALUES (?, ?, ?, ?, ?)",
			it.Caller, it.IdempotencyKey, j.ID[:], j.Digest, coldsql.Micros(now))
		if err != nil {
			return ledger.Inserted{}, err
		}
	}
	return ledger.Inserted{Outcome: ledger.InsertedNew, Holder: j.ID, State: j.State}, t.put(&j)
}

// known answers an item whose id exists.
func (t *tx) known(j *job.Job, fresh bool) (ledger.Inserted, bool, error) {
	state, digest, found, err := t.find(j.ID, !fresh)
	a := ledger.Inserted{Outcome: ledger.Duplicate, Holder: j.ID, State: state}
	if digest != j.Digest {
		a.Outcome = ledger.IDTaken
	}
	return a, found, err
}

// find looks for a job among the live and the dead, and in the archive if asked.
func (t *tx) find(id job.ID, archive bool) (state job.State, digest int64, found bool, err error) {
	places := []string{live, dead}
	if archive {
		places = append(places, archived)
	}
	for _, p := range places {
		found, err = t.c.get("SELECT state, digest FROM "+p+" WHERE id = ?", []any{id[:]}, &state, &digest)
		if found || err != nil {
			break
		}
	}
	return state, digest, found, err
}

// keyHolder returns who else holds the job's unique key.
func (t *tx) keyHolder(now time.Time, j *job.Job) (holder job.ID, held bool, err error) {
	found, err := t.c.get("SELECT job FROM unique_key WHERE scope = ? AND key = ? AND (until IS NULL OR until > ?)",
		[]any{j.Kind, j.UniqueKey, coldsql.Micros(now)}, &holder)
	return holder, found && holder != j.ID, err
}

func (t *tx) takeKey(now time.Time, j *job.Job) error {
	var until any
	if j.UniqueMode == job.ForWindow {
		until = coldsql.Micros(now.Add(j.UniqueFor))
	}
	_, err := t.c.exec("INSERT OR REPLACE INTO unique_key (scope, key, job, until) VALUES (?, ?, ?, ?)",
		j.Kind, j.UniqueKey, j.ID[:], until)
	return err
}

func (t *tx) freeKey(j *job.Job) error {
	_, err := t.c.exec("DELETE FROM unique_key WHERE scope = ? AND key = ? AND job = ?", j.Kind, j.UniqueKey, j.ID[:])
	return err
}
