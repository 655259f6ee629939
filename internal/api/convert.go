package api

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// The states and modes have the same numbers on the wire and in package job,
// which a test holds.

func encodeState(s job.State) errandv1.JobState {
	if s > job.Cancelled {
		return errandv1.JobState_JOB_STATE_UNSPECIFIED
	}
	return errandv1.JobState(s)
}

func decodeState(field string, s errandv1.JobState) (job.State, error) {
	if _, ok := errandv1.JobState_name[int32(s)]; !ok {
		return 0, badField(field, "state %d is unknown", int32(s))
	}
	return job.State(s), nil
}

// encodeTime leaves out what is not set.
func encodeTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// encodeDuration leaves out what is not set.
func encodeDuration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func encodeID(id job.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// encodeJob does not copy payload, result and progress: they belong to whoever
// read the job, and a reply is not changed after it was made.
func encodeJob(j *job.Job) *errandv1.Job {
	m := new(errandv1.Job)
	new(jobEncoder).encode(m, j)
	return m
}

// jobEncoder makes messages of many jobs, with little memory of its own for each.
type jobEncoder struct {
	times   []timestamppb.Timestamp // room
	session job.ID                  // of the last job, for its neighbours
	holder  string                  // its text
}

func (e *jobEncoder) encode(m *errandv1.Job, j *job.Job) {
	parent, state := job.SplitTrace(j.Trace)
	if j.Session != e.session {
		e.session, e.holder = j.Session, encodeID(j.Session)
	}
	*m = errandv1.Job{
		Id: j.ID.String(), Queue: j.Queue, Kind: j.Kind, State: encodeState(j.State),
		Payload: j.Payload, ContentType: j.ContentType, Priority: int32(j.Priority),
		Attempt: int32(j.Attempt), MaxAttempts: int32(j.MaxAttempts),
		Crashes: int32(j.Crashes), Redrives: int32(j.Redrives),
		CreatedAt: e.time(j.CreatedAt), RunAt: e.time(j.RunAt), ExpiresAt: e.time(j.ExpiresAt),
		LeasedAt: e.time(j.LeasedAt), DoneAt: e.time(j.DoneAt),
		Timeout:   encodeDuration(j.Timeout),
		UniqueKey: j.UniqueKey, UniqueMode: errandv1.UniqueMode(j.UniqueMode), UniqueFor: encodeDuration(j.UniqueFor),
		Tags: j.Tags, TraceParent: parent, TraceState: state, Progress: j.Progress, Result: j.Result,
		Token: j.Token, Version: j.Version, SessionId: e.holder,
		CancelRequested: j.CancelRequested, Reason: j.Reason,
	}
	for i := range j.Errors {
		m.Errors = append(m.Errors, encodeFailure(&j.Errors[i]))
	}
}

// time is encodeTime in the encoder's room, while there is any.
func (e *jobEncoder) time(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() || len(e.times) == 0 {
		return encodeTime(t)
	}
	m := &e.times[0]
	e.times = e.times[1:]
	m.Seconds, m.Nanos = t.Unix(), int32(t.Nanosecond())
	return m
}

func encodeFailure(f *job.Failure) *errandv1.JobError {
	return &errandv1.JobError{
		Attempt: int32(f.Attempt), Message: f.Message, Stack: f.Stack,
		At: encodeTime(f.At), Worker: f.Worker, Crash: f.Crash,
	}
}

func encodeJobs(jobs []job.Job) []*errandv1.Job {
	out, room := make([]*errandv1.Job, len(jobs)), make([]errandv1.Job, len(jobs))
	e := jobEncoder{times: make([]timestamppb.Timestamp, 3*len(jobs))} // a leased job has three
	for i := range jobs {
		out[i] = &room[i]
		e.encode(out[i], &jobs[i])
	}
	return out
}

// encodeBrief is encodeJob for a job that comes without its payload.
func encodeBrief(j *job.Job) *errandv1.Job {
	m := encodeJob(j)
	m.Payload = nil
	return m
}

func encodeQueue(q *engine.QueueInfo) *errandv1.Queue {
	m := &errandv1.Queue{
		Queue: q.Queue, Paused: q.Paused, Route: q.Route,
		Scheduled: q.Counts[job.Scheduled], Ready: q.Counts[job.Ready], Running: q.Counts[job.Running],
		Succeeded: q.Counts[job.Succeeded], Dead: q.Counts[job.Dead], Cancelled: q.Counts[job.Cancelled],
	}
	if q.HasReady {
		m.OldestReady = durationpb.New(max(q.OldestReady, 0))
	}
	for _, k := range q.Kinds {
		m.Kinds = append(m.Kinds, &errandv1.QueueKind{Kind: k.Kind, Ready: k.Ready, WaitingForWorker: k.WaitingForWorker})
	}
	return m
}

func encodeSession(s *ledger.Session) *errandv1.Session {
	return &errandv1.Session{
		Id: s.ID.String(), Worker: s.Worker, Version: s.Version, Queues: s.Queues, Kinds: s.Kinds,
		Concurrency: int32(s.Concurrency), State: s.State.String(), Running: int32(s.Running),
		OpenedAt: encodeTime(s.OpenedAt), RenewedAt: encodeTime(s.BeatAt),
	}
}
