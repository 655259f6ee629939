package errand

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// fake is a server of one ledger in memory, just true enough to what the proto
// says of workers' calls, and scripted to go wrong: on, if set, is asked before
// (done = false) and after (done = true) each call was carried out; its
// error is the caller's answer.
type fake struct {
	Service // panics on calls that no test makes

	mu       sync.Mutex
	on       func(call string, n int, done bool) error
	calls    map[string]int
	jobs     []*fakeJob
	sessions map[string]bool // live
	ttl      time.Duration
	changed  chan struct{}
	draining bool

	closed    []*errandv1.CloseSessionRequest
	enqueues  []*errandv1.EnqueueRequest
	leases    []*errandv1.LeaseRequest
	extends   []*errandv1.ExtendRequest
	extendAt  []time.Time
	settles   []*errandv1.SettleRequest
	stale     int
	givenBack int
	progress  []*errandv1.Progress
}

type fakeJob struct {
	job     *errandv1.Job
	call    int64
	settled int64 // token
	last    *errandv1.Settlement
}

func newFake() *fake {
	return &fake{calls: map[string]int{}, sessions: map[string]bool{}, ttl: 30 * time.Second, changed: make(chan struct{})}
}

// add makes ready jobs and returns their ids.
func (f *fake) add(kind string, n int) []ID {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := make([]ID, n)
	for i := range ids {
		ids[i] = NewID()
		f.jobs = append(f.jobs, &fakeJob{job: &errandv1.Job{
			Id: ids[i].String(), Kind: kind, Queue: "default", State: errandv1.JobState_JOB_STATE_READY, Payload: []byte(`{}`), MaxAttempts: 25,
		}})
	}
	f.wake()
	return ids
}

func (f *fake) wake() { close(f.changed); f.changed = make(chan struct{}) }

func (f *fake) find(id string) *fakeJob {
	for _, j := range f.jobs {
		if j.job.Id == id {
			return j
		}
	}
	return nil
}

// state returns a copy of a job as it is now, with its last settlement.
func (f *fake) get(id ID) (errandv1.JobState, *errandv1.Settlement) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j := f.find(id.String())
	return j.job.State, j.last
}

func (f *fake) script(on func(call string, n int, done bool) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on = on
}

// with carries out a call under the lock, with the script around it.
func with[R any](f *fake, call string, do func() (R, error)) (R, error) {
	var none R
	f.mu.Lock()
	f.calls[call]++
	n, on := f.calls[call], f.on
	f.mu.Unlock()
	if on != nil {
		if err := on(call, n, false); err != nil {
			return none, err
		}
	}
	f.mu.Lock()
	r, err := do()
	f.mu.Unlock()
	if on != nil && err == nil {
		if err := on(call, n, true); err != nil {
			return none, err
		}
	}
	return r, err
}

func wireErr(c Code, r Reason) error {
	e := connect.NewError(c, errors.New(string(r)))
	if d, err := connect.NewErrorDetail(&errandv1.Problem{Reason: string(r)}); err == nil {
		e.AddDetail(d)
	}
	return e
}

// lost is an answer that never came.
var errLost = connect.NewError(CodeUnavailable, errors.New("the reply was lost"))

func (f *fake) Enqueue(_ context.Context, r *errandv1.EnqueueRequest) (*errandv1.EnqueueResponse, error) {
	return with(f, "Enqueue", func() (*errandv1.EnqueueResponse, error) {
		f.enqueues = append(f.enqueues, r)
		resp := &errandv1.EnqueueResponse{}
		for _, it := range r.Items {
			res := &errandv1.EnqueueResult{Id: it.Id, State: errandv1.JobState_JOB_STATE_READY}
			if f.find(it.Id) != nil {
				res.Duplicate = true
			} else {
				f.jobs = append(f.jobs, &fakeJob{job: &errandv1.Job{Id: it.Id, Kind: it.Kind, Queue: it.Queue, Payload: it.Payload, State: errandv1.JobState_JOB_STATE_READY}})
			}
			resp.Results = append(resp.Results, res)
		}
		f.wake()
		return resp, nil
	})
}

