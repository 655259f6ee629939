package errand

import (
	"context"
	"fmt"
	"iter"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// State is where a job stands.
type State string

// The states of a job.
const (
	Scheduled State = "scheduled" // waits for its time
	Ready     State = "ready"     // waits for a worker
	Running   State = "running"
	Succeeded State = "succeeded"
	Dead      State = "dead"      // a dead letter: kept until somebody redrives or removes it
	Cancelled State = "cancelled" // on request, or expired
)

// Final reports whether the job will not change by itself any more.
func (s State) Final() bool { return s == Succeeded || s == Dead || s == Cancelled }

var states = map[errandv1.JobState]State{
	errandv1.JobState_JOB_STATE_SCHEDULED: Scheduled,
	errandv1.JobState_JOB_STATE_READY:     Ready,
	errandv1.JobState_JOB_STATE_RUNNING:   Running,
	errandv1.JobState_JOB_STATE_SUCCEEDED: Succeeded,
	errandv1.JobState_JOB_STATE_DEAD:      Dead,
	errandv1.JobState_JOB_STATE_CANCELLED: Cancelled,
}

func wireState(s errandv1.JobState) State { return states[s] }

// toWireState fails for a state that does not exist; "" is any.
func toWireState(s State) (errandv1.JobState, error) {
	if s == "" {
		return errandv1.JobState_JOB_STATE_UNSPECIFIED, nil
	}
	for w, name := range states {
		if name == s {
			return w, nil
		}
	}
	return 0, badField("state %.64q is not one of scheduled, ready, running, succeeded, dead, cancelled", string(s))
}

// JobInfo is a job as the ledger knows it. Zero times are not set.
type JobInfo struct {
	ID              ID
	Queue           string
	Kind            string
	State           State
	Reason          string // why dead or cancelled: attempts, discarded, crashed, cancelled, expired
	Payload         []byte // not in lists
	ContentType     string
	Priority        int
	Attempt         int
	MaxAttempts     int
	Crashes         int
	Redrives        int
	CreatedAt       time.Time
	RunAt           time.Time // when it is, or became, claimable
	ExpiresAt       time.Time
	LeasedAt        time.Time // the last time
	DoneAt          time.Time
	Timeout         time.Duration // of an attempt; zero: none
	UniqueKey       string
	UniqueMode      UniqueMode
	UniqueFor       time.Duration
	Tags            []string
	TraceParent     string
	TraceState      string
	Progress        []byte
	Result          []byte     // not in lists
	Errors          []JobError // oldest first; in lists only the last
	Token           int64      // fencing token of the last lease
	Version         int64      // grows with every change
	SessionID       ID         // the worker session that holds it
	CancelRequested bool       // of a running job
}

// JobError is one attempt that went wrong.
type JobError struct {
	Attempt int
	Message string
	Stack   string
	At      time.Time
	Worker  string
	Crash   bool // the worker died, or lost its session, with the job in its hands
}

func infoOf(j *errandv1.Job) *JobInfo {
	if j == nil {
		return nil
	}
	info := &JobInfo{
		ID: wireID(j.GetId()), Queue: j.GetQueue(), Kind: j.GetKind(), State: wireState(j.GetState()), Reason: j.GetReason(),
		Payload: j.GetPayload(), ContentType: j.GetContentType(), Priority: int(j.GetPriority()),
		Attempt: int(j.GetAttempt()), MaxAttempts: int(j.GetMaxAttempts()), Crashes: int(j.GetCrashes()), Redrives: int(j.GetRedrives()),
		CreatedAt: timeOf(j.GetCreatedAt()), RunAt: timeOf(j.GetRunAt()), ExpiresAt: timeOf(j.GetExpiresAt()),
		LeasedAt: timeOf(j.GetLeasedAt()), DoneAt: timeOf(j.GetDoneAt()), Timeout: durationOf(j.GetTimeout()),
		UniqueKey: j.GetUniqueKey(), UniqueMode: uniqueModeOf(j.GetUniqueMode()), UniqueFor: durationOf(j.GetUniqueFor()),
		Tags: j.GetTags(), TraceParent: j.GetTraceParent(), TraceState: j.GetTraceState(), Progress: j.GetProgress(), Result: j.GetResult(),
		Token: j.GetToken(), Version: j.GetVersion(), SessionID: wireID(j.GetSessionId()), CancelRequested: j.GetCancelRequested(),
	}
	for _, e := range j.GetErrors() {
		info.Errors = append(info.Errors, JobError{
			Attempt: int(e.GetAttempt()), Message: e.GetMessage(), Stack: e.GetStack(),
			At: timeOf(e.GetAt()), Worker: e.GetWorker(), Crash: e.GetCrash(),
		})
	}
	return info
}

func infosOf(js []*errandv1.Job) []*JobInfo {
	out := make([]*JobInfo, len(js))
	for i, j := range js {
		out[i] = infoOf(j)
	}
	return out
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func durationOf(d *durationpb.Duration) time.Duration { return d.AsDuration() }

func uniqueModeOf(m errandv1.UniqueMode) UniqueMode {
	switch m {
	case errandv1.UniqueMode_UNIQUE_MODE_WHILE_QUEUED:
		return WhileQueued
	case errandv1.UniqueMode_UNIQUE_MODE_UNTIL_DONE:
		return UntilDone
	case errandv1.UniqueMode_UNIQUE_MODE_WINDOW:
		return Window
	default:
		return ""
	}
}

// Job returns one job, or ErrNotFound.
func (c *Client) Job(ctx context.Context, id ID) (*JobInfo, error) {
	js, err := c.Jobs(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(js) == 0 {
		return nil, notFound(id)
	}
	return js[0], nil
}

func notFound(id ID) error {
	return &Error{Code: CodeNotFound, Reason: ReasonNotFound, Message: fmt.Sprintf("no job %s", id)}
}

// Jobs returns those of the jobs that exist, in the order of the ids, as the
// ledger has them now.
func (c *Client) Jobs(ctx context.Context, ids ...ID) ([]*JobInfo, error) {
	r, err := call(ctx, c, c.svc.GetJobs, &errandv1.GetJobsRequest{Ids: wireIDs(ids), Fresh: true})
	if err != nil {
		return nil, err
	}
	return infosOf(r.GetJobs()), nil
}

// ListQuery chooses jobs. Empty fields choose all.
type ListQuery struct {
	Queue     string
	Kind      string
	State     State
	Error     string // of dead letters: a part of the last error's message
	Tag       string
	PageSize  int    // 100 if zero, at most 1000
	PageToken string // continue the list: NextPageToken of the page before
}

// JobPage is a page of a list, newest job first, without payloads, results, and
// all errors but the last.
type JobPage struct {
	Jobs          []*JobInfo
	NextPageToken string // "" on the last page
}

// ListPage returns one page.
func (c *Client) ListPage(ctx context.Context, q ListQuery) (JobPage, error) {
	state, err := toWireState(q.State)
	if err != nil {
		return JobPage{}, err
	}
	r, err := call(ctx, c, c.svc.ListJobs, &errandv1.ListJobsRequest{
		Queue: q.Queue, Kind: q.Kind, State: state, Error: q.Error, Tag: q.Tag,
		PageSize: clampInt32(q.PageSize), PageToken: q.PageToken,
	})
	if err != nil {
		return JobPage{}, err
	}
	return JobPage{Jobs: infosOf(r.GetJobs()), NextPageToken: r.GetNextPageToken()}, nil
}

// List goes through all jobs of the query, a page at a time. It ends after an error.
func (c *Client) List(ctx context.Context, q ListQuery) iter.Seq2[*JobInfo, error] {
	return func(yield func(*JobInfo, error) bool) {
		for {
			page, err := c.ListPage(ctx, q)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, j := range page.Jobs {
				if !yield(j, nil) {
					return
				}
			}
			if page.NextPageToken == "" {
				return
			}
			q.PageToken = page.NextPageToken
		}
	}
}

// waitPage is how long one call waits: less than tryTimeout, so that a
// frozen server is told from a job that takes its time.
const waitPage = 20 * time.Second

// Wait returns the job once it is final: succeeded, dead or cancelled. It
// waits until ctx ends. A job that does not exist is ErrNotFound.
func (c *Client) Wait(ctx context.Context, id ID) (*JobInfo, error) {
	for {
		j, err := c.Job(ctx, id)
		if err != nil {
			return nil, err
		}
		if j.State.Final() {
			return j, nil
		}
		_, err = call(ctx, c, c.svc.WaitJobs, &errandv1.WaitJobsRequest{Ids: []string{id.String()}, Timeout: durationpb.New(waitPage)})
		if err != nil {
			return nil, err
		}
	}
}

// JobResult answers a request about one of several jobs.
type JobResult struct {
	ID  ID
	Job *JobInfo // as it is now, without payload; nil if it does not exist
	Err error    // an *Error: why nothing was done
}

func resultsOf(rs []*errandv1.JobResult) []JobResult {
	out := make([]JobResult, len(rs))
	for i, r := range rs {
		out[i] = JobResult{ID: wireID(r.GetId()), Job: infoOf(r.GetJob()), Err: fromProblem(r.GetProblem())}
	}
	return out
}

// only returns the answer to a request about one job.
func only(rs []JobResult, err error) (*JobInfo, error) {
	if err != nil {
		return nil, err
	}
	if len(rs) != 1 {
		return nil, &Error{Code: CodeInternal, Message: fmt.Sprintf("the server answered %d results for one job", len(rs))}
	}
	return rs[0].Job, rs[0].Err
}

// Cancel cancels a job: at once if it is scheduled, ready or dead. Of a
// running one the handler's context is cancelled, and the job ends cancelled
// unless the handler succeeds all the same. A final job refuses, with ReasonBadTransition.
func (c *Client) Cancel(ctx context.Context, id ID) (*JobInfo, error) {
	return only(c.CancelMany(ctx, id))
}

// CancelMany is Cancel for at most 1000 jobs, with an answer for each.
func (c *Client) CancelMany(ctx context.Context, ids ...ID) ([]JobResult, error) {
	r, err := call(ctx, c, c.svc.CancelJobs, &errandv1.CancelJobsRequest{Ids: wireIDs(ids)})
	if err != nil {
		return nil, err
	}
	return resultsOf(r.GetResults()), nil
}

// Delete removes a job in any state but running.
func (c *Client) Delete(ctx context.Context, id ID) error {
	_, err := only(c.DeleteMany(ctx, id))
	return err
}

// DeleteMany is Delete for at most 1000 jobs, with an answer for each.
func (c *Client) DeleteMany(ctx context.Context, ids ...ID) ([]JobResult, error) {
	r, err := call(ctx, c, c.svc.DeleteJobs, &errandv1.DeleteJobsRequest{Ids: wireIDs(ids)})
	if err != nil {
		return nil, err
	}
	return resultsOf(r.GetResults()), nil
}
