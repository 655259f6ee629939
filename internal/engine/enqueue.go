package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// shareUpTo is the largest call that shares its commit with others. A larger
// one pays for a commit of its own well enough, and would only hold the others up.
const shareUpTo = 100

// Enqueue stores the items, all or none, and answers for each in order. caller
// scopes the idempotency keys. An item whose content is out of bounds fails the
// whole call with InvalidArgument; one that is refused for what the ledger
// holds (QUEUE_FULL, ID_TAKEN, UNIQUE_KEY_HELD, …) has the refusal as its
// answer, and does not stop the others. After job.ErrUnknown the call is to be
// repeated with the same ids.
func (e *Engine) Enqueue(ctx context.Context, caller string, items []Item) ([]Enqueued, error) {
	if err := e.checkBatch(items); err != nil {
		return nil, err
	}
	now, err := e.clock.now(ctx)
	if err != nil {
		return nil, err
	}
	rows := make([]ledger.Item, len(items))
	for i := range items {
		if err := e.prepare(&rows[i], caller, &items[i], now); err != nil {
			return nil, atItem(i, err)
		}
	}
	answers := make([]Enqueued, len(items))
	admitted, taken, err := e.admit(ctx, rows, answers)
	if err != nil {
		return nil, err
	}
	if len(admitted) == 0 {
		return answers, nil
	}
	inserted, err := e.insert(ctx, now, choose(rows, admitted))
	e.depth.settle(taken, err == nil || errors.Is(err, job.ErrUnknown))
	if err != nil {
		return nil, fmt.Errorf("enqueue: %w", err)
	}
	for k, i := range admitted {
		answers[i] = answerInserted(&rows[i].Job, items[i].Reject, inserted[k])
	}
	e.announce(rows, answers)
	e.fillStates(ctx, answers)
	return answers, nil
}

// checkBatch checks the bounds of a call.
func (e *Engine) checkBatch(items []Item) error {
	if len(items) == 0 {
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, "no items")
	}
	if len(items) > job.MaxBatch {
		return job.Errorf(job.InvalidArgument, job.ReasonTooLarge, "%d items; at most %d are allowed in a call", len(items), job.MaxBatch)
	}
	bytes := 0
	for i := range items {
		bytes += len(items[i].Job.Payload)
	}
	if most := max(job.MaxBatchBytes, e.conf.MaxPayload); bytes > most {
		return job.Errorf(job.InvalidArgument, job.ReasonTooLarge, "the payloads have %d bytes; at most %d are allowed in a call", bytes, most)
	}
	return nil
}

// prepare makes a row of what a producer asked for: defaults, checks, digest,
// id, and the times by the ledger's clock.
func (e *Engine) prepare(row *ledger.Item, caller string, it *Item, now time.Time) error {
	row.Job = it.Job
	j := &row.Job
	if j.Queue == "" {
		j.Queue = job.DefaultQueue
	}
	if j.MaxAttempts == 0 {
		j.MaxAttempts = job.DefaultMaxAttempts
	}
	if j.ContentType == "" {
		j.ContentType = job.DefaultContentType
	}
	if err := j.Validate(e.conf.MaxPayload); err != nil {
		return err
	}
	if err := checkKey(it.IdempotencyKey); err != nil {
		return err
	}
	if err := checkTimes(it, now); err != nil {
		return err
	}
	j.Digest = digest(j, it)
	row.Caller, row.IdempotencyKey, row.Fresh = caller, it.IdempotencyKey, it.FirstTry || j.ID.IsZero()
	if j.ID.IsZero() {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("make a job id: %w", err)
		}
		j.ID = job.ID(id)
	}
	setTimes(j, it, now)
	return nil
}

func checkKey(key string) error {
	if len(key) > job.MaxKey {
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, "idempotency_key has %d bytes; at most %d are allowed", len(key), job.MaxKey)
	}
	return job.CheckText("idempotency_key", key)
}

// checkTimes checks the times that an item asks for. An expiry that has passed
// is refused only when the item is sent for the first time: a repeated call is
// owed its first answer, however late it comes.
func checkTimes(it *Item, now time.Time) error {
	bad := func(format string, args ...any) error {
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, format, args...)
	}
	runAt, expiresAt := it.Job.RunAt, it.Job.ExpiresAt
	switch {
	case it.Delay < 0 || it.Delay > job.MaxDelay:
		return bad("delay %s is not between 0 and %s", it.Delay, job.MaxDelay)
	case it.Delay > 0 && !runAt.IsZero():
		return bad("delay and run_at are both set: choose one")
	case runAt.After(now.Add(job.MaxDelay)):
		return bad("run_at %s is more than %s ahead", runAt.Format(time.RFC3339), job.MaxDelay)
	case it.ExpiresIn < 0 || it.ExpiresIn > 2*job.MaxDelay:
		return bad("expires_in %s is not between 0 and %s", it.ExpiresIn, 2*job.MaxDelay)
	case it.ExpiresIn > 0 && !expiresAt.IsZero():
		return bad("expires_in and expires_at are both set: choose one")
	case expiresAt.After(now.Add(2 * job.MaxDelay)):
		return bad("expires_at %s is more than %s ahead", expiresAt.Format(time.RFC3339), 2*job.MaxDelay)
	}
	if it.ExpiresIn > 0 {
		expiresAt = now.Add(it.ExpiresIn)
	}
	if expiresAt.IsZero() {
		return nil
	}
	first := it.FirstTry || it.Job.ID.IsZero()
	if start := startOf(it, now); start.After(now) && !expiresAt.After(start) || first && !expiresAt.After(now) {
		return bad("it would expire at %s, before it may run", expiresAt.Format(time.RFC3339))
	}
	return nil
}

