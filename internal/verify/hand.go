package verify

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	errand "github.com/errandhq/errand"
	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// hand is a worker made call by call, so that it can do what no worker does: repeat what was
// answered, forget what it was given, use old tokens, fall silent.
type hand struct {
	b    *bench
	id   string
	kind string
	ttl  time.Duration

	mu      sync.Mutex
	call    int64
	leased  int64            // the number of the last Lease
	held    map[string]int64 // tokens by job
	pending map[int64]bool
	news    map[string]bool // jobs whose cancellation it was told of
	silent  func()          // ends the renewals, and waits for that
	dead    bool            // abandoned
	closed  bool
}

// hand opens a session that takes the jobs of a check, and renews it until close or
// abandon. One whose opening was not answered may be open all the same: clear closes it.
func (b *bench) hand(ctx context.Context, check string) (*hand, error) {
	h := &hand{
		b: b, id: errand.NewID().String(), kind: kindOf(check),
		held: map[string]int64{}, pending: map[int64]bool{}, news: map[string]bool{}, silent: func() {},
	}
	b.mu.Lock()
	b.hands = append(b.hands, h)
	b.mu.Unlock()
	host, _ := os.Hostname() // a name for people: the process id alone will do
	var opened *errandv1.OpenSessionResponse
	err := b.again(ctx, func(ctx context.Context) (err error) {
		opened, err = b.svc.OpenSession(ctx, &errandv1.OpenSessionRequest{
			SessionId: h.id, Worker: fmt.Sprintf("errand verify of %s-%d: %s", host, os.Getpid(), check), Version: errand.Version,
			Queues: []string{b.conf.Queue}, Kinds: []string{h.kind}, Concurrency: 10,
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", errand.ErrorOf(err))
	}
	h.ttl = opened.GetTtl().AsDuration()
	h.renew()
	return h, nil
}

// renew keeps the session alive in the background.
func (h *hand) renew() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	h.silent = sync.OnceFunc(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(h.ttl / 6):
			}
			_, _ = h.extend(ctx, nil) // whoever leases or settles next gets the error
		}
	}()
}

