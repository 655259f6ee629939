package api

import (
	"context"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/job"
)

// ListQueues returns every queue that has jobs or is paused.
func (s *Service) ListQueues(ctx context.Context, _ *errandv1.ListQueuesRequest) (*errandv1.ListQueuesResponse, error) {
	queues, err := s.engine.Queues(ctx)
	if err != nil {
		return nil, s.fail(ctx, "ListQueues", err)
	}
	resp := &errandv1.ListQueuesResponse{Queues: make([]*errandv1.Queue, len(queues))}
	for i := range queues {
		resp.Queues[i] = encodeQueue(&queues[i])
	}
	return resp, nil
}

// PauseQueue stops a queue's jobs from being leased; running ones go on.
func (s *Service) PauseQueue(ctx context.Context, r *errandv1.PauseQueueRequest) (*errandv1.PauseQueueResponse, error) {
	err := job.CheckName("queue", r.GetQueue())
	if err == nil {
		err = s.engine.Pause(ctx, r.GetQueue())
	}
	if err != nil {
		return nil, s.fail(ctx, "PauseQueue", err)
	}
	return &errandv1.PauseQueueResponse{}, nil
}

// ResumeQueue undoes PauseQueue.
func (s *Service) ResumeQueue(ctx context.Context, r *errandv1.ResumeQueueRequest) (*errandv1.ResumeQueueResponse, error) {
	err := job.CheckName("queue", r.GetQueue())
	if err == nil {
		err = s.engine.Resume(ctx, r.GetQueue())
	}
	if err != nil {
		return nil, s.fail(ctx, "ResumeQueue", err)
	}
	return &errandv1.ResumeQueueResponse{}, nil
}

// RouteQueue says by which carrier a queue's jobs go.
func (s *Service) RouteQueue(ctx context.Context, r *errandv1.RouteQueueRequest) (*errandv1.RouteQueueResponse, error) {
	if err := s.engine.SetRoute(ctx, r.GetQueue(), r.GetRoute()); err != nil {
		return nil, s.fail(ctx, "RouteQueue", err)
	}
	return &errandv1.RouteQueueResponse{}, nil
}

// ListSessions returns the workers, newest first.
func (s *Service) ListSessions(ctx context.Context, _ *errandv1.ListSessionsRequest) (*errandv1.ListSessionsResponse, error) {
	sessions, err := s.engine.ListSessions(ctx)
	if err != nil {
		return nil, s.fail(ctx, "ListSessions", err)
	}
	resp := &errandv1.ListSessionsResponse{Sessions: make([]*errandv1.Session, len(sessions))}
	for i := range sessions {
		resp.Sessions[i] = encodeSession(&sessions[i])
	}
	return resp, nil
}

// GetServerInfo tells what the server is, and what the caller may do.
func (s *Service) GetServerInfo(ctx context.Context, _ *errandv1.GetServerInfoRequest) (*errandv1.GetServerInfoResponse, error) {
	info := s.engine.Info()
	return &errandv1.GetServerInfoResponse{
		Version: s.conf.Version, Ledger: s.conf.Ledger, MaxPayload: int64(s.conf.MaxPayload),
		StaleResults: info.StaleResults, Rescued: info.Rescued, Brake: info.Brake,
		Role: callOf(ctx).Role, Brokers: s.conf.Brokers,
		RelayLeads: info.RelayLeads, RefsPublished: info.RefsPublished, RefsRepublished: info.Republished, LeasedByRef: info.LeasedByRef,
		Cache: s.conf.Cache, CacheAway: info.CacheAway, CacheHits: info.CacheHits, CacheMisses: info.CacheMisses,
		CacheShed: info.CacheShed, CacheDrift: info.CacheDrift,
	}, nil
}
