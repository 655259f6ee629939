package errand

import (
	"context"
	"encoding/json"
	"fmt"
)

// Task is a kind of job whose payload is a T, as JSON. It is made once, usually
// as a package variable that the producer and the worker share.
type Task[T any] struct {
	kind     string
	defaults EnqueueParams
}

// NewTask makes a Task. kind names it on the wire and in the ledger, 1 to 128
// bytes; it must stay the same while jobs of it exist.
func NewTask[T any](kind string, opts ...TaskOption) *Task[T] {
	t := &Task[T]{kind: kind, defaults: EnqueueParams{Kind: kind}}
	for _, o := range opts {
		o.applyTask(&t.defaults)
	}
	return t
}

// Kind returns the kind that NewTask was given.
func (t *Task[T]) Kind() string { return t.kind }

// Params returns what Enqueue would send, with a new id unless WithID gave one.
// The error says why v has no JSON form.
func (t *Task[T]) Params(v T, opts ...EnqueueOption) (EnqueueParams, error) {
	p := t.defaults
	for _, o := range opts {
		o.applyEnqueue(&p)
	}
	payload, err := json.Marshal(v)
	if err != nil {
		return p, badField("task %s: payload: %v", t.kind, err)
	}
	p.Payload = payload
	return p, nil
}

// Enqueue stores one job durably and returns the id of the job that stands for
// it: its own, or that of the job that was there before (same id, idempotency
// key or unique key with SkipConflict).
//
// It retries while no server can be reached: see Dial. The errors to branch on
// are ErrUnknown, ErrUniqueHeld, ErrAlreadyExists and ErrQueueFull.
func (t *Task[T]) Enqueue(ctx context.Context, c *Client, v T, opts ...EnqueueOption) (ID, error) {
	p, err := t.Params(v, opts...)
	if err != nil {
		return ID{}, err
	}
	r, err := c.Enqueue(ctx, p)
	return r.ID, err
}

// EnqueueMany stores one job for each of vs in one call: at most 1000, with at
// most 4 MiB of payload. After an error none is stored. Each has its answer, in
// order, whose Err says why that one was refused. WithID and IdempotencyKey name one
// job, so they are not for more.
func (t *Task[T]) EnqueueMany(ctx context.Context, c *Client, vs []T, opts ...EnqueueOption) ([]EnqueueResult, error) {
	ps := make([]EnqueueParams, len(vs))
	for i, v := range vs {
		p, err := t.Params(v, opts...)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		if len(vs) > 1 && (!p.ID.IsZero() || p.IdempotencyKey != "") {
			return nil, badField("WithID and IdempotencyKey name one job, not %d", len(vs))
		}
		ps[i] = p
	}
	return c.EnqueueBatch(ctx, ps)
}
