package api

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// The bounds of a worker.
const (
	maxQueues    = 100 // of a session or a lease
	maxKinds     = 1000
	maxHands     = 10_000 // concurrency, and so jobs held
	maxPending   = 1000   // Lease calls without an answer
	maxLeaseWait = 30 * time.Second
)

// OpenSession registers a worker. Opening the same session again is no error.
func (s *Service) OpenSession(ctx context.Context, r *errandv1.OpenSessionRequest) (*errandv1.OpenSessionResponse, error) {
	ses, err := decodeSession(r)
	if err != nil {
		return nil, s.fail(ctx, "OpenSession", err)
	}
	ttl, err := s.engine.OpenSession(ctx, ses)
	if err != nil {
		return nil, s.fail(ctx, "OpenSession", err)
	}
	return &errandv1.OpenSessionResponse{Ttl: durationpb.New(ttl), RenewEvery: durationpb.New(ttl / 3)}, nil
}

func decodeSession(r *errandv1.OpenSessionRequest) (ses ledger.Session, err error) {
	ses = ledger.Session{
		Worker: r.GetWorker(), Version: r.GetVersion(), Kinds: r.GetKinds(),
		Queues: queuesOrDefault(r.GetQueues()), Concurrency: int(r.GetConcurrency()),
	}
	if ses.ID, err = parseNewID("session_id", r.GetSessionId()); err != nil {
		return ses, err
	}
	if err := text("worker", ses.Worker, job.MaxName); err != nil {
		return ses, err
	}
	if err := text("version", ses.Version, job.MaxName); err != nil {
		return ses, err
	}
	if err := names("queues", ses.Queues, maxQueues); err != nil {
		return ses, err
	}
	if err := names("kinds", ses.Kinds, maxKinds); err != nil {
		return ses, err
	}
	if ses.Concurrency < 0 || ses.Concurrency > maxHands {
		return ses, badField("concurrency", "%d is not between 0 and %d", ses.Concurrency, maxHands)
	}
	return ses, nil
}

func queuesOrDefault(queues []string) []string {
	if len(queues) == 0 {
		return []string{job.DefaultQueue}
	}
	return queues
}

// Lease takes ready jobs, waiting for them up to the wait asked for.
func (s *Service) Lease(ctx context.Context, r *errandv1.LeaseRequest) (*errandv1.LeaseResponse, error) {
	jobs, draining, err := s.LeaseJobs(ctx, r)
	if err != nil {
		return nil, err
	}
	return &errandv1.LeaseResponse{Jobs: encodeJobs(jobs), Draining: draining}, nil
}

// LeaseJobs is Lease for a caller in this process, who needs no messages of the jobs.
func (s *Service) LeaseJobs(ctx context.Context, r *errandv1.LeaseRequest) (jobs []job.Job, draining bool, err error) {
	req, err := decodeLease(r)
	if err != nil {
		return nil, false, s.fail(ctx, "Lease", err)
	}
	if jobs, draining, err = s.engine.Lease(ctx, req); err != nil {
		return nil, false, s.fail(ctx, "Lease", err)
	}
	return jobs, draining, nil
}

func decodeLease(r *errandv1.LeaseRequest) (req engine.LeaseRequest, err error) {
	req = engine.LeaseRequest{Call: r.GetCall(), Queues: r.GetQueues(), Kinds: r.GetKinds(), Max: int(r.GetMax())}
	if req.Session, err = parseID("session_id", r.GetSessionId()); err != nil {
		return req, err
	}
	if r.GetQueue() != "" {
		if len(req.Queues) > 0 {
			return req, badField("queue", "comes together with queues: set one of the two")
		}
		req.Queues = []string{r.GetQueue()}
	}
	req.Queues = queuesOrDefault(req.Queues)
	if err := names("queues", req.Queues, maxQueues); err != nil {
		return req, err
	}
	if err := names("kinds", req.Kinds, maxKinds); err != nil {
		return req, err
	}
	if req.Call < 1 {
		return req, badField("call", "%d is not positive: calls are numbered from 1", req.Call)
	}
	if req.Max < 1 || req.Max > job.MaxBatch {
		return req, badField("max", "%d is not between 1 and %d", req.Max, job.MaxBatch)
	}
	req.Wait, err = patience("wait", r.GetWait(), 0, maxLeaseWait)
	return req, err
}

