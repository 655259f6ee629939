package errand

import (
	"context"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// DeadFilter chooses dead letters. Empty fields choose all.
type DeadFilter struct {
	Queue     string
	Kind      string
	Error     string        // a part of the last error's message
	OlderThan time.Duration // dead for at least so long
}

func (f DeadFilter) wire() *errandv1.DeadFilter {
	return &errandv1.DeadFilter{Queue: f.Queue, Kind: f.Kind, Error: f.Error, OlderThan: wireDuration(f.OlderThan)}
}

// Redrive sends one dead letter back to work, with all its attempts before it.
// A job in another state refuses, with ReasonBadTransition; one whose unique key
// another job holds by now stays dead, with ErrUniqueHeld.
func (c *Client) Redrive(ctx context.Context, id ID) error {
	r, err := c.RedriveMany(ctx, []ID{id}, 0)
	if err != nil {
		return err
	}
	for _, p := range r.Problems {
		return p.Err
	}
	return nil
}

// RedriveResult says what a redrive did.
type RedriveResult struct {
	Redriven int
	// Problems are jobs that stayed as they are, and why: the first 1000.
	// Refused counts all of them.
	Problems []JobResult
	Refused  int
}

const keepProblems = 1000

func (r *RedriveResult) add(resp *errandv1.RedriveJobsResponse) {
	r.Redriven += int(resp.GetRedriven())
	ps := resultsOf(resp.GetProblems())
	r.Refused += len(ps)
	r.Problems = append(r.Problems, ps[:min(len(ps), keepProblems-len(r.Problems))]...)
}

// RedriveMany redrives at most 1000 jobs. rate, in jobs a second, spreads them
// out in time; 0 sends all at once.
func (c *Client) RedriveMany(ctx context.Context, ids []ID, rate float64) (RedriveResult, error) {
	var out RedriveResult
	resp, err := call(ctx, c, c.svc.RedriveJobs, &errandv1.RedriveJobsRequest{Ids: wireIDs(ids), Rate: rate})
	if err == nil {
		out.add(resp)
	}
	return out, err
}

// RedriveDead redrives all dead letters that f chooses, page by page, at rate
// jobs a second (0: all at once). After an error the result says what was done
// until then; calling it again goes on with the rest.
func (c *Client) RedriveDead(ctx context.Context, f DeadFilter, rate float64) (RedriveResult, error) {
	var out RedriveResult
	req := &errandv1.RedriveJobsRequest{Filter: f.wire(), Rate: rate}
	for {
		resp, err := call(ctx, c, c.svc.RedriveJobs, req)
		if err != nil {
			return out, err
		}
		out.add(resp)
		if resp.GetNextPageToken() == "" {
			return out, nil
		}
		req = &errandv1.RedriveJobsRequest{Filter: f.wire(), Rate: rate, PageToken: resp.GetNextPageToken()}
	}
}

// CountDead counts what f chooses, as a preview of RedriveDead and PurgeDead.
// capped says that there are more: counting is bounded by the server.
func (c *Client) CountDead(ctx context.Context, f DeadFilter) (n int64, capped bool, err error) {
	r, err := call(ctx, c, c.svc.CountDead, &errandv1.CountDeadRequest{Filter: f.wire()})
	return r.GetCount(), r.GetCapped(), err
}

// PurgeDead removes all dead letters that f chooses, page by page, and returns
// how many; after an error, how many until then.
func (c *Client) PurgeDead(ctx context.Context, f DeadFilter) (int, error) {
	for n := 0; ; {
		r, err := call(ctx, c, c.svc.PurgeDead, &errandv1.PurgeDeadRequest{Filter: f.wire()})
		if err != nil {
			return n, err
		}
		n += int(r.GetPurged())
		if !r.GetMore() {
			return n, nil
		}
	}
}
