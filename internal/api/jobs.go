package api

import (
	"context"
	"slices"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// The bounds of reading.
const (
	defaultPage = 100
	defaultWait = 30 * time.Second
	maxWait     = 60 * time.Second
	getChunk    = 32       // jobs read from the ledger at a time
	maxReply    = 32 << 20 // bytes of payloads and results in one answer
)

// GetJobs returns the jobs that exist, in the order of the ids: whole, or with
// view STATE what the cache holds of them.
func (s *Service) GetJobs(ctx context.Context, r *errandv1.GetJobsRequest) (*errandv1.GetJobsResponse, error) {
	ids, at, err := parseIDs("ids", r.GetIds())
	if err != nil {
		return nil, s.fail(ctx, "GetJobs", err)
	}
	var found map[job.ID]*errandv1.Job
	switch r.GetView() {
	case errandv1.JobView_JOB_VIEW_UNSPECIFIED, errandv1.JobView_JOB_VIEW_FULL:
		found, err = s.full(ctx, ids)
	case errandv1.JobView_JOB_VIEW_STATE:
		found, err = s.states(ctx, ids, r.GetFresh())
	default:
		err = badField("view", "%d is unknown", int32(r.GetView()))
	}
	if err != nil {
		return nil, s.fail(ctx, "GetJobs", err)
	}
	resp := &errandv1.GetJobsResponse{}
	for _, n := range at {
		if m := found[ids[n]]; m != nil {
			resp.Jobs = append(resp.Jobs, m)
		}
	}
	return resp, nil
}

// full reads whole jobs from the ledger. An answer that would grow past 32 MiB
// is refused: whoever asks names fewer.
func (s *Service) full(ctx context.Context, ids []job.ID) (map[job.ID]*errandv1.Job, error) {
	found := make(map[job.ID]*errandv1.Job, len(ids))
	size := 0
	for chunk := range slices.Chunk(ids, getChunk) {
		jobs, err := s.engine.Get(ctx, chunk)
		if err != nil {
			return nil, err
		}
		for i := range jobs {
			size += len(jobs[i].Payload) + len(jobs[i].Result)
			found[jobs[i].ID] = encodeJob(&jobs[i])
		}
		if size > maxReply {
			return nil, tooLarge("ids", "the answer would have more than %d bytes: name fewer jobs", maxReply)
		}
	}
	return found, nil
}

// ListJobs returns a page of jobs, newest first.
func (s *Service) ListJobs(ctx context.Context, r *errandv1.ListJobsRequest) (*errandv1.ListJobsResponse, error) {
	q, sc, err := decodeQuery(r)
	if err != nil {
		return nil, s.fail(ctx, "ListJobs", err)
	}
	jobs, err := s.engine.List(ctx, q)
	if err != nil {
		return nil, s.fail(ctx, "ListJobs", err)
	}
	resp := &errandv1.ListJobsResponse{Jobs: encodeJobs(jobs)}
	if len(jobs) == q.Limit {
		resp.NextPageToken = sc.encodePage(page{after: jobs[len(jobs)-1].ID})
	}
	return resp, nil
}

func decodeQuery(r *errandv1.ListJobsRequest) (q ledger.Query, sc scope, err error) {
	state, err := decodeState("state", r.GetState())
	if err != nil {
		return q, nil, err
	}
	q = ledger.Query{
		Queue: r.GetQueue(), Kind: r.GetKind(), State: state, Error: r.GetError(), Tag: r.GetTag(),
		Limit: int(r.GetPageSize()),
	}
	if err := checkQuery(&q); err != nil {
		return q, nil, err
	}
	sc = scope{"ListJobs", q.Queue, q.Kind, q.State.String(), q.Error, q.Tag}
	p, err := sc.decodePage(r.GetPageToken())
	q.After = p.after
	return q, sc, err
}

// checkQuery bounds q and sets what is left out.
func checkQuery(q *ledger.Query) error {
	if err := name("queue", q.Queue); err != nil {
		return err
	}
	if err := name("kind", q.Kind); err != nil {
		return err
	}
	if err := needle("error", q.Error); err != nil {
		return err
	}
	if err := text("tag", q.Tag, job.MaxTag); err != nil {
		return err
	}
	if q.Error != "" {
		if q.State != 0 && q.State != job.Dead {
			return badField("error", "is for dead letters only, not for state %s", q.State)
		}
		q.State = job.Dead
	}
	switch {
	case q.Limit == 0:
		q.Limit = defaultPage
	case q.Limit < 0 || q.Limit > job.MaxPage:
		return badField("page_size", "%d is not between 1 and %d", q.Limit, job.MaxPage)
	}
	return nil
}

// WaitJobs answers when any of the jobs is final, or at the timeout.
func (s *Service) WaitJobs(ctx context.Context, r *errandv1.WaitJobsRequest) (*errandv1.WaitJobsResponse, error) {
	ids, _, err := parseIDs("ids", r.GetIds())
	if err != nil {
		return nil, s.fail(ctx, "WaitJobs", err)
	}
	timeout, err := patience("timeout", r.GetTimeout(), defaultWait, maxWait)
	if err != nil {
		return nil, s.fail(ctx, "WaitJobs", err)
	}
	jobs, err := s.engine.Wait(ctx, ids, timeout)
	if err != nil {
		return nil, s.fail(ctx, "WaitJobs", err)
	}
	return &errandv1.WaitJobsResponse{Jobs: encodeJobs(jobs)}, nil
}

// CancelJobs cancels jobs, or asks the holders of running ones to stop.
func (s *Service) CancelJobs(ctx context.Context, r *errandv1.CancelJobsRequest) (*errandv1.CancelJobsResponse, error) {
	results, err := s.each(ctx, "CancelJobs", r.GetIds(), s.engine.Cancel)
	return &errandv1.CancelJobsResponse{Results: results}, err
}

// DeleteJobs removes jobs that are not running.
func (s *Service) DeleteJobs(ctx context.Context, r *errandv1.DeleteJobsRequest) (*errandv1.DeleteJobsResponse, error) {
	results, err := s.each(ctx, "DeleteJobs", r.GetIds(), s.engine.Delete)
	return &errandv1.DeleteJobsResponse{Results: results}, err
}

// each answers a call about single jobs, in the order of its ids. An id that
// comes twice is worked on once and answered alike.
func (s *Service) each(ctx context.Context, call string, in []string,
	do func(context.Context, []job.ID) ([]engine.JobResult, error),
) ([]*errandv1.JobResult, error) {
	ids, at, err := parseIDs("ids", in)
	if err != nil {
		return nil, s.fail(ctx, call, err)
	}
	answers, err := do(ctx, ids)
	if err != nil {
		return nil, s.fail(ctx, call, err)
	}
	out := make([]*errandv1.JobResult, len(at))
	for i, n := range at {
		out[i] = s.encodeResult(ctx, call, ids[n], &answers[n])
	}
	return out, nil
}

func (s *Service) encodeResult(ctx context.Context, call string, id job.ID, a *engine.JobResult) *errandv1.JobResult {
	m := &errandv1.JobResult{Id: id.String(), Problem: s.problem(ctx, call, a.Err)}
	if !a.Job.ID.IsZero() {
		m.Job = encodeBrief(&a.Job)
	}
	return m
}
