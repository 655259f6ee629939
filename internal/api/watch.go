package api

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/gen/errand/v1/errandv1connect"
	"github.com/errandhq/errand/internal/auth"
	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// WatchJobs calls each with what becomes of jobs, until ctx ends, each returns an
// error or the server drains. It is the call without a wire: see WatchHandler.
func (s *Service) WatchJobs(ctx context.Context, r *errandv1.WatchJobsRequest, each func(*errandv1.WatchJobsResponse) error) error {
	f, err := decodeWatch(r)
	if err == nil {
		err = mayWatch(ctx, &f)
	}
	if err != nil {
		return s.fail(ctx, "WatchJobs", err)
	}
	var enough error // the caller's own
	err = s.engine.Watch(ctx, f, func(e engine.WatchEvent) error {
		enough = each(encodeWatchEvent(&e))
		return enough
	})
	if enough != nil {
		return enough
	}
	return s.fail(ctx, "WatchJobs", err)
}

func decodeWatch(r *errandv1.WatchJobsRequest) (f engine.WatchFilter, err error) {
	if len(r.GetIds()) > 0 {
		if f.IDs, _, err = parseIDs("ids", r.GetIds()); err != nil {
			return f, err
		}
	}
	f.Queue, f.Kind = r.GetQueue(), r.GetKind()
	if err := name("queue", f.Queue); err != nil {
		return f, err
	}
	return f, name("kind", f.Kind)
}

// mayWatch lets callers who may not list jobs watch only those that they can
// name: ids are not guessable.
func mayWatch(ctx context.Context, f *engine.WatchFilter) error {
	if len(f.IDs) > 0 {
		return nil
	}
	c := CallFrom(ctx)
	if role, err := auth.ParseRole(c.Role); err != nil || !role.SeesAll() {
		return job.Errorf(job.PermissionDenied, job.ReasonPermissionDenied,
			"role %s may watch jobs by id only; by queue or kind is for viewers", c.Role)
	}
	return nil
}

func encodeWatchEvent(e *engine.WatchEvent) *errandv1.WatchJobsResponse {
	m := &errandv1.WatchJobsResponse{Lagged: e.Lagged}
	if !e.ID.IsZero() {
		m.Event = &errandv1.JobEvent{
			Id: e.ID.String(), Queue: e.Queue, Kind: e.Kind, State: encodeState(e.State), Attempt: int32(e.Attempt),
			Version: e.Version, At: encodeTime(e.At), Progress: e.Progress, Reason: e.Reason, Deleted: e.State == job.Deleted,
		}
	}
	return m
}

// WatchHandler serves WatchJobs over the wire, which has a signature of its own
// for streams.
func (s *Service) WatchHandler() errandv1connect.WatchServiceHandler { return watchHandler{s} }

type watchHandler struct{ service *Service }

// WatchJobs implements errandv1connect.WatchServiceHandler.
func (h watchHandler) WatchJobs(ctx context.Context, r *errandv1.WatchJobsRequest, stream *connect.ServerStream[errandv1.WatchJobsResponse]) error {
	return h.service.WatchJobs(ctx, r, stream.Send)
}

// states answers GetJobs with view STATE.
func (s *Service) states(ctx context.Context, ids []job.ID, fresh bool) (map[job.ID]*errandv1.Job, error) {
	states, err := s.engine.States(ctx, ids, fresh)
	if err != nil {
		return nil, err
	}
	found := make(map[job.ID]*errandv1.Job, len(states))
	for i := range states {
		m := encodeEntry(&states[i].Entry)
		m.Age = durationpb.New(states[i].Age)
		found[states[i].ID] = m
	}
	return found, nil
}

func encodeEntry(e *cache.Entry) *errandv1.Job {
	return &errandv1.Job{
		Id: e.ID.String(), Queue: e.Queue, Kind: e.Kind, State: encodeState(e.State), Reason: e.Reason,
		Priority: int32(e.Priority), Attempt: int32(e.Attempt), MaxAttempts: int32(e.MaxAttempts), Crashes: int32(e.Crashes),
		RunAt: encodeTime(e.RunAt), Progress: e.Progress, Version: e.Version, Token: e.Token,
	}
}