// Extend renews a session and names what it holds.
func (s *Service) Extend(ctx context.Context, r *errandv1.ExtendRequest) (*errandv1.ExtendResponse, error) {
	req, err := decodeExtend(r)
	if err != nil {
		return nil, s.fail(ctx, "Extend", err)
	}
	reply, err := s.engine.Extend(ctx, req)
	if err != nil {
		return nil, s.fail(ctx, "Extend", err)
	}
	return &errandv1.ExtendResponse{
		Cancelled: encodeHeld(reply.Cancelled), Lost: encodeHeld(reply.Lost), Draining: reply.Draining,
	}, nil
}

func decodeExtend(r *errandv1.ExtendRequest) (req engine.ExtendRequest, err error) {
	req = engine.ExtendRequest{Call: r.GetCall(), Pending: r.GetPendingCalls()}
	if req.Session, err = parseID("session_id", r.GetSessionId()); err != nil {
		return req, err
	}
	if req.Call < 1 {
		return req, badField("call", "%d is not positive: calls are numbered from 1", req.Call)
	}
	if err := checkCount("pending_calls", len(req.Pending), 0, maxPending); err != nil {
		return req, err
	}
	if req.Held, err = decodeHeld(r.GetHeld()); err != nil {
		return req, err
	}
	if req.Progress, err = decodeProgress(r.GetProgress()); err != nil {
		return req, err
	}
	// The engine cuts it to a sixth of its time-to-live.
	req.Wait, err = patience("wait", r.GetWait(), 0, maxLeaseWait)
	return req, err
}

func decodeHeld(in []*errandv1.Held) ([]engine.Held, error) {
	if err := checkCount("held", len(in), 0, maxHands); err != nil {
		return nil, err
	}
	out := make([]engine.Held, len(in))
	for i, m := range in {
		id, err := leased(index("held", i), m.GetId(), m.GetToken())
		if err != nil {
			return nil, err
		}
		out[i] = engine.Held{ID: id, Token: m.GetToken()}
	}
	return out, nil
}

func decodeProgress(in []*errandv1.Progress) ([]engine.Progress, error) {
	if err := checkCount("progress", len(in), 0, maxHands); err != nil {
		return nil, err
	}
	out := make([]engine.Progress, len(in))
	for i, m := range in {
		field := index("progress", i)
		id, err := leased(field, m.GetId(), m.GetToken())
		if err != nil {
			return nil, err
		}
		if n := len(m.GetNote()); n > job.MaxProgress {
			return nil, tooLarge(field+".note", "has %d bytes; at most %d are allowed", n, job.MaxProgress)
		}
		out[i] = engine.Progress{ID: id, Token: m.GetToken(), Note: m.GetNote()}
	}
	return out, nil
}

// leased reads the id and the token of a lease.
func leased(field, id string, token int64) (job.ID, error) {
	if token < 1 {
		return job.ID{}, badField(field+".token", "%d is not positive", token)
	}
	return parseID(field+".id", id)
}

func encodeHeld(in []engine.Held) []*errandv1.Held {
	out := make([]*errandv1.Held, len(in))
	for i, h := range in {
		out[i] = &errandv1.Held{Id: h.ID.String(), Token: h.Token}
	}
	return out
}

