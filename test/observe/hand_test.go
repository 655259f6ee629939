package observe

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/durationpb"

	errand "github.com/errandhq/errand"
	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/gen/errand/v1/errandv1connect"
)

// hand is a worker that does only what it is told, by the bare protocol.
type hand struct {
	s    *scene
	svc  errandv1connect.QueueServiceClient
	id   string
	stop context.CancelFunc
	done chan struct{}
}

// newHand opens a session with five slots for kind k of a queue.
func newHand(s *scene, queue string) *hand {
	s.t.Helper()
	h := &hand{s: s, svc: errandv1connect.NewQueueServiceClient(http.DefaultClient, s.server.URL()), id: errand.NewID().String(), stop: func() {}}
	_, err := h.svc.OpenSession(s.t.Context(), &errandv1.OpenSessionRequest{
		SessionId: h.id, Worker: "hand", Queues: []string{queue}, Kinds: []string{"k"}, Concurrency: 5,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

// renew keeps the session alive until close.
func (h *hand) renew() {
	ctx, stop := context.WithCancel(h.s.t.Context())
	h.stop, h.done = stop, make(chan struct{})
	go func() {
		defer close(h.done)
		for call := int64(1); ctx.Err() == nil; call++ {
			_, _ = h.svc.Extend(ctx, &errandv1.ExtendRequest{SessionId: h.id, Call: call, Wait: durationpb.New(500 * time.Millisecond)})
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
}

func (h *hand) close() {
	h.s.t.Helper()
	h.stop()
	<-h.done
	if _, err := h.svc.CloseSession(h.s.t.Context(), &errandv1.CloseSessionRequest{SessionId: h.id}); err != nil {
		h.s.t.Error(err)
	}
}

// lease takes one job.
func (h *hand) lease() *errandv1.Job {
	h.s.t.Helper()
	resp, err := h.svc.Lease(h.s.t.Context(), &errandv1.LeaseRequest{
		SessionId: h.id, Call: 1, Queue: "cold", Kinds: []string{"k"}, Max: 1, Wait: durationpb.New(20 * time.Second),
	})
	if err != nil || len(resp.GetJobs()) != 1 {
		h.s.t.Fatalf("lease: %v, %v", resp, err)
	}
	return resp.GetJobs()[0]
}

// lost reports whether the session is dead; asking does not renew it.
func (h *hand) lost() bool {
	list, err := h.svc.ListSessions(h.s.t.Context(), &errandv1.ListSessionsRequest{})
	if err != nil {
		return false
	}
	for _, one := range list.GetSessions() {
		if one.GetId() == h.id {
			return one.GetState() == "dead"
		}
	}
	return true
}

// settle reports success, and must be refused.
func (h *hand) settle(j *errandv1.Job) {
	h.s.t.Helper()
	resp, err := h.svc.Settle(h.s.t.Context(), &errandv1.SettleRequest{SessionId: h.id, Items: []*errandv1.Settlement{
		{Id: j.GetId(), Token: j.GetToken(), Outcome: errandv1.Outcome_OUTCOME_SUCCEED}}})
	if err != nil && connect.CodeOf(err) != connect.CodeFailedPrecondition {
		h.s.t.Error(err)
	}
	if err == nil && resp.GetResults()[0].GetProblem().GetReason() != "STALE_TOKEN" {
		h.s.t.Errorf("a result of a dead session was answered by %v", resp)
	}
}

// hold opens a transaction, of a connection of its own, and leaves it open.
func (s *scene) hold(sql string) {
	s.t.Helper()
	ctx := s.t.Context()
	conn, err := pgx.Connect(ctx, s.Postgres.DSN("errand"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, text := range []string{"BEGIN ISOLATION LEVEL REPEATABLE READ", sql} {
		if _, err := conn.Exec(ctx, text); err != nil {
			s.t.Fatalf("%s: %v", text, err)
		}
	}
	s.held = conn
}

// letGo ends it.
func (s *scene) letGo() {
	s.t.Helper()
	if err := s.held.Close(s.t.Context()); err != nil {
		s.t.Error(err)
	}
}
