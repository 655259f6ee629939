package verify

import (
	"bytes"
	"context"
	"fmt"

	errand "github.com/errandhq/errand"
)

// durable are the checks of promise 1.
var durable = []check{
	{1, "repeated enqueue", repeatedEnqueue},
	{1, "idempotency key", idempotency},
	{1, "all or none", allOrNone},
}

// repeatedEnqueue sends a job again and again, as after a lost answer, and then another job
// under the same id.
func repeatedEnqueue(ctx context.Context, b *bench) (string, error) {
	const check, times = "repeat", 3
	p := b.params(check, errand.In(noRush), errand.Tags("first"))
	for range times {
		r, err := b.client.Enqueue(ctx, p)
		if err != nil {
			return "", refusedOr(err, "the same job under the same id %s was refused: %v", p.ID, err)
		}
		if r.ID != p.ID {
			return "", broken("a repeated enqueue of %s was answered with job %s", p.ID, r.ID)
		}
	}
	other := p
	other.Payload = []byte(`{"other":true}`)
	if err := b.wantReason(ctx, other, errand.ReasonIDTaken); err != nil {
		return "", err
	}
	n := 0
	for j, err := range b.client.List(ctx, errand.ListQuery{Queue: b.conf.Queue, Kind: p.Kind}) {
		if err != nil {
			return "", err
		}
		if j.ID == p.ID {
			n++
		}
	}
	j, err := b.job(ctx, p.ID)
	switch {
	case err != nil:
		return "", err
	case n != 1:
		return "", broken("after %d enqueues under the id %s the ledger lists it %d times", times, p.ID, n)
	case !bytes.Equal(j.Payload, p.Payload) || j.Version != 1:
		return "", broken("the refused job changed the first one: payload %q, version %d", j.Payload, j.Version)
	}
	return fmt.Sprintf("the same enqueue %d times is one job; the id with other content is refused", times), nil
}

// idempotency does the same with keys.
func idempotency(ctx context.Context, b *bench) (string, error) {
	const check = "idempotency"
	key := "verify-" + errand.NewID().String()
	first := b.params(check, errand.In(noRush), errand.IdempotencyKey(key))
	again := b.params(check, errand.In(noRush), errand.IdempotencyKey(key))
	if _, err := b.client.Enqueue(ctx, first); err != nil {
		return "", err
	}
	r, err := b.client.Enqueue(ctx, again)
	switch {
	case err != nil:
		return "", refusedOr(err, "the same job under the same key was refused: %v", err)
	case r.ID != first.ID || !r.Duplicate:
		return "", broken("an enqueue under a used key was answered with job %s (duplicate %t); the first is %s", r.ID, r.Duplicate, first.ID)
	}
	other := b.params(check, errand.In(noRush), errand.IdempotencyKey(key))
	other.Payload = []byte(`{"other":true}`)
	if err := b.wantReason(ctx, other, errand.ReasonKeyReused); err != nil {
		return "", err
	}
	if err := b.absent(ctx, again.ID, other.ID); err != nil {
		return "", err
	}
	return "a used key is answered with the first job; with other content it is refused; nothing more is stored", nil
}

// allOrNone puts a bad job among good ones.
func allOrNone(ctx context.Context, b *bench) (string, error) {
	const check = "atomic"
	good1, bad, good2 := b.params(check, errand.In(noRush)), b.params(check, errand.In(noRush)), b.params(check, errand.In(noRush))
	bad.Kind = ""
	_, err := b.client.EnqueueBatch(ctx, []errand.EnqueueParams{good1, bad, good2})
	if err == nil {
		return "", broken("a batch with a job without a kind was accepted")
	}
	if !answers(err) {
		return "", err
	}
	if err := b.absent(ctx, good1.ID, bad.ID, good2.ID); err != nil {
		return "", err
	}
	return "a batch of three with a bad one stored none", nil
}

// refusedOr is a broken promise if err is a server's answer, else err.
func refusedOr(err error, format string, args ...any) error {
	if answers(err) {
		return broken(format, args...)
	}
	return err
}

// wantReason enqueues what must be refused for this reason.
func (b *bench) wantReason(ctx context.Context, p errand.EnqueueParams, want errand.Reason) error {
	r, err := b.client.Enqueue(ctx, p)
	switch {
	case err == nil:
		return broken("an enqueue was accepted as job %s that is to be refused with %s", r.ID, want)
	case errand.ErrorOf(err).Reason == want:
		return nil
	default:
		return refusedOr(err, "an enqueue was refused with %s (%v); want %s", errand.ErrorOf(err).Reason, err, want)
	}
}

// absent wants no such jobs.
func (b *bench) absent(ctx context.Context, ids ...errand.ID) error {
	found, err := b.client.Jobs(ctx, ids...)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return broken("job %s is in the ledger, though its enqueue was refused or answered with another", found[0].ID)
	}
	return nil
}
