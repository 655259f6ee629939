package api

import (
	"context"
	"math"
	"strconv"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// minRate is the slowest redrive, in jobs a second: a job in three years.
const minRate = 1e-8

// RedriveJobs sends dead letters back to work, by id, or by filter one page a
// call.
func (s *Service) RedriveJobs(ctx context.Context, r *errandv1.RedriveJobsRequest) (*errandv1.RedriveJobsResponse, error) {
	var resp *errandv1.RedriveJobsResponse
	err := checkRedrive(r)
	switch {
	case err != nil:
	case r.GetFilter() != nil:
		resp, err = s.redriveWhere(ctx, r)
	default:
		resp, err = s.redriveIDs(ctx, r)
	}
	if err != nil {
		return nil, s.fail(ctx, "RedriveJobs", err)
	}
	return resp, nil
}

func checkRedrive(r *errandv1.RedriveJobsRequest) error {
	switch rate := r.GetRate(); {
	case (len(r.GetIds()) > 0) == (r.GetFilter() != nil):
		return badField("ids", "of ids and filter set one (an empty filter chooses every dead letter)")
	case r.GetPageToken() != "" && r.GetFilter() == nil:
		return badField("page_token", "goes with a filter only")
	case math.IsNaN(rate) || math.IsInf(rate, 0) || rate < 0 || rate > 0 && rate < minRate:
		return badField("rate", "%v is not a number of jobs a second: 0 sends all at once", rate)
	}
	return nil
}

func (s *Service) redriveIDs(ctx context.Context, r *errandv1.RedriveJobsRequest) (*errandv1.RedriveJobsResponse, error) {
	ids, _, err := parseIDs("ids", r.GetIds())
	if err != nil {
		return nil, err
	}
	answers, err := s.engine.Redrive(ctx, ids, r.GetRate())
	if err != nil {
		return nil, err
	}
	resp := &errandv1.RedriveJobsResponse{}
	for i := range answers {
		if answers[i].Err != nil {
			resp.Problems = append(resp.Problems, s.encodeResult(ctx, "RedriveJobs", ids[i], &answers[i]))
			continue
		}
		resp.Ids = append(resp.Ids, ids[i].String())
	}
	resp.Redriven = int32(len(resp.Ids))
	return resp, nil
}

func (s *Service) redriveWhere(ctx context.Context, r *errandv1.RedriveJobsRequest) (*errandv1.RedriveJobsResponse, error) {
	f, sc, err := s.decodeFilter("RedriveJobs", r.GetFilter())
	if err != nil {
		return nil, err
	}
	sc = append(sc, strconv.FormatFloat(r.GetRate(), 'g', -1, 64))
	p, err := sc.decodePage(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	f.AfterID = p.after
	got, err := s.engine.RedriveWhere(ctx, f, r.GetRate(), p.done)
	if err != nil {
		return nil, err
	}
	resp := &errandv1.RedriveJobsResponse{
		Redriven:      int32(len(got.Redriven)),
		NextPageToken: sc.encodePage(page{after: got.Next, done: got.Done}),
	}
	for _, id := range got.Redriven {
		resp.Ids = append(resp.Ids, id.String())
	}
	for i := range got.Problems {
		resp.Problems = append(resp.Problems, s.encodeResult(ctx, "RedriveJobs", got.Problems[i].Job.ID, &got.Problems[i]))
	}
	return resp, nil
}

// decodeFilter also names the query, for page tokens. A filter must be there,
// if only an empty one: nobody purges everything by leaving out a field.
func (s *Service) decodeFilter(call string, m *errandv1.DeadFilter) (f ledger.DeadFilter, sc scope, err error) {
	if m == nil {
		return f, nil, badField("filter", "is missing: an empty one chooses every dead letter")
	}
	if err := name("filter.queue", m.GetQueue()); err != nil {
		return f, nil, err
	}
	if err := name("filter.kind", m.GetKind()); err != nil {
		return f, nil, err
	}
	if err := needle("filter.error", m.GetError()); err != nil {
		return f, nil, err
	}
	age, err := duration("filter.older_than", m.GetOlderThan())
	if err != nil {
		return f, nil, err
	}
	f = ledger.DeadFilter{Queue: m.GetQueue(), Kind: m.GetKind(), Error: m.GetError()}
	if age > 0 {
		now := s.engine.Now()
		if now.IsZero() {
			return f, nil, job.Errorf(job.Unavailable, job.ReasonLedgerDown, "the ledger's clock is not known yet: try again")
		}
		f.Before = now.Add(-age)
	}
	return f, scope{call, f.Queue, f.Kind, f.Error, age.String()}, nil
}

// PurgeDead removes dead letters, one page a call.
func (s *Service) PurgeDead(ctx context.Context, r *errandv1.PurgeDeadRequest) (*errandv1.PurgeDeadResponse, error) {
	f, _, err := s.decodeFilter("PurgeDead", r.GetFilter())
	if err != nil {
		return nil, s.fail(ctx, "PurgeDead", err)
	}
	n, more, err := s.engine.Purge(ctx, f)
	if err != nil {
		return nil, s.fail(ctx, "PurgeDead", err)
	}
	return &errandv1.PurgeDeadResponse{Purged: int32(n), More: more}, nil
}

// CountDead counts dead letters, up to a bound.
func (s *Service) CountDead(ctx context.Context, r *errandv1.CountDeadRequest) (*errandv1.CountDeadResponse, error) {
	f, _, err := s.decodeFilter("CountDead", r.GetFilter())
	if err != nil {
		return nil, s.fail(ctx, "CountDead", err)
	}
	n, capped, err := s.engine.CountDead(ctx, f)
	if err != nil {
		return nil, s.fail(ctx, "CountDead", err)
	}
	return &errandv1.CountDeadResponse{Count: int64(n), Capped: capped}, nil
}
