package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// chunkSizes are the numbers of rows for which statements exist: few texts,
// prepared once, serve every number of items.
var chunkSizes = []int{64, 8, 1}

// chunks calls fn for parts of n items, from and to, each of a size of chunkSizes.
func chunks(n int, fn func(from, to int) error) error {
	for from := 0; from < n; {
		size := 1
		for _, s := range chunkSizes {
			if s <= n-from {
				size = s
				break
			}
		}
		if err := fn(from, from+size); err != nil {
			return err
		}
		from += size
	}
	return nil
}

// texts remembers statement texts by their form and number of rows.
var texts sync.Map

type textKey struct {
	form string
	n    int
}

// rowsText returns form with its %s replaced by n times row, separated by commas.
func rowsText(form, row string, n int) string {
	key := textKey{form, n}
	if text, ok := texts.Load(key); ok {
		return text.(string)
	}
	text := fmt.Sprintf(form, strings.TrimSuffix(strings.Repeat(row+", ", n), ", "))
	texts.Store(key, text)
	return text
}

var columnParams = "(" + strings.TrimSuffix(strings.Repeat("?, ", len(coldsql.Columns)), ", ") + ")"

// known is a job of which an insert has heard.
type known struct {
	state  job.State
	digest int64
}

// insertion is one Insert under way.
type insertion struct {
	*tx
	now   time.Time
	items []ledger.Item
	known map[job.ID]known
	jobs  []*job.Job // to be stored
}