// startOf is the moment from which the item may run.
func startOf(it *Item, now time.Time) time.Time {
	switch {
	case it.Delay > 0:
		return now.Add(it.Delay)
	case it.Job.RunAt.After(now):
		return it.Job.RunAt
	}
	return now
}

func setTimes(j *job.Job, it *Item, now time.Time) {
	micro := func(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
	j.CreatedAt, j.Version = now, 1
	j.RunAt = micro(startOf(it, now))
	if it.ExpiresIn > 0 {
		j.ExpiresAt = now.Add(it.ExpiresIn)
	}
	if !j.ExpiresAt.IsZero() {
		j.ExpiresAt = micro(j.ExpiresAt)
	}
	j.State, j.Lane = job.Ready, job.Lane(j.Priority)
	if j.RunAt.After(now) {
		j.State = job.Scheduled
	}
}

// insert stores rows: alone if one of them has a key, because that may wait
// for another transaction, or if they are many; else in the common batch.
func (e *Engine) insert(ctx context.Context, now time.Time, rows []ledger.Item) ([]ledger.Inserted, error) {
	alone := len(rows) > shareUpTo
	for i := range rows {
		alone = alone || rows[i].IdempotencyKey != "" || rows[i].Job.UniqueKey != ""
	}
	if alone {
		inserted, err := e.ledger.Insert(ctx, now, rows)
		if err == nil {
			e.observeInserted(now, rows, inserted)
		}
		return inserted, err
	}
	return e.inserts.do(ctx, rows)
}

func (e *Engine) commitInserts(ctx context.Context, rows []ledger.Item) ([]ledger.Inserted, error) {
	now, err := e.clock.now(ctx)
	if err != nil {
		return nil, err
	}
	inserted, err := e.ledger.Insert(ctx, now, rows)
	if err == nil {
		e.observeInserted(now, rows, inserted)
	}
	return inserted, err
}

// answerInserted turns the ledger's word about an item into the producer's answer.
func answerInserted(j *job.Job, reject bool, in ledger.Inserted) Enqueued {
	refuse := func(code job.Code, reason job.Reason, format string, args ...any) Enqueued {
		err := job.Errorf(code, reason, format, args...)
		err.Holder = in.Holder
		return Enqueued{ID: in.Holder, State: in.State, Err: err}
	}
	switch in.Outcome {
	case ledger.InsertedNew:
		return Enqueued{ID: j.ID, State: j.State}
	case ledger.Duplicate:
		return Enqueued{ID: in.Holder, State: in.State, Duplicate: true}
	case ledger.IDTaken:
		return refuse(job.AlreadyExists, job.ReasonIDTaken, "job %s exists with other content", j.ID)
	case ledger.KeyReused:
		return refuse(job.AlreadyExists, job.ReasonKeyReused, "the idempotency key was used for job %s with other content", in.Holder)
	case ledger.UniqueHeld:
		if reject {
			return refuse(job.AlreadyExists, job.ReasonUniqueHeld, "unique key %q of kind %q is held by job %s", j.UniqueKey, j.Kind, in.Holder)
		}
		return Enqueued{ID: in.Holder, State: in.State, Duplicate: true}
	case ledger.KeyBusy:
		return refuse(job.Aborted, job.ReasonKeyBusy, "an open transaction holds the key: try again")
	default:
		return refuse(job.Internal, "", "the ledger answered with the unknown outcome %d", in.Outcome)
	}
}

// announce wakes whoever waits for what was just stored.
func (e *Engine) announce(rows []ledger.Item, answers []Enqueued) {
	var ready work
	for i := range rows {
		j, a := &rows[i].Job, &answers[i]
		switch {
		case a.Err != nil || a.Duplicate:
		case a.State == job.Ready:
			ready.add(j)
		case a.State == job.Scheduled:
			e.promoter.expect(e, j.RunAt)
		}
	}
	e.wakeFor(ready)
}

// fillStates asks for the states of jobs that an insert met but did not read.
// What was stored stays stored, so trouble here leaves the state unknown.
func (e *Engine) fillStates(ctx context.Context, answers []Enqueued) {
	var ids []job.ID
	for i := range answers {
		if a := &answers[i]; a.Duplicate && a.State == 0 {
			ids = append(ids, a.ID)
		}
	}
	if len(ids) == 0 {
		return
	}
	jobs, err := e.ledger.Get(ctx, ids)
	if err != nil {
		e.log.Warn("states of duplicates not read", "err", err)
		return
	}
	states := make(map[job.ID]job.State, len(jobs))
	for i := range jobs {
		states[jobs[i].ID] = jobs[i].State
	}
	for i := range answers {
		if a := &answers[i]; a.Duplicate && a.State == 0 {
			a.State = states[a.ID]
		}
	}
}

// atItem names the item in a refusal of the whole call.
func atItem(i int, err error) error {
	var e *job.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("item %d: %w", i, err)
	}
	return &job.Error{Code: e.Code, Reason: e.Reason, Message: fmt.Sprintf("item %d: %s", i, e.Message), Holder: e.Holder, Err: e.Err}
}

// choose returns the elements of s at the places in.
func choose[T any](s []T, in []int) []T {
	if len(in) == len(s) {
		return s
	}
	out := make([]T, len(in))
	for k, i := range in {
		out[k] = s[i]
	}
	return out
}

// add appends s to a short set.
func add(set []string, s string) []string {
	for _, have := range set {
		if have == s {
			return set
		}
	}
	return append(set, s)
}
