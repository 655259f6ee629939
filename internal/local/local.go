// Package local is the API for the SDK in the same process: the calls of the
// contract, and those that need no messages.
package local

import (
	"context"

	"github.com/errandhq/errand"
	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/internal/api"
	"github.com/errandhq/errand/job"
)

// Service is an api.Service that hands jobs over as they are.
type Service struct{ *api.Service }

// LeaseJobs is Lease for the SDK's worker: it asks for room for each job, and
// fills it. After an error there was none.
func (s Service) LeaseJobs(ctx context.Context, r *errandv1.LeaseRequest, room func() *errand.RawJob) (draining bool, err error) {
	jobs, draining, err := s.Service.LeaseJobs(ctx, r)
	if err != nil {
		return false, err
	}
	for i := range jobs {
		fill(room(), &jobs[i])
	}
	return draining, nil
}

// fill tells what a message of the job would tell a worker.
func fill(to *errand.RawJob, j *job.Job) {
	to.ID, to.Queue, to.Kind, to.Payload, to.ContentType = errand.ID(j.ID), j.Queue, j.Kind, j.Payload, j.ContentType
	to.Priority, to.Attempt, to.MaxAttempts, to.Crashes = j.Priority, j.Attempt, j.MaxAttempts, j.Crashes
	to.CreatedAt, to.RunAt, to.Timeout = j.CreatedAt.UTC(), j.RunAt.UTC(), j.Timeout
	to.TraceParent, to.TraceState = job.SplitTrace(j.Trace)
	to.Tags, to.Token = j.Tags, j.Token
}