func (f *fake) OpenSession(_ context.Context, r *errandv1.OpenSessionRequest) (*errandv1.OpenSessionResponse, error) {
	return with(f, "OpenSession", func() (*errandv1.OpenSessionResponse, error) {
		f.sessions[r.SessionId] = true
		return &errandv1.OpenSessionResponse{Ttl: durationpb.New(f.ttl), RenewEvery: durationpb.New(f.ttl / 3)}, nil
	})
}

func (f *fake) Lease(ctx context.Context, r *errandv1.LeaseRequest) (*errandv1.LeaseResponse, error) {
	deadline := time.After(r.Wait.AsDuration())
	for {
		f.mu.Lock()
		changed := f.changed
		f.mu.Unlock()
		resp, err := with(f, "Lease", func() (*errandv1.LeaseResponse, error) { return f.lease(r) })
		if err != nil || len(resp.Jobs) > 0 || resp.Draining {
			return resp, err
		}
		select {
		case <-changed:
		case <-deadline:
			return resp, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (f *fake) lease(r *errandv1.LeaseRequest) (*errandv1.LeaseResponse, error) {
	f.leases = append(f.leases, r)
	if !f.sessions[r.SessionId] {
		return nil, wireErr(CodeFailedPrecondition, ReasonSessionLost)
	}
	resp := &errandv1.LeaseResponse{Draining: f.draining}
	for _, j := range f.jobs { // the same call gets the same jobs
		if j.job.State == errandv1.JobState_JOB_STATE_RUNNING && j.job.SessionId == r.SessionId && j.call == r.Call {
			resp.Jobs = append(resp.Jobs, j.job)
		}
	}
	for _, j := range f.jobs {
		if len(resp.Jobs) >= int(r.Max) || f.draining {
			break
		}
		if j.job.State == errandv1.JobState_JOB_STATE_READY && (len(r.Kinds) == 0 || slices.Contains(r.Kinds, j.job.Kind)) {
			j.job.State, j.job.SessionId, j.call = errandv1.JobState_JOB_STATE_RUNNING, r.SessionId, r.Call
			j.job.Token++
			j.job.Attempt++
			resp.Jobs = append(resp.Jobs, j.job)
		}
	}
	return resp, nil
}

func (f *fake) Extend(ctx context.Context, r *errandv1.ExtendRequest) (*errandv1.ExtendResponse, error) {
	resp, err := with(f, "Extend", func() (*errandv1.ExtendResponse, error) {
		f.extends, f.extendAt = append(f.extends, r), append(f.extendAt, time.Now())
		if !f.sessions[r.SessionId] {
			return nil, wireErr(CodeFailedPrecondition, ReasonSessionLost)
		}
		f.reconcile(r)
		f.progress = append(f.progress, r.Progress...)
		return &errandv1.ExtendResponse{}, nil
	})
	deadline := time.After(r.Wait.AsDuration())
	for err == nil {
		f.mu.Lock()
		changed := f.changed
		resp = f.news(r)
		f.mu.Unlock()
		if len(resp.Cancelled)+len(resp.Lost) > 0 || resp.Draining || r.Wait.AsDuration() == 0 {
			break
		}
		select {
		case <-changed:
		case <-deadline:
			return resp, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return resp, err
}

// reconcile gives back what came in lost replies.
func (f *fake) reconcile(r *errandv1.ExtendRequest) {
	for _, j := range f.jobs {
		named := slices.ContainsFunc(r.Held, func(h *errandv1.Held) bool { return h.Id == j.job.Id && h.Token == j.job.Token })
		if j.job.State == errandv1.JobState_JOB_STATE_RUNNING && j.job.SessionId == r.SessionId && j.call < r.Call &&
			!named && !slices.Contains(r.PendingCalls, j.call) {
			j.job.State = errandv1.JobState_JOB_STATE_READY
			j.job.Attempt--
			f.givenBack++
			f.wake()
		}
	}
}

func (f *fake) news(r *errandv1.ExtendRequest) *errandv1.ExtendResponse {
	resp := &errandv1.ExtendResponse{Draining: f.draining}
	for _, h := range r.Held {
		switch j := f.find(h.Id); {
		case j == nil || j.job.State != errandv1.JobState_JOB_STATE_RUNNING || j.job.Token != h.Token:
			if j == nil || j.settled != h.Token {
				resp.Lost = append(resp.Lost, h)
			}
		}
	}
	for _, j := range f.jobs { // named or not: it may have been leased since
		if j.job.State == errandv1.JobState_JOB_STATE_RUNNING && j.job.SessionId == r.SessionId && j.job.CancelRequested {
			resp.Cancelled = append(resp.Cancelled, &errandv1.Held{Id: j.job.Id, Token: j.job.Token})
		}
	}
	return resp
}

var outcomeStates = map[errandv1.Outcome]errandv1.JobState{
	errandv1.Outcome_OUTCOME_SUCCEED: errandv1.JobState_JOB_STATE_SUCCEEDED,
	errandv1.Outcome_OUTCOME_FAIL:    errandv1.JobState_JOB_STATE_SCHEDULED,
	errandv1.Outcome_OUTCOME_DISCARD: errandv1.JobState_JOB_STATE_DEAD,
	errandv1.Outcome_OUTCOME_SNOOZE:  errandv1.JobState_JOB_STATE_SCHEDULED,
	errandv1.Outcome_OUTCOME_RELEASE: errandv1.JobState_JOB_STATE_READY,
}

func (f *fake) Settle(_ context.Context, r *errandv1.SettleRequest) (*errandv1.SettleResponse, error) {
	return with(f, "Settle", func() (*errandv1.SettleResponse, error) {
		f.settles = append(f.settles, r)
		resp := &errandv1.SettleResponse{}
		for _, it := range r.Items {
			j, res := f.find(it.Id), &errandv1.SettleResult{}
			resp.Results = append(resp.Results, res)
			switch {
			case j.settled == it.Token:
				res.State, res.Repeated = j.job.State, true
			case j.job.State != errandv1.JobState_JOB_STATE_RUNNING || j.job.Token != it.Token:
				res.Problem = &errandv1.Problem{Code: "failed_precondition", Reason: string(ReasonStaleToken), Message: "stale"}
				f.stale++
			default:
				j.job.State, j.settled, j.last = outcomeStates[it.Outcome], it.Token, it
				if j.job.CancelRequested && it.Outcome != errandv1.Outcome_OUTCOME_SUCCEED {
					j.job.State = errandv1.JobState_JOB_STATE_CANCELLED
				}
				res.State = j.job.State
			}
		}
		f.wake()
		return resp, nil
	})
}

func (f *fake) CloseSession(_ context.Context, r *errandv1.CloseSessionRequest) (*errandv1.CloseSessionResponse, error) {
	return with(f, "CloseSession", func() (*errandv1.CloseSessionResponse, error) {
		f.closed = append(f.closed, r)
		delete(f.sessions, r.SessionId)
		return &errandv1.CloseSessionResponse{}, nil
	})
}

// client returns a Client of the fake.
func (f *fake) client() *Client { return NewClient(f, nil) }

// worker returns a Worker of the fake that says nothing.
func (f *fake) worker() *Worker {
	return &Worker{Client: f.client(), Name: "test", Logger: slog.New(slog.DiscardHandler)}
}

// start runs w until the returned stop is called, which returns Run's answer.
func start(t *testing.T, w *Worker) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	return func() error { cancel(); return <-done }
}
