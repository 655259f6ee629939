package server

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/gen/errand/v1/errandv1connect"
	"github.com/errandhq/errand/internal/auth"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/postgres"
	"github.com/errandhq/errand/ledger/sqlite"
)

// onEach runs a test on a server over a fresh ledger of each kind.
func onEach(t *testing.T, c Config, test func(t *testing.T, r *running)) {
	log := slog.New(slog.DiscardHandler)
	for name, open := range map[string]func(t *testing.T) (ledger.Ledger, error){
		"sqlite": func(t *testing.T) (ledger.Ledger, error) {
			return sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "errand.db"), sqlite.Options{Logger: log})
		},
		"postgres": func(t *testing.T) (ledger.Ledger, error) {
			return postgres.Open(t.Context(), testenv.Postgres(t), postgres.Options{Logger: log})
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := open(t)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
			test(t, serve(t, l, c))
		})
	}
}

// TestWorkOverTheWire drives the life of a job by every protocol, as a worker
// in another language would.
func TestWorkOverTheWire(t *testing.T) {
	onEach(t, Config{}, func(t *testing.T, r *running) {
		for name, c := range r.clients(t) {
			t.Run(name, func(t *testing.T) { lifeOfAJob(t, c) })
		}
	})
}

func lifeOfAJob(t *testing.T, c errandv1connect.QueueServiceClient) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id, session := newID(t), newID(t)
	if err := enqueue(ctx, c, &errandv1.EnqueueItem{Id: id, Kind: "k", Payload: []byte{0, 1, 255}, ContentType: "x/y"}); err != nil {
		t.Fatal(err)
	}
	opened, err := c.OpenSession(ctx, &errandv1.OpenSessionRequest{SessionId: session, Worker: "w", Concurrency: 1})
	if err != nil || opened.GetTtl().AsDuration() != 3*opened.GetRenewEvery().AsDuration() {
		t.Fatalf("%v, %v", opened, err)
	}
	leased, err := c.Lease(ctx, &errandv1.LeaseRequest{SessionId: session, Call: 1, Max: 1, Wait: durationpb.New(patience / 2)})
	if err != nil || len(leased.GetJobs()) != 1 {
		t.Fatalf("%v, %v", leased, err)
	}
	j := leased.GetJobs()[0]
	if j.GetId() != id || string(j.GetPayload()) != "\x00\x01\xff" || j.GetContentType() != "x/y" || j.GetAttempt() != 1 || j.GetToken() < 1 {
		t.Errorf("leased %v", j)
	}
	held := []*errandv1.Held{{Id: id, Token: j.GetToken()}, {Id: newID(t), Token: 7}}
	extended, err := c.Extend(ctx, &errandv1.ExtendRequest{SessionId: session, Call: 2, Held: held})
	if err != nil || len(extended.GetLost()) != 1 || extended.GetLost()[0].GetToken() != 7 {
		t.Errorf("extended %v, %v", extended, err)
	}
	settle := func(token int64) *errandv1.SettleResult {
		t.Helper()
		resp, err := c.Settle(ctx, &errandv1.SettleRequest{SessionId: session, Items: []*errandv1.Settlement{
			{Id: id, Token: token, Outcome: errandv1.Outcome_OUTCOME_SUCCEED, Result: []byte("42")}}})
		if err != nil || len(resp.GetResults()) != 1 {
			t.Fatalf("%v, %v", resp, err)
		}
		return resp.GetResults()[0]
	}
	if stale := settle(j.GetToken() + 1); stale.GetProblem().GetReason() != "STALE_TOKEN" {
		t.Errorf("a stale hand: %v", stale)
	}
	if first := settle(j.GetToken()); first.GetState() != errandv1.JobState_JOB_STATE_SUCCEEDED || first.GetRepeated() {
		t.Errorf("settled: %v", first)
	}
	if again := settle(j.GetToken()); again.GetState() != errandv1.JobState_JOB_STATE_SUCCEEDED || !again.GetRepeated() {
		t.Errorf("settled again: %v", again)
	}
	missing := newID(t)
	got, err := c.GetJobs(ctx, &errandv1.GetJobsRequest{Ids: []string{missing, id, id}})
	if err != nil || len(got.GetJobs()) != 2 || string(got.GetJobs()[0].GetResult()) != "42" {
		t.Errorf("got %v, %v", got, err)
	}
	cancelled, err := c.CancelJobs(ctx, &errandv1.CancelJobsRequest{Ids: []string{id, missing, id}})
	if err != nil || len(cancelled.GetResults()) != 3 || cancelled.GetResults()[1].GetProblem().GetReason() != "JOB_NOT_FOUND" ||
		cancelled.GetResults()[2].GetProblem().GetReason() != "BAD_TRANSITION" {
		t.Errorf("cancelled %v, %v", cancelled, err)
	}
	if _, err := c.CloseSession(ctx, &errandv1.CloseSessionRequest{SessionId: session}); err != nil {
		t.Error(err)
	}
	_, err = c.Extend(ctx, &errandv1.ExtendRequest{SessionId: session, Call: 3})
	var ce *connect.Error
	if !errors.As(err, &ce) || ce.Code() != connect.CodeFailedPrecondition || len(ce.Details()) != 2 {
		t.Errorf("a closed session: %v", err)
	}
}

