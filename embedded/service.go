package embedded

import (
	"bytes"
	"context"
	"sync"

	"github.com/errandhq/errand"
	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/internal/api"
	"github.com/errandhq/errand/internal/local"
	"github.com/errandhq/errand/job"
)

// service is the API as a direct call. It stands between client and api for two
// reasons: Close must know of the calls under way, and bytes that the caller may
// write to again must be copied, which the wire would have done.
type service struct {
	api   *api.Service
	close func() error

	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup
}

var _ errand.Service = (*service)(nil)

// shut refuses calls from now on; those under way go on.
func (s *service) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// enter counts a call in, unless the client is closed.
func (s *service) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return api.Error(job.Errorf(job.FailedPrecondition, job.ReasonShuttingDown, "the client is closed"))
	}
	s.calls.Add(1)
	return nil
}

// direct makes one call.
func direct[Q, R any](ctx context.Context, s *service, do func(context.Context, *Q) (*R, error), q *Q) (*R, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.calls.Done()
	return do(ctx, q)
}

// Enqueue copies the payloads: a call that is cut short may leave them with the
// engine while the caller goes on.
func (s *service) Enqueue(ctx context.Context, r *errandv1.EnqueueRequest) (*errandv1.EnqueueResponse, error) {
	for _, it := range r.GetItems() {
		it.Payload = bytes.Clone(it.GetPayload())
	}
	return direct(ctx, s, s.api.Enqueue, r)
}

// Settle copies the results, for the same reason.
func (s *service) Settle(ctx context.Context, r *errandv1.SettleRequest) (*errandv1.SettleResponse, error) {
	for _, it := range r.GetItems() {
		it.Result = bytes.Clone(it.GetResult())
	}
	return direct(ctx, s, s.api.Settle, r)
}

// Extend copies the notes, for the same reason.
func (s *service) Extend(ctx context.Context, r *errandv1.ExtendRequest) (*errandv1.ExtendResponse, error) {
	for _, p := range r.GetProgress() {
		p.Note = bytes.Clone(p.GetNote())
	}
	return direct(ctx, s, s.api.Extend, r)
}

// The other calls hand nothing over that is written to again.

func (s *service) Wake(ctx context.Context, r *errandv1.WakeRequest) (*errandv1.WakeResponse, error) {
	return direct(ctx, s, s.api.Wake, r)
}

func (s *service) GetJobs(ctx context.Context, r *errandv1.GetJobsRequest) (*errandv1.GetJobsResponse, error) {
	return direct(ctx, s, s.api.GetJobs, r)
}

func (s *service) ListJobs(ctx context.Context, r *errandv1.ListJobsRequest) (*errandv1.ListJobsResponse, error) {
	return direct(ctx, s, s.api.ListJobs, r)
}

func (s *service) WaitJobs(ctx context.Context, r *errandv1.WaitJobsRequest) (*errandv1.WaitJobsResponse, error) {
	return direct(ctx, s, s.api.WaitJobs, r)
}

func (s *service) CancelJobs(ctx context.Context, r *errandv1.CancelJobsRequest) (*errandv1.CancelJobsResponse, error) {
	return direct(ctx, s, s.api.CancelJobs, r)
}

func (s *service) DeleteJobs(ctx context.Context, r *errandv1.DeleteJobsRequest) (*errandv1.DeleteJobsResponse, error) {
	return direct(ctx, s, s.api.DeleteJobs, r)
}

func (s *service) RedriveJobs(ctx context.Context, r *errandv1.RedriveJobsRequest) (*errandv1.RedriveJobsResponse, error) {
	return direct(ctx, s, s.api.RedriveJobs, r)
}

func (s *service) PurgeDead(ctx context.Context, r *errandv1.PurgeDeadRequest) (*errandv1.PurgeDeadResponse, error) {
	return direct(ctx, s, s.api.PurgeDead, r)
}

func (s *service) CountDead(ctx context.Context, r *errandv1.CountDeadRequest) (*errandv1.CountDeadResponse, error) {
	return direct(ctx, s, s.api.CountDead, r)
}

func (s *service) OpenSession(ctx context.Context, r *errandv1.OpenSessionRequest) (*errandv1.OpenSessionResponse, error) {
	return direct(ctx, s, s.api.OpenSession, r)
}

func (s *service) Lease(ctx context.Context, r *errandv1.LeaseRequest) (*errandv1.LeaseResponse, error) {
	return direct(ctx, s, s.api.Lease, r)
}

// LeaseJobs is what the SDK's worker calls in the place of Lease.
func (s *service) LeaseJobs(ctx context.Context, r *errandv1.LeaseRequest, room func() *errand.RawJob) (draining bool, err error) {
	if err := s.enter(); err != nil {
		return false, err
	}
	defer s.calls.Done()
	return local.Service{Service: s.api}.LeaseJobs(ctx, r, room)
}

func (s *service) CloseSession(ctx context.Context, r *errandv1.CloseSessionRequest) (*errandv1.CloseSessionResponse, error) {
	return direct(ctx, s, s.api.CloseSession, r)
}

func (s *service) ListQueues(ctx context.Context, r *errandv1.ListQueuesRequest) (*errandv1.ListQueuesResponse, error) {
	return direct(ctx, s, s.api.ListQueues, r)
}

func (s *service) RouteQueue(ctx context.Context, r *errandv1.RouteQueueRequest) (*errandv1.RouteQueueResponse, error) {
	return direct(ctx, s, s.api.RouteQueue, r)
}

func (s *service) PauseQueue(ctx context.Context, r *errandv1.PauseQueueRequest) (*errandv1.PauseQueueResponse, error) {
	return direct(ctx, s, s.api.PauseQueue, r)
}

func (s *service) ResumeQueue(ctx context.Context, r *errandv1.ResumeQueueRequest) (*errandv1.ResumeQueueResponse, error) {
	return direct(ctx, s, s.api.ResumeQueue, r)
}

func (s *service) ListSessions(ctx context.Context, r *errandv1.ListSessionsRequest) (*errandv1.ListSessionsResponse, error) {
	return direct(ctx, s, s.api.ListSessions, r)
}

func (s *service) GetInsights(ctx context.Context, r *errandv1.GetInsightsRequest) (*errandv1.GetInsightsResponse, error) {
	return direct(ctx, s, s.api.GetInsights, r)
}

func (s *service) GetScaling(ctx context.Context, r *errandv1.GetScalingRequest) (*errandv1.GetScalingResponse, error) {
	return direct(ctx, s, s.api.GetScaling, r)
}

func (s *service) GetServerInfo(ctx context.Context, r *errandv1.GetServerInfoRequest) (*errandv1.GetServerInfoResponse, error) {
	return direct(ctx, s, s.api.GetServerInfo, r)
}

func (s *service) WatchJobs(ctx context.Context, r *errandv1.WatchJobsRequest, each func(*errandv1.WatchJobsResponse) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.calls.Done()
	return s.api.WatchJobs(ctx, r, each)
}
