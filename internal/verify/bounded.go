package verify

import (
	"context"
	"fmt"
	"strings"
	"time"

	errand "github.com/errandhq/errand"
	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// bounded are the checks of promises 7 and 8.
var bounded = []check{
	{7, "bounds", bounds},
	{8, "bad jobs", badJobs},
	{8, "bad calls", badCalls},
}

// bounds goes just over them.
func bounds(ctx context.Context, b *bench) (string, error) {
	const check = "bounds"
	large := b.params(check, errand.In(noRush))
	large.Payload, large.ContentType = make([]byte, b.info.MaxPayload+1), "application/octet-stream"
	if err := b.wantReason(ctx, large, errand.ReasonTooLarge); err != nil {
		return "", err
	}
	tooMany := make([]errand.EnqueueParams, 1001)
	for i := range tooMany {
		tooMany[i] = b.params(check, errand.In(noRush))
	}
	if _, err := b.client.EnqueueBatch(ctx, tooMany); err == nil {
		return "", broken("a batch of %d jobs was accepted", len(tooMany))
	} else if !answers(err) {
		return "", err
	}
	if err := b.absent(ctx, large.ID, tooMany[0].ID, tooMany[1000].ID); err != nil {
		return "", err
	}
	return fmt.Sprintf("a payload of %d bytes and a batch of %d jobs were refused", len(large.Payload), len(tooMany)), nil
}

// badJobs enqueues what no server takes.
func badJobs(ctx context.Context, b *bench) (string, error) {
	const check = "bad"
	bad := []struct {
		what  string
		spoil func(p *errand.EnqueueParams)
	}{
		{"no kind", func(p *errand.EnqueueParams) { p.Kind = "" }},
		{"a kind of Errand's own", func(p *errand.EnqueueParams) { p.Kind = "errand.verify" }},
		{"a long name of a queue", func(p *errand.EnqueueParams) { p.Queue = strings.Repeat("q", 200) }},
		{"priority 10", func(p *errand.EnqueueParams) { ten := 10; p.Priority = &ten }},
		{"priority -1", func(p *errand.EnqueueParams) { less := -1; p.Priority = &less }},
		{"a negative delay", func(p *errand.EnqueueParams) { p.Delay = -time.Second }},
		{"both delay and time", func(p *errand.EnqueueParams) { p.RunAt = time.Now().Add(noRush) }},
		{"-1 attempts", func(p *errand.EnqueueParams) { p.MaxAttempts = -1 }},
		{"17 tags", func(p *errand.EnqueueParams) { p.Tags = strings.Split(strings.Repeat("t,", 16)+"t", ",") }},
	}
	for _, c := range bad {
		p := b.params(check, errand.In(noRush))
		c.spoil(&p)
		_, err := b.client.Enqueue(ctx, p)
		switch e := errand.ErrorOf(err); {
		case err == nil:
			return "", broken("a job with %s was accepted as %s", c.what, p.ID)
		case !answers(err):
			return "", err
		case e.Code != errand.CodeInvalidArgument || e.Reason == "" || e.Message == "":
			return "", broken("a job with %s was refused with code %s, reason %q, message %q; want invalid_argument, a reason and a message", c.what, e.Code, e.Reason, e.Message)
		}
		if err := b.absent(ctx, p.ID); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d jobs, each with another fault, were refused with a reason and not stored", len(bad)), nil
}

// badCalls makes calls that no server carries out.
func badCalls(ctx context.Context, b *bench) (string, error) {
	nobody, nothing := errand.NewID().String(), errand.NewID().String()
	h, err := b.hand(ctx, "calls")
	if err != nil {
		return "", err
	}
	bad := []struct {
		what string
		want errand.Reason
		call func() error
	}{
		{"an id that is none", errand.ReasonBadID, func() error {
			_, err := b.svc.GetJobs(ctx, &errandv1.GetJobsRequest{Ids: []string{"no id"}})
			return err
		}},
		{"a page token that is none", "BAD_PAGE_TOKEN", func() error {
			_, err := b.svc.ListJobs(ctx, &errandv1.ListJobsRequest{Queue: b.conf.Queue, PageToken: "none"})
			return err
		}},
		{"a Lease of a session that is none", errand.ReasonSessionLost, func() error {
			_, err := b.svc.Lease(ctx, &errandv1.LeaseRequest{SessionId: nobody, Call: 1, Queues: []string{b.conf.Queue}, Kinds: []string{h.kind}, Max: 1})
			return err
		}},
		{"a Lease for no hands", errand.ReasonBadField, func() error {
			_, err := b.svc.Lease(ctx, &errandv1.LeaseRequest{SessionId: h.id, Call: 1_000_000, Queues: []string{b.conf.Queue}, Kinds: []string{h.kind}})
			return err
		}},
		{"a Settle without an outcome", errand.ReasonBadField, func() error {
			_, err := b.svc.Settle(ctx, &errandv1.SettleRequest{SessionId: h.id, Items: []*errandv1.Settlement{{Id: nothing, Token: 1}}})
			return err
		}},
		{"a cancellation of a job that is none", errand.ReasonNotFound, func() error {
			id, _ := errand.ParseID(nothing)
			_, err := b.client.Cancel(ctx, id)
			return err
		}},
	}
	for _, c := range bad {
		err := c.call()
		switch e := errand.ErrorOf(err); {
		case err == nil:
			return "", broken("%s was carried out", c.what)
		case !answers(err):
			return "", err
		case e.Reason != c.want:
			return "", broken("%s was refused with reason %q (%s); want %s", c.what, e.Reason, e.Message, c.want)
		}
	}
	return fmt.Sprintf("%d calls, each with another fault, were refused with the reason that the protocol names", len(bad)), nil
}
