package verify

import (
	"context"
	"fmt"
	"math/rand/v2"

	errand "github.com/errandhq/errand"
)

// orderly are the checks of order and of keys, which the promises rest on.
var orderly = []check{
	{4, "order by priority", priorities},
	{4, "unique keys", uniqueKeys},
}

const ordered = 40 // jobs whose order is looked at

// priorities enqueues jobs of all priorities before anybody asks, and takes them one by one.
func priorities(ctx context.Context, b *bench) (string, error) {
	const check = "order"
	rng := rand.New(rand.NewPCG(b.conf.Seed, 4))
	params := make([]errand.EnqueueParams, ordered)
	priority := map[string]int{}
	place := map[string]int{}
	for i := range params {
		p := rng.IntN(10)
		params[i] = b.params(check, errand.Priority(p))
		priority[params[i].ID.String()], place[params[i].ID.String()] = p, i
	}
	for _, p := range params {
		if _, err := b.client.Enqueue(ctx, p); err != nil {
			return "", err
		}
	}
	if err := b.unpaused(ctx); err != nil { // and which route is it?
		return "", err
	}
	h, err := b.hand(ctx, check)
	if err != nil {
		return "", err
	}
	swaps, last := 0, ""
	for range params {
		j, err := h.one(ctx)
		if err != nil {
			return "", err
		}
		id := j.GetId()
		early := last != "" && (priority[id] < priority[last] || priority[id] == priority[last] && place[id] < place[last])
		if early && b.route == "direct" {
			return "", broken("job %s of priority %d, enqueued as number %d, was given out after %s of priority %d, number %d",
				id, priority[id], place[id], last, priority[last], place[last])
		}
		if early {
			swaps++
		}
		last = id
		if err := h.succeed(ctx, j); err != nil {
			return "", err
		}
	}
	if b.route != "direct" {
		return "", skipped("the queue goes by %s, where order holds between windows of refs, and %d jobs are one window: all came, %d out of order", b.route, ordered, swaps)
	}
	return fmt.Sprintf("%d jobs were given out by priority, and in the order of their enqueues within each", ordered), nil
}

// uniqueKeys enqueues jobs with the same key from many sides at once.
func uniqueKeys(ctx context.Context, b *bench) (string, error) {
	const check, rivals = "unique", 8
	key := errand.Unique("verify-" + errand.NewID().String())
	answers := make([]errand.EnqueueResult, rivals)
	problems := make(chan error, rivals)
	for i := range rivals {
		p := b.params(check, key, errand.In(noRush))
		go func() {
			var err error
			answers[i], err = b.client.Enqueue(ctx, p)
			problems <- err
		}()
	}
	for range rivals {
		if err := <-problems; err != nil {
			return "", err
		}
	}
	first := 0
	for i, a := range answers {
		if a.ID != answers[0].ID {
			return "", broken("rivals for one key were answered with jobs %s and %s", answers[0].ID, a.ID)
		}
		if !answers[i].Duplicate {
			first++
		}
	}
	if first != 1 {
		return "", broken("of %d rivals for one key %d were told that theirs was stored", rivals, first)
	}
	if _, err := b.client.Cancel(ctx, answers[0].ID); err != nil {
		return "", refusedOr(err, "the cancellation of the scheduled job %s was refused: %v", answers[0].ID, err)
	}
	next := b.params(check, key, errand.In(noRush))
	r, err := b.client.Enqueue(ctx, next)
	if err == nil && r.ID != next.ID {
		return "", broken("the key was not free after its job %s was cancelled: held by %s", answers[0].ID, r.ID)
	}
	if err != nil {
		return "", refusedOr(err, "the key was not free after its job %s was cancelled: %v", answers[0].ID, err)
	}
	return fmt.Sprintf("of %d rivals one won, all others were answered with its job; its end freed the key", rivals), nil
}