// Settle ends leases.
func (s *Service) Settle(ctx context.Context, r *errandv1.SettleRequest) (*errandv1.SettleResponse, error) {
	session, err := parseID("session_id", r.GetSessionId())
	if err != nil {
		return nil, s.fail(ctx, "Settle", err)
	}
	items, err := s.decodeSettlements(r.GetItems())
	if err != nil {
		return nil, s.fail(ctx, "Settle", err)
	}
	answers, err := s.engine.Settle(ctx, session, items)
	if err != nil {
		return nil, s.fail(ctx, "Settle", err)
	}
	out := make([]*errandv1.SettleResult, len(answers))
	plain := &errandv1.SettleResult{State: errandv1.JobState_JOB_STATE_SUCCEEDED} // most answers are this one
	for i, a := range answers {
		if out[i] = plain; a.State != job.Succeeded || a.Repeated || a.Err != nil {
			out[i] = &errandv1.SettleResult{State: encodeState(a.State), Repeated: a.Repeated, Problem: s.problem(ctx, "Settle", a.Err)}
		}
	}
	return &errandv1.SettleResponse{Results: out}, nil
}

func (s *Service) decodeSettlements(in []*errandv1.Settlement) ([]engine.Settlement, error) {
	if err := checkCount("items", len(in), 1, job.MaxBatch); err != nil {
		return nil, err
	}
	out := make([]engine.Settlement, len(in))
	size := 0
	for i, m := range in {
		var err error
		if out[i], err = decodeSettlement("", m); err != nil {
			_, err = decodeSettlement(index("items", i), m) // says which: no names are put together for those in order
			return nil, err
		}
		size += len(m.GetResult())
	}
	if size > job.MaxBatchBytes {
		return nil, tooLarge("items", "the results have together %d bytes; at most %d are allowed in a call", size, job.MaxBatchBytes)
	}
	return out, nil
}

// events are the outcomes of a handler.
var events = map[errandv1.Outcome]job.Event{
	errandv1.Outcome_OUTCOME_SUCCEED: job.Succeed,
	errandv1.Outcome_OUTCOME_FAIL:    job.Fail,
	errandv1.Outcome_OUTCOME_DISCARD: job.Discard,
	errandv1.Outcome_OUTCOME_SNOOZE:  job.Snooze,
	errandv1.Outcome_OUTCOME_RELEASE: job.Release,
}

func decodeSettlement(field string, m *errandv1.Settlement) (it engine.Settlement, err error) {
	event, ok := events[m.GetOutcome()]
	if !ok {
		return it, badField(field+".outcome", "%d is not one of succeed, fail, discard, snooze, release", int32(m.GetOutcome()))
	}
	it = engine.Settlement{
		Token: m.GetToken(), Event: event, Result: m.GetResult(),
		Error: printable(m.GetError()), Stack: printable(m.GetStack()),
	}
	if it.ID, err = leased(field, m.GetId(), m.GetToken()); err != nil {
		return it, err
	}
	switch n := len(it.Result); {
	case n > job.MaxResult:
		return it, tooLarge(field+".result", "has %d bytes; at most %d are allowed", n, job.MaxResult)
	case n > 0 && event != job.Succeed:
		return it, badField(field+".result", "goes with outcome succeed only")
	case m.GetDelay() != nil && event != job.Fail && event != job.Snooze:
		return it, badField(field+".delay", "goes with outcomes fail and snooze only")
	}
	it.Delay, err = duration(field+".delay", m.GetDelay())
	return it, err
}

// printable makes a handler's error fit for a text column. What a program said
// as it failed must never keep the failure from being recorded.
func printable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "�"), "\x00", "�")
}

// CloseSession is a worker's last call.
func (s *Service) CloseSession(ctx context.Context, r *errandv1.CloseSessionRequest) (*errandv1.CloseSessionResponse, error) {
	id, err := parseID("session_id", r.GetSessionId())
	if err == nil {
		err = s.engine.CloseSession(ctx, id, r.GetDraining())
	}
	if err != nil {
		return nil, s.fail(ctx, "CloseSession", err)
	}
	return &errandv1.CloseSessionResponse{}, nil
}