// TestPages walks a list by tokens and shows that a token is of its query only.
func TestPages(t *testing.T) {
	onEach(t, Config{}, func(t *testing.T, r *running) {
		c, ctx := r.client(t), t.Context()
		want := map[string]bool{}
		for range 25 {
			id := newID(t)
			want[id] = true
			if err := enqueue(ctx, c, &errandv1.EnqueueItem{Id: id, Kind: "k", Queue: "pages"}); err != nil {
				t.Fatal(err)
			}
		}
		token, pages, last := "", 0, "g"
		for {
			resp, err := c.ListJobs(ctx, &errandv1.ListJobsRequest{Queue: "pages", PageSize: 10, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for _, j := range resp.GetJobs() {
				if !want[j.GetId()] || j.GetId() >= last {
					t.Fatalf("%s came twice, unasked or out of order", j.GetId())
				}
				delete(want, j.GetId())
				last = j.GetId()
			}
			if resp.GetNextPageToken() == "" {
				break
			}
			token = resp.GetNextPageToken()
		}
		if pages != 3 || len(want) != 0 {
			t.Errorf("%d pages, %d jobs missing", pages, len(want))
		}
		for _, other := range []*errandv1.ListJobsRequest{
			{Queue: "other", PageToken: token}, {PageToken: token}, {Queue: "pages", Kind: "k", PageToken: token},
			{Queue: "pages", PageToken: strings.ToUpper(token)},
		} {
			if _, err := c.ListJobs(ctx, other); connect.CodeOf(err) != connect.CodeInvalidArgument {
				t.Errorf("%v: %v", other, err)
			}
		}
	})
}

// TestIdempotencyKeysAreTheCallers: two callers may use the same key.
func TestIdempotencyKeysAreTheCallers(t *testing.T) {
	one, two := auth.NewToken(), auth.NewToken()
	var lines []string
	for name, tok := range map[string]auth.Token{"one": one, "two": two} {
		line, err := tok.Line(name, auth.Producer)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	onEach(t, Config{TokenFile: write(t, "tokens", strings.Join(lines, "\n"))}, func(t *testing.T, r *running) {
		const body = `{"items":[{"kind":"k","idempotencyKey":"order-7"}]}`
		send := func(tok auth.Token) string {
			t.Helper()
			status, text := r.post(t, "Enqueue", body, "Authorization", "Bearer "+tok.Reveal())
			if status != 200 {
				t.Fatalf("%d %s", status, text)
			}
			return strings.ReplaceAll(text, " ", "") // protojson varies its white space
		}
		if send(one); !strings.Contains(send(one), `"duplicate":true`) {
			t.Error("the same caller's key was not known")
		}
		if strings.Contains(send(two), `"duplicate":true`) {
			t.Error("another caller's key was taken for one's own")
		}
	})
}
