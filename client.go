package errand

import (
	"context"
	"fmt"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/gen/errand/v1/errandv1connect"
)

// Version is the version of this SDK, as sessions show it.
const Version = "0.1.0"

// Client speaks to Errand: over the wire after Dial, by direct calls after
// embedded.Open. It is safe for concurrent use.
type Client struct {
	svc      Service
	close    func() error
	route    *route  // nil: there is but one server, in this process
	sharer   *sharer // nil: each enqueue is a call of its own
	retryFor time.Duration

	telemetry *telemetry // nil: nobody listens
}

// Service is what a Client calls: the contract, with its one stream as a loop.
type Service interface {
	errandv1connect.QueueServiceClient

	// WatchJobs calls each with every message, until each returns an error,
	// which is then the answer, or the stream ends.
	WatchJobs(ctx context.Context, r *errandv1.WatchJobsRequest, each func(*errandv1.WatchJobsResponse) error) error
}

// NewClient makes a Client of a service, such as an engine in the same
// process. close, which may be nil, is what Close calls.
func NewClient(svc Service, close func() error) *Client {
	if close == nil {
		close = func() error { return nil }
	}
	return &Client{svc: svc, close: close, retryFor: 30 * time.Second}
}

// Close frees what the Client holds; with embedded, it stops the engine.
func (c *Client) Close() error { return c.close() }

// here names the server that calls go to now; leave moves on from it to the
// next address, unless another call has moved on already.
func (c *Client) here() uint32 {
	if c.route == nil {
		return 0
	}
	return c.route.at.Load()
}

func (c *Client) leave(at uint32) {
	if c.route != nil {
		c.route.leave(at)
	}
}

// Service is what the Client calls, for programs that need the contract itself, such as a
// worker made call by call (docs/protocol.md). Its calls are tried once, and
// their errors are Connect's: ErrorOf reads them.
func (c *Client) Service() Service { return c.svc }

// EnqueueResult answers one job of an enqueue.
type EnqueueResult struct {
	ID        ID    // of the job that now stands for it: its own, or the holder's
	State     State // of that job, where the server knows it
	Duplicate bool  // the call stored nothing new: the id, idempotency or unique key was known before it
	Err       error // an *Error: why this one was refused
}

// Enqueue stores one job durably. See Task.Enqueue for its errors.
func (c *Client) Enqueue(ctx context.Context, p EnqueueParams) (EnqueueResult, error) {
	rs, err := c.EnqueueBatch(ctx, []EnqueueParams{p})
	if err != nil {
		return EnqueueResult{}, err
	}
	return rs[0], rs[0].Err
}

// EnqueueBatch stores jobs in one call, at most 1000 with at most 4 MiB of
// payload, all or none; each has its answer, in order. Ids that are not set
// are made before the first try, so that every retry is the same call. If the
// retries end without an answer the error is ErrUnknown, with the ids.
func (c *Client) EnqueueBatch(ctx context.Context, ps []EnqueueParams) ([]EnqueueResult, error) {
	if len(ps) == 0 {
		return nil, nil
	}
	if c.telemetry == nil {
		return c.enqueue(ctx, ps)
	}
	ctx, sending := c.telemetry.send(ctx, ps)
	rs, err := c.enqueue(ctx, ps)
	sending.end(ctx, ps, rs, err)
	return rs, err
}

// enqueue is EnqueueBatch without its span.
func (c *Client) enqueue(ctx context.Context, ps []EnqueueParams) ([]EnqueueResult, error) {
	ids, fresh := make([]ID, len(ps)), make([]bool, len(ps))
	parent, state := TraceFrom(ctx)
	for i := range ps {
		if ids[i] = ps[i].ID; ids[i].IsZero() {
			ids[i], fresh[i] = NewID(), true
		}
	}
	var resp *errandv1.EnqueueResponse
	unknown, err := c.retry(ctx, func(ctx context.Context, try int) error {
		// Made anew for each try: an engine in this process may still read the
		// request of one that was cut short.
		req, items := &errandv1.EnqueueRequest{Items: make([]*errandv1.EnqueueItem, len(ps))}, make([]errandv1.EnqueueItem, len(ps))
		for i := range ps {
			it := &items[i]
			if it.TraceParent, it.TraceState = ps[i].TraceParent, ps[i].TraceState; it.TraceParent == "" {
				it.TraceParent, it.TraceState = parent, state
			}
			if err := ps[i].item(it); err != nil {
				return fmt.Errorf("item %d: %w", i, err)
			}
			it.Id, it.FirstTry = ids[i].String(), fresh[i] && try == 0
			req.Items[i] = it
		}
		var err error
		if c.sharer != nil && len(ps) == 1 && ps[0].fits() {
			resp, err = c.sharer.enqueue(ctx, req.Items[0])
		} else {
			resp, err = c.svc.Enqueue(ctx, req)
		}
		return err
	})
	switch {
	case err != nil && unknown:
		return nil, unknownOutcome(ids, err)
	case err != nil:
		return nil, err
	case len(resp.GetResults()) != len(ps):
		return nil, &Error{Code: CodeInternal, Message: fmt.Sprintf("the server answered %d of %d items", len(resp.GetResults()), len(ps))}
	}
	out := make([]EnqueueResult, len(ps))
	for i, r := range resp.GetResults() {
		out[i] = EnqueueResult{ID: wireID(r.GetId()), State: wireState(r.GetState()), Duplicate: r.GetDuplicate(), Err: fromProblem(r.GetProblem())}
		if fresh[i] && out[i].ID == ids[i] {
			out[i].Duplicate = false // only an earlier try of this call can have stored it
		}
	}
	return out, nil
}

// Wake makes jobs from a transaction of the caller's own (errandpgx, errandsql)
// found at once, after its commit; without it they are found within half a second.
func (c *Client) Wake(ctx context.Context, queues ...string) error {
	_, err := call(ctx, c, c.svc.Wake, &errandv1.WakeRequest{Queues: queues})
	return err
}