// extend sends one Extend that names what is held; with may change it first.
func (h *hand) extend(ctx context.Context, with func(*errandv1.ExtendRequest)) (*errandv1.ExtendResponse, error) {
	h.mu.Lock()
	h.call++
	req := &errandv1.ExtendRequest{SessionId: h.id, Call: h.call}
	for id, token := range h.held {
		req.Held = append(req.Held, &errandv1.Held{Id: id, Token: token})
	}
	for call := range h.pending {
		req.PendingCalls = append(req.PendingCalls, call)
	}
	h.mu.Unlock()
	if with != nil {
		with(req)
	}
	var resp *errandv1.ExtendResponse
	err := h.b.again(ctx, func(ctx context.Context) (err error) {
		resp, err = h.b.svc.Extend(ctx, req)
		return err
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range resp.GetCancelled() {
		h.news[c.GetId()] = true
	}
	return resp, err
}

// toldToCancel reports whether the server has told that the job is to be cancelled.
func (h *hand) toldToCancel(id errand.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.news[id.String()]
}

// lease asks once for at most so many jobs.
func (h *hand) lease(ctx context.Context, most int, wait time.Duration) ([]*errandv1.Job, error) {
	h.mu.Lock()
	h.call++
	h.leased = h.call
	req := h.leaseRequest(h.call, most, wait)
	h.pending[req.Call] = true
	h.mu.Unlock()
	var resp *errandv1.LeaseResponse
	err := h.b.again(ctx, func(ctx context.Context) (err error) {
		resp, err = h.b.svc.Lease(ctx, req)
		return err
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.pending, req.Call)
	for _, j := range resp.GetJobs() {
		h.held[j.GetId()] = j.GetToken()
	}
	return resp.GetJobs(), err
}

func (h *hand) leaseRequest(call int64, most int, wait time.Duration) *errandv1.LeaseRequest {
	return &errandv1.LeaseRequest{
		SessionId: h.id, Call: call, Queues: []string{h.b.conf.Queue}, Kinds: []string{h.kind},
		Max: int32(most), Wait: durationpb.New(wait),
	}
}

// longest is how long a ready job may take to a hand that asks for it: a ref that a
// carrier lost is published again after half a minute.
const longest = 45 * time.Second

// patience is that of this run.
func (b *bench) patience() time.Duration { return min(longest, b.conf.Timeout/3) }

// take leases until it has so many jobs. That none come is a broken promise.
func (h *hand) take(ctx context.Context, n int) ([]*errandv1.Job, error) {
	var got []*errandv1.Job
	for deadline := time.Now().Add(h.b.patience()); len(got) < n; {
		jobs, err := h.lease(ctx, n-len(got), 2*time.Second)
		if err != nil {
			return got, fmt.Errorf("lease: %w", err)
		}
		got = append(got, jobs...)
		if len(got) < n && time.Now().After(deadline) {
			return got, broken("of %d jobs that were ready, a free hand got %d within %s", n, len(got), h.b.patience())
		}
	}
	return got, nil
}

// one takes a single job.
func (h *hand) one(ctx context.Context) (*errandv1.Job, error) {
	jobs, err := h.take(ctx, 1)
	if err != nil {
		return nil, err
	}
	return jobs[0], nil
}

// forget lets go of a job without a word.
func (h *hand) forget(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.held, id)
}

// settle ends one lease and returns the answer to it.
func (h *hand) settle(ctx context.Context, s *errandv1.Settlement) (*errandv1.SettleResult, error) {
	var resp *errandv1.SettleResponse
	err := h.b.again(ctx, func(ctx context.Context) (err error) {
		resp, err = h.b.svc.Settle(ctx, &errandv1.SettleRequest{SessionId: h.id, Items: []*errandv1.Settlement{s}})
		return err
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("settle: %w", err)
	case len(resp.GetResults()) != 1:
		return nil, broken("a settle of one job got %d answers", len(resp.GetResults()))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held[s.GetId()] == s.GetToken() {
		delete(h.held, s.GetId())
	}
	return resp.GetResults()[0], nil
}

// succeed settles a job that is held; a refusal is a broken promise.
func (h *hand) succeed(ctx context.Context, j *errandv1.Job) error {
	return h.accepted(ctx, success(j), errandv1.JobState_JOB_STATE_SUCCEEDED)
}

// accepted settles and wants the job in this state.
func (h *hand) accepted(ctx context.Context, s *errandv1.Settlement, want ...errandv1.JobState) error {
	r, err := h.settle(ctx, s)
	if err != nil {
		return err
	}
	if r.GetProblem() != nil {
		return broken("%s of job %s under its valid token %d was refused: %s %s", s.GetOutcome(), s.GetId(), s.GetToken(), r.GetProblem().GetReason(), r.GetProblem().GetMessage())
	}
	for _, w := range want {
		if r.GetState() == w {
			return nil
		}
	}
	return broken("%s of job %s was answered with state %s; want %v", s.GetOutcome(), s.GetId(), r.GetState(), want)
}

func success(j *errandv1.Job) *errandv1.Settlement {
	return &errandv1.Settlement{
		Id: j.GetId(), Token: j.GetToken(), Outcome: errandv1.Outcome_OUTCOME_SUCCEED,
		Result: fmt.Appendf(nil, `{"token":%d}`, j.GetToken()),
	}
}

func outcome(j *errandv1.Job, o errandv1.Outcome) *errandv1.Settlement {
	return &errandv1.Settlement{Id: j.GetId(), Token: j.GetToken(), Outcome: o}
}

// failure wants the next attempt soon, however long the server's own back-off is.
func failure(j *errandv1.Job) *errandv1.Settlement {
	s := outcome(j, errandv1.Outcome_OUTCOME_FAIL)
	s.Error, s.Delay = fmt.Sprintf("attempt %d fails, as ordered", j.GetAttempt()), durationpb.New(20*time.Millisecond)
	return s
}

// abandon falls silent with all that is held, as a process does that was killed.
func (h *hand) abandon() {
	h.dead = true
	h.silent()
}

// close ends the session.
func (h *hand) close(ctx context.Context, draining bool) error {
	h.silent()
	err := h.b.again(ctx, func(ctx context.Context) error {
		_, err := h.b.svc.CloseSession(ctx, &errandv1.CloseSessionRequest{SessionId: h.id, Draining: draining})
		return err
	})
	if err != nil && errand.ErrorOf(err).Reason == errand.ReasonSessionLost {
		err = nil
	}
	h.closed = err == nil
	return err
}

// outage is how long a call goes on to look for a server.
const outage = 10 * time.Second

// again repeats a call of the contract until it is answered: any of them may be.
func (b *bench) again(ctx context.Context, call func(context.Context) error) error {
	for deadline := time.Now().Add(outage); ; {
		try, cancel := context.WithTimeout(ctx, outage)
		err := call(try)
		cancel()
		if err == nil || ctx.Err() != nil || answers(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}
