package errand

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// streams is a Service whose watches follow a script: one function a stream.
type streams struct {
	Service // panics on calls that no test makes
	script  []func(ctx context.Context, r *errandv1.WatchJobsRequest, each func(*errandv1.WatchJobsResponse) error) error
	asked   []*errandv1.WatchJobsRequest
}

func (s *streams) WatchJobs(ctx context.Context, r *errandv1.WatchJobsRequest, each func(*errandv1.WatchJobsResponse) error) error {
	s.asked = append(s.asked, r)
	return s.script[len(s.asked)-1](ctx, r, each)
}

var errAway = connect.NewError(connect.CodeUnavailable, errors.New("away"))

// say makes a stream that tells states of jobs and then breaks.
func say(events ...*errandv1.JobEvent) func(context.Context, *errandv1.WatchJobsRequest, func(*errandv1.WatchJobsResponse) error) error {
	return func(_ context.Context, _ *errandv1.WatchJobsRequest, each func(*errandv1.WatchJobsResponse) error) error {
		for _, e := range events {
			if err := each(&errandv1.WatchJobsResponse{Event: e}); err != nil {
				return err
			}
		}
		return errAway
	}
}

func event(id ID, version int64, s errandv1.JobState) *errandv1.JobEvent {
	return &errandv1.JobEvent{Id: id.String(), Version: version, State: s}
}

// TestWatchResumesWhereItBroke: the second stream begins, as servers do, with
// what the jobs are; what was told already is not told again, and the end of
// the last job ends the watch.
func TestWatchResumesWhereItBroke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := NewID(), NewID()
		s := &streams{}
		s.script = append(s.script,
			say(event(a, 1, errandv1.JobState_JOB_STATE_READY), event(b, 1, errandv1.JobState_JOB_STATE_READY), event(a, 3, errandv1.JobState_JOB_STATE_SUCCEEDED)),
			say(),
			say(event(b, 1, errandv1.JobState_JOB_STATE_READY), event(b, 2, errandv1.JobState_JOB_STATE_RUNNING), event(b, 3, errandv1.JobState_JOB_STATE_DEAD)),
		)
		var got []Event
		for e, err := range NewClient(s, nil).Watch(t.Context(), WatchQuery{IDs: []ID{a, b}}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e)
		}
		want := []State{Ready, Ready, Succeeded, Running, Dead}
		if len(got) != len(want) {
			t.Fatalf("told of %+v", got)
		}
		for i := range want {
			if got[i].State != want[i] {
				t.Errorf("event %d is %s, want %s", i, got[i].State, want[i])
			}
		}
		if ids := s.asked[2].GetIds(); len(ids) != 1 || ids[0] != b.String() {
			t.Errorf("after the end of the other job still asked for %v", ids)
		}
	})
}

func TestWatchOfAQueueTellsOfItsGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &streams{}
		s.script = append(s.script, say(event(NewID(), 1, errandv1.JobState_JOB_STATE_READY)), say(event(NewID(), 1, errandv1.JobState_JOB_STATE_READY)))
		var lagged []bool
		for e, err := range NewClient(s, nil).Watch(t.Context(), WatchQuery{Queue: "q"}) {
			if err != nil {
				t.Fatal(err)
			}
			if lagged = append(lagged, e.Lagged); len(lagged) == 3 {
				break
			}
		}
		if lagged[0] || !lagged[1] || lagged[2] {
			t.Errorf("lagged: %v", lagged)
		}
	})
}

// TestWatchLeavesASilentServer has the first stream stay open and say nothing.
func TestWatchLeavesASilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := NewID()
		s := &streams{}
		s.script = append(s.script,
			func(ctx context.Context, _ *errandv1.WatchJobsRequest, each func(*errandv1.WatchJobsResponse) error) error {
				for range 3 {
					time.Sleep(10 * time.Second) // of virtual time: the server's sign of life
					if err := each(&errandv1.WatchJobsResponse{}); err != nil {
						return err
					}
				}
				<-ctx.Done()
				return ctx.Err()
			},
			say(&errandv1.JobEvent{Id: id.String(), Deleted: true}))
		c, began, n := NewClient(s, nil), time.Now(), 0
		c.retryFor = time.Minute
		for e, err := range c.Watch(t.Context(), WatchQuery{IDs: []ID{id}}) {
			if err != nil || !e.Deleted {
				t.Fatalf("%+v, %v", e, err)
			}
			n++
		}
		if took := time.Since(began); n != 1 || took < 60*time.Second || took > 80*time.Second {
			t.Errorf("%d events, after %s", n, took)
		}
	})
}

func TestWatchEnds(t *testing.T) {
	refused := connect.NewError(connect.CodePermissionDenied, errors.New("no"))
	for name, c := range map[string]struct {
		err  error
		code Code
	}{"when it is refused": {refused, CodePermissionDenied}, "when nobody answers": {errAway, CodeUnavailable}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &streams{}
				for range 1000 {
					s.script = append(s.script, func(context.Context, *errandv1.WatchJobsRequest, func(*errandv1.WatchJobsResponse) error) error {
						return c.err
					})
				}
				var last error
				for _, err := range NewClient(s, nil).Watch(t.Context(), WatchQuery{IDs: []ID{NewID()}}) {
					last = err
				}
				var e *Error
				if !errors.As(last, &e) || e.Code != c.code {
					t.Errorf("ended with %v", last)
				}
			})
		})
	}
}

// TestWatchOfNoJobs: a list that came out empty is not every job.
func TestWatchOfNoJobs(t *testing.T) {
	for e, err := range NewClient(nil, nil).Watch(t.Context(), WatchQuery{IDs: []ID{}}) {
		t.Fatalf("told %+v, %v", e, err)
	}
}
