package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// How long an insert waits for the row of a key that another open transaction
// holds: for the first key of a call, and for each further one after that.
const (
	keyPatience     = "1s"
	keyPatienceNext = "50ms"
)

// errKeyMoved makes Insert start again: a key was held when the insert asked
// for it, and free when it asked by whom.
var errKeyMoved = errors.New("a key changed hands during the insert")

// careful is an insert whose items have to be looked at: retried ids,
// idempotency keys, unique keys.
type careful struct {
	t        *tx
	now      time.Time
	items    []ledger.Item
	answers  []ledger.Inserted
	accepted map[job.ID]int // items that will be stored, by id
}

// insertCareful works in rounds, within which no id and no key occurs twice.
// So a round can ask about all its items at once, and later items of the call
// see earlier ones.
func (l *Ledger) insertCareful(ctx context.Context, now time.Time, items []ledger.Item) ([]ledger.Inserted, error) {
	var answers []ledger.Inserted
	err := l.inTx(ctx, "insert", func(t *tx) error {
		c := &careful{t: t, now: now, items: items, answers: make([]ledger.Inserted, len(items)), accepted: map[job.ID]int{}}
		answers = c.answers
		for _, round := range rounds(items) {
			if err := c.round(ctx, round); err != nil {
				return err
			}
		}
		if err := c.fillStates(ctx); err != nil {
			return err
		}
		return c.store(ctx)
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

// rounds splits the items, by index and in order, so that none holds an id or a key twice.
func rounds(items []ledger.Item) [][]int {
	type name struct{ what, scope, key string }
	next := map[name]int{} // the first round that is free of it
	var out [][]int
	for i := range items {
		names := []name{{"id", "", string(items[i].Job.ID[:])}}
		if k := items[i].IdempotencyKey; k != "" {
			names = append(names, name{"idempotency", items[i].Caller, k})
		}
		if k := items[i].Job.UniqueKey; k != "" {
			names = append(names, name{"unique", items[i].Job.Kind, k})
		}
		r := 0
		for _, n := range names {
			r = max(r, next[n])
		}
		for _, n := range names {
			next[n] = r + 1
		}
		if r == len(out) {
			out = append(out, nil)
		}
		out[r] = append(out[r], i)
	}
	return out
}

// round answers the items of one round and accepts those that are new.
func (c *careful) round(ctx context.Context, round []int) error {
	round, err := c.checkIDs(ctx, round)
	if err != nil {
		return err
	}
	if round, err = c.takeIdempotency(ctx, round); err != nil {
		return err
	}
	if round, err = c.takeUnique(ctx, round); err != nil {
		return err
	}
	for _, i := range round {
		j := &c.items[i].Job
		c.answers[i] = ledger.Inserted{Outcome: ledger.InsertedNew, Holder: j.ID, State: j.State}
		c.accepted[j.ID] = i
	}
	return nil
}

// checkIDs answers the items whose id is known and returns the others.
func (c *careful) checkIDs(ctx context.Context, round []int) ([]int, error) {
	type found struct {
		state  job.State
		digest int64
	}
	known := map[job.ID]found{}
	var ids, retried []job.ID
	for _, i := range round {
		id := c.items[i].Job.ID
		if first, ok := c.accepted[id]; ok {
			known[id] = found{c.items[first].Job.State, c.items[first].Job.Digest}
			continue
		}
		ids = append(ids, id)
		if !c.items[i].Fresh {
			retried = append(retried, id)
		}
	}
	err := c.t.run(ctx, step{
		sql: `SELECT id, state, digest FROM errand.job WHERE id = ANY ($1::uuid[])
			UNION ALL SELECT id, state, digest FROM errand.dead WHERE id = ANY ($1::uuid[])
			UNION ALL SELECT id, state, digest FROM errand.archive WHERE id = ANY ($2::uuid[])`,
		args: []any{uuids(ids), uuids(retried)},
		scan: func(rows pgx.Rows) error {
			r := rowReader{vals: rows.RawValues()}
			id := r.uuid()
			known[id] = found{job.State(r.int2()), r.int8()}
			return r.err
		},
	})
	if err != nil {
		return nil, err
	}
	return c.split(round, func(i int) (ledger.Inserted, bool) {
		j := &c.items[i].Job
		f, ok := known[j.ID]
		a := ledger.Inserted{Outcome: ledger.Duplicate, Holder: j.ID, State: f.state}
		if f.digest != j.Digest {
			a.Outcome = ledger.IDTaken
		}
		return a, ok
	}), nil
}

// split answers the items for which fn has an answer and returns the others.
func (c *careful) split(round []int, fn func(i int) (ledger.Inserted, bool)) []int {
	rest := make([]int, 0, len(round))
	for _, i := range round {
		if a, ok := fn(i); ok {
			c.answers[i] = a
		} else {
			rest = append(rest, i)
		}
	}
	return rest
}

// holder is who has a key.
type holder struct {
	job    job.ID
	digest int64
}

// takeIdempotency stores the idempotency keys of the round, answers the items
// whose key is known, and returns the others.
func (c *careful) takeIdempotency(ctx context.Context, round []int) ([]int, error) {
	keyed := c.keyed(round, func(i int) (string, string) { return c.items[i].Caller, c.items[i].IdempotencyKey })
	held, busy, err := c.take(ctx, keyed, c.insertIdempotency)
	if err != nil {
		return nil, err
	}
	return c.split(round, func(i int) (ledger.Inserted, bool) {
		h, ok := held[i]
		switch {
		case busy[i]:
			return ledger.Inserted{Outcome: ledger.KeyBusy}, true
		case ok && h.digest == c.items[i].Job.Digest:
			return ledger.Inserted{Outcome: ledger.Duplicate, Holder: h.job}, true
		case ok:
			return ledger.Inserted{Outcome: ledger.KeyReused, Holder: h.job}, true
		}
		return ledger.Inserted{}, false
	}), nil
}

// takeUnique does the same for the unique keys. An item that is refused gives
// its idempotency key back.
func (c *careful) takeUnique(ctx context.Context, round []int) ([]int, error) {
	keyed := c.keyed(round, func(i int) (string, string) { return c.items[i].Job.Kind, c.items[i].Job.UniqueKey })
	held, busy, err := c.take(ctx, keyed, c.insertUnique)
	if err != nil {
		return nil, err
	}
	var callers, keys []string
	rest := c.split(round, func(i int) (ledger.Inserted, bool) {
		h, ok := held[i]
		if !ok && !busy[i] {
			return ledger.Inserted{}, false
		}
		if k := c.items[i].IdempotencyKey; k != "" {
			callers, keys = append(callers, c.items[i].Caller), append(keys, k)
		}
		if busy[i] {
			return ledger.Inserted{Outcome: ledger.KeyBusy}, true
		}
		return ledger.Inserted{Outcome: ledger.UniqueHeld, Holder: h.job}, true
	})
	if len(keys) == 0 {
		return rest, nil
	}
	return rest, c.t.run(ctx, step{
		sql: `DELETE FROM errand.idempotency WHERE ctid = ANY (ARRAY (
			SELECT h.place FROM unnest($1::text[], $2::text[]) AS u (c, k) CROSS JOIN LATERAL (
				SELECT i.ctid AS place FROM errand.idempotency i WHERE i.caller = u.c AND i.key = u.k OFFSET 0) AS h))`,
		args: []any{callers, keys},
	})
}

// keyed returns the items of the round that have a key, in the order in which
// every insert takes keys: so two calls with the same keys cannot lock each other up.
func (c *careful) keyed(round []int, key func(i int) (scope, key string)) []int {
	var out []int
	for _, i := range round {
		if _, k := key(i); k != "" {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b int) int {
		sa, ka := key(a)
		sb, kb := key(b)
		return cmp.Or(cmp.Compare(sa, sb), cmp.Compare(ka, kb))
	})
	return out
}

// take inserts keys by fn, all at once or, where one of them stays locked, one by one. It
// returns who holds the keys that were not free, and which are locked.
func (c *careful) take(ctx context.Context, keyed []int,
	fn func(context.Context, []int, map[int]holder) error,
) (held map[int]holder, busy map[int]bool, err error) {
	held, busy = map[int]holder{}, map[int]bool{}
	if len(keyed) == 0 {
		return held, busy, nil
	}
	ok, err := c.t.patiently(ctx, keyPatience, func() error { return fn(ctx, keyed, held) })
	if ok || err != nil {
		return held, busy, err
	}
	clear(held)
	for n, i := range keyed {
		patience := keyPatienceNext
		if len(keyed) == 1 {
			busy[i] = true
			break
		}
		ok, err := c.t.patiently(ctx, patience, func() error { return fn(ctx, keyed[n:n+1], held) })
		if err != nil {
			return nil, nil, err
		}
		busy[i] = !ok
	}
	return held, busy, nil
}

func (c *careful) insertIdempotency(ctx context.Context, keyed []int, held map[int]holder) error {
	callers, keys := make([]string, len(keyed)), make([]string, len(keyed))
	ids, digests := make([]job.ID, len(keyed)), make([]int64, len(keyed))
	for n, i := range keyed {
		it := &c.items[i]
		callers[n], keys[n], ids[n], digests[n] = it.Caller, it.IdempotencyKey, it.Job.ID, it.Job.Digest
	}
	// A row that names the item's own id may be older than this call: its job has
	// been deleted, and stays so. Only what this statement stored is the item's.
	stored := map[[2]string]bool{}
	mine := func(i int, _ holder) bool { return stored[[2]string{c.items[i].Caller, c.items[i].IdempotencyKey}] }
	return c.insertKeys(ctx, keyed, held, mine,
		[]step{{
			sql: `INSERT INTO errand.idempotency (caller, key, job, digest, at)
				SELECT u.c, u.k, u.j, u.d, $5 FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[]) WITH ORDINALITY AS u (c, k, j, d, n)
				ORDER BY u.n ON CONFLICT DO NOTHING RETURNING caller, key`,
			args: []any{callers, keys, uuids(ids), digests, c.now.UnixMicro()},
			scan: func(rows pgx.Rows) error {
				r := rowReader{vals: rows.RawValues()}
				caller := r.str()
				stored[[2]string{caller, r.str()}] = true
				return r.err
			},
		}},
		step{
			sql: `SELECT u.n, i.job, i.digest FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u (c, k, n)
				CROSS JOIN LATERAL (SELECT job, digest FROM errand.idempotency WHERE caller = u.c AND key = u.k OFFSET 0) AS i`,
			args: []any{callers, keys},
		})
}

func (c *careful) insertUnique(ctx context.Context, keyed []int, held map[int]holder) error {
	scopes, keys := make([]string, len(keyed)), make([]string, len(keyed))
	ids, until := make([]job.ID, len(keyed)), make([]int64, len(keyed))
	for n, i := range keyed {
		j := &c.items[i].Job
		scopes[n], keys[n], ids[n] = j.Kind, j.UniqueKey, j.ID
		if j.UniqueMode == job.ForWindow {
			until[n] = c.now.Add(j.UniqueFor).UnixMicro()
		}
	}
	mine := func(i int, h holder) bool { return h.job == c.items[i].Job.ID }
	return c.insertKeys(ctx, keyed, held, mine,
		takeUniqueSteps(c.now, scopes, keys, ids, until),
		step{
			sql: `SELECT u.n, k.job, 0::bigint FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u (s, k, n)
				CROSS JOIN LATERAL (SELECT job FROM errand.unique_key WHERE scope = u.s AND key = u.k OFFSET 0) AS k`,
			args: []any{scopes, keys},
		})
}

// takeUniqueSteps removes windows that have ended and inserts the keys that are
// free, in the order given. A zero until stands for none.
func takeUniqueSteps(now time.Time, scopes, keys []string, ids []job.ID, until []int64) []step {
	return []step{
		{
			sql: `DELETE FROM errand.unique_key WHERE ctid = ANY (ARRAY (
				SELECT h.place FROM unnest($1::text[], $2::text[]) AS u (s, k) CROSS JOIN LATERAL (
					SELECT k.ctid AS place FROM errand.unique_key k
					WHERE k.scope = u.s AND k.key = u.k AND coalesce(k.until, 9223372036854775807) <= $3 FOR UPDATE) AS h))`,
			args: []any{scopes, keys, now.UnixMicro()},
		},
		{
			sql: `INSERT INTO errand.unique_key (scope, key, job, until)
				SELECT u.s, u.k, u.j, nullif(u.t, 0)
				FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[]) WITH ORDINALITY AS u (s, k, j, t, n)
				ORDER BY u.n ON CONFLICT DO NOTHING`,
			args: []any{scopes, keys, uuids(ids), until},
		},
	}
}

// insertKeys runs the inserts and then reads who holds each key: what is not
// the item's by mine goes into held.
func (c *careful) insertKeys(ctx context.Context, keyed []int, held map[int]holder,
	mine func(i int, h holder) bool, inserts []step, read step,
) error {
	seen := 0
	read.scan = func(rows pgx.Rows) error {
		r := rowReader{vals: rows.RawValues()}
		n, h := r.int8(), holder{}
		h.job, h.digest = r.uuid(), r.int8()
		if r.err != nil {
			return r.err
		}
		seen++
		i := keyed[n-1]
		if !mine(i, h) {
			held[i] = h
		}
		return nil
	}
	if err := c.t.run(ctx, append(inserts, read)...); err != nil {
		return err
	}
	if seen != len(keyed) {
		return errKeyMoved
	}
	return nil
}

// fillStates looks up the states of the holders that the answers name.
func (c *careful) fillStates(ctx context.Context) error {
	var ids []job.ID
	for i := range c.answers {
		if a := &c.answers[i]; a.State == 0 && !a.Holder.IsZero() {
			ids = append(ids, a.Holder)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	states := map[job.ID]job.State{}
	for id, i := range c.accepted {
		states[id] = c.items[i].Job.State
	}
	err := c.t.run(ctx, step{
		sql: `SELECT id, state FROM errand.job WHERE id = ANY ($1::uuid[])
			UNION ALL SELECT id, state FROM errand.dead WHERE id = ANY ($1::uuid[])
			UNION ALL SELECT id, state FROM errand.archive WHERE id = ANY ($1::uuid[])`,
		args: []any{uuids(ids)},
		scan: func(rows pgx.Rows) error {
			r := rowReader{vals: rows.RawValues()}
			id := r.uuid()
			states[id] = job.State(r.int2())
			return r.err
		},
	})
	if err != nil {
		return fmt.Errorf("look up holders: %w", err)
	}
	for i := range c.answers {
		if a := &c.answers[i]; a.State == 0 {
			a.State = states[a.Holder]
		}
	}
	return nil
}

// store inserts what was accepted, in the order of the call, and commits.
func (c *careful) store(ctx context.Context) error {
	var jobs []*job.Job
	for i := range c.items {
		if c.answers[i].Outcome == ledger.InsertedNew {
			jobs = append(jobs, &c.items[i].Job)
		}
	}
	if len(jobs) == 0 {
		return c.t.commit(ctx)
	}
	return c.t.store(ctx, jobs, false, knownElsewhere(jobs))
}