// Insert implements ledger.Jobs.
func (l *Ledger) Insert(ctx context.Context, now time.Time, items []ledger.Item) ([]ledger.Inserted, error) {
	if len(items) == 0 {
		return nil, nil
	}
	var answers []ledger.Inserted
	err := l.w.do(ctx, "insert", len(items), func(t *tx) (err error) {
		in := &insertion{tx: t, now: now, items: items, known: make(map[job.ID]known)}
		answers, err = in.run()
		return err
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

func (in *insertion) run() ([]ledger.Inserted, error) {
	if err := in.lookUp(); err != nil {
		return nil, err
	}
	answers := make([]ledger.Inserted, len(in.items))
	for i := range in.items {
		it := &in.items[i]
		a, err := in.answer(it)
		if err != nil {
			return nil, err
		}
		answers[i] = a
		if a.Outcome == ledger.InsertedNew {
			in.known[it.Job.ID] = known{it.Job.State, it.Job.Digest}
			in.jobs = append(in.jobs, &it.Job)
		}
	}
	return answers, in.store()
}

const liveStates = `CASE WHEN EXISTS (SELECT 1 FROM lease WHERE lease.rid = job_row.rid) THEN 3 ELSE state END, digest FROM job_row`

// lookUp finds the ids that exist.
func (in *insertion) lookUp() error {
	ids := make([]job.ID, 0, len(in.items))
	var retried []job.ID
	for i := range in.items {
		ids = append(ids, in.items[i].Job.ID)
		if !in.items[i].Fresh {
			retried = append(retried, in.items[i].Job.ID)
		}
	}
	dead := ids
	if in.mem.dead == 0 {
		dead = nil
	}
	for place, ids := range map[string][]job.ID{liveStates: ids, "state, digest FROM dead": dead, "state, digest FROM archive": retried} {
		err := in.eachID("SELECT id, "+place+" WHERE id IN (%s)", ids, func(row []driver.Value) error {
			var id job.ID
			var k known
			err := assign(row, []any{&id, &k.state, &k.digest})
			in.known[id] = k
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachID runs a query over ids, for which form has one %s.
func (t *tx) eachID(form string, ids []job.ID, fn func(row []driver.Value) error) error {
	return chunks(len(ids), func(from, to int) error {
		args := make([]any, 0, to-from)
		for _, id := range ids[from:to] {
			args = append(args, blobID(id))
		}
		return t.query(rowsText(form, "?", to-from), args, fn)
	})
}

// answer decides an item and, if it is new, takes its keys.
func (in *insertion) answer(it *ledger.Item) (ledger.Inserted, error) {
	j := &it.Job
	if k, ok := in.known[j.ID]; ok {
		a := ledger.Inserted{Outcome: ledger.Duplicate, Holder: j.ID, State: k.state}
		if k.digest != j.Digest {
			a.Outcome = ledger.IDTaken
		}
		return a, nil
	}
	fresh := ledger.Inserted{Outcome: ledger.InsertedNew, Holder: j.ID, State: j.State}
	if it.IdempotencyKey != "" {
		if a, held, err := in.idempotent(it); held || err != nil {
			return a, err
		}
	}
	if j.UniqueKey != "" {
		holder, held, err := in.takeUnique(j, in.now)
		if err != nil {
			return fresh, err
		}
		if held {
			state, err := in.stateOf(holder)
			return ledger.Inserted{Outcome: ledger.UniqueHeld, Holder: holder, State: state}, err
		}
	}
	if it.IdempotencyKey != "" {
		_, err := in.exec("INSERT INTO idempotency_key (caller, key, job, digest, used_at) VALUES (?, ?, ?, ?, ?)",
			it.Caller, it.IdempotencyKey, blobID(j.ID), j.Digest, coldsql.Micros(in.now))
		return fresh, err
	}
	return fresh, nil
}

// idempotent answers an item whose idempotency key was used before.
func (in *insertion) idempotent(it *ledger.Item) (a ledger.Inserted, held bool, err error) {
	var digest int64
	held, err = in.get("SELECT job, digest FROM idempotency_key WHERE caller = ? AND key = ?",
		[]any{it.Caller, it.IdempotencyKey}, &a.Holder, &digest)
	if !held || err != nil {
		return a, held, err
	}
	a.Outcome = ledger.Duplicate
	if digest != it.Job.Digest {
		a.Outcome = ledger.KeyReused
	}
	a.State, err = in.stateOf(a.Holder)
	return a, true, err
}

// stateOf returns the state of a job, 0 if there is none.
func (in *insertion) stateOf(id job.ID) (job.State, error) {
	if k, ok := in.known[id]; ok {
		return k.state, nil
	}
	var s job.State
	_, err := in.get(`SELECT state FROM job WHERE id = ?1 UNION ALL SELECT state FROM dead WHERE id = ?1
		UNION ALL SELECT state FROM archive WHERE id = ?1 LIMIT 1`, []any{blobID(id)}, &s)
	return s, err
}

// takeUnique takes the unique key for j, or returns who holds it. A window that
// has ended holds nothing.
func (t *tx) takeUnique(j *job.Job, now time.Time) (holder job.ID, held bool, err error) {
	held, err = t.get("SELECT job FROM unique_key WHERE scope = ? AND key = ? AND (until IS NULL OR until > ?)",
		[]any{j.Kind, j.UniqueKey, coldsql.Micros(now)}, &holder)
	if err != nil || held && holder != j.ID {
		return holder, held, err
	}
	var until any
	if j.UniqueMode == job.ForWindow {
		until = coldsql.Micros(now.Add(j.UniqueFor))
	}
	_, err = t.exec(`INSERT INTO unique_key (scope, key, job, until) VALUES (?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET job = excluded.job, until = excluded.until`, j.Kind, j.UniqueKey, blobID(j.ID), until)
	return j.ID, false, err
}

// freeUnique gives the key of j back, if j has it.
func (t *tx) freeUnique(j *job.Job) error {
	_, err := t.exec("DELETE FROM unique_key WHERE scope = ? AND key = ? AND job = ?", j.Kind, j.UniqueKey, blobID(j.ID))
	return err
}

// store inserts the new jobs.
func (in *insertion) store() error {
	for _, j := range in.jobs {
		in.count(j, 0, 1)
	}
	args := make([]any, 0, min(chunkSizes[0], len(in.jobs))*len(coldsql.Columns))
	return chunks(len(in.jobs), func(from, to int) error {
		args = args[:0]
		plain := true
		for _, p := range in.jobs[from:to] {
			plain = plain && isPlain(p)
		}
		for _, p := range in.jobs[from:to] {
			j := *p // the caller's items stay as they are: this may run again
			if j.State == job.Ready {
				seq, err := in.draw()
				if err != nil {
					return err
				}
				j.Seq = seq
			}
			if plain {
				args = plainValues(args, &j)
			} else {
				args = rowValues(args, liveTable, &j)
			}
		}
		if plain {
			_, err := in.exec(rowsText(insertPlain, plainParams, to-from), args...)
			return err
		}
		_, err := in.exec(rowsText("INSERT INTO job_row ("+coldsql.ColumnList+") VALUES %s", columnParams, to-from), args...)
		return err
	})
}
