package server

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/gen/errand/v1/errandv1connect"
	"github.com/errandhq/errand/internal/auth"
	"github.com/errandhq/errand/job"
)

// watchers are the protocols that carry a stream.
func (r *running) watchers(t *testing.T) map[string]errandv1connect.WatchServiceClient {
	t.Helper()
	h1, h2 := transport(t, false), transport(t, true)
	return map[string]errandv1connect.WatchServiceClient{
		"gRPC":         errandv1connect.NewWatchServiceClient(h2, r.URL(), connect.WithGRPC()),
		"gRPC-Web":     errandv1connect.NewWatchServiceClient(h1, r.URL(), connect.WithGRPCWeb()),
		"Connect":      errandv1connect.NewWatchServiceClient(h1, r.URL()),
		"Connect h2c":  errandv1connect.NewWatchServiceClient(h2, r.URL()),
		"Connect JSON": errandv1connect.NewWatchServiceClient(h1, r.URL(), connect.WithProtoJSON()),
	}
}

// TestWatchStreams watches over every protocol until the server drains, which
// ends the stream with the reason.
func TestWatchStreams(t *testing.T) {
	r := serve(t, &fake{}, Config{Grace: patience})
	type line struct {
		name   string
		stream *connect.ServerStreamForClient[errandv1.WatchJobsResponse]
	}
	var lines []line
	absent := uuid.Must(uuid.NewV7()).String()
	for name, c := range r.watchers(t) {
		s, err := c.WatchJobs(t.Context(), &errandv1.WatchJobsRequest{Ids: []string{absent}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !s.Receive() || s.Msg().GetEvent().GetId() != absent || !s.Msg().GetEvent().GetDeleted() {
			t.Fatalf("%s: %v, %v", name, s.Msg(), s.Err())
		}
		lines = append(lines, line{name, s})
	}
	r.stop()
	for _, l := range lines {
		for l.stream.Receive() {
			t.Errorf("%s: %v", l.name, l.stream.Msg())
		}
		if err := l.stream.Err(); connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "stopping") {
			t.Errorf("%s ended with %v", l.name, err)
		}
		_ = l.stream.Close() // its error was looked at
	}
}

func TestWatchRefusals(t *testing.T) {
	r := serve(t, &fake{}, Config{})
	for name, c := range map[string]struct {
		r      *errandv1.WatchJobsRequest
		reason job.Reason
	}{
		"no id":     {&errandv1.WatchJobsRequest{Ids: []string{"7"}}, job.ReasonBadID},
		"bad queue": {&errandv1.WatchJobsRequest{Queue: "a\x00"}, job.ReasonBadField},
		"long kind": {&errandv1.WatchJobsRequest{Kind: strings.Repeat("k", 10000)}, job.ReasonBadField},
		"both":      {&errandv1.WatchJobsRequest{Ids: []string{uuid.NewString()}, Queue: "q"}, job.ReasonBadField},
	} {
		s, err := r.watchers(t)["Connect"].WatchJobs(t.Context(), c.r)
		if err == nil {
			for s.Receive() {
				t.Errorf("%s: %v", name, s.Msg())
			}
			err = s.Err()
		}
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWatchNeedsARole: a worker's token does not watch.
func TestWatchNeedsARole(t *testing.T) {
	for role, want := range map[auth.Role]bool{auth.Worker: false, auth.Producer: true, auth.Viewer: true} {
		if got := role.Allows(errandv1connect.WatchServiceWatchJobsProcedure); got != want {
			t.Errorf("%s may watch: %v", role, got)
		}
	}
}

// TestProducersWatchWhatTheyCanName: who may not list jobs gets no stream of all.
func TestProducersWatchWhatTheyCanName(t *testing.T) {
	secrets, lines := map[auth.Role]string{}, []string{}
	for _, role := range []auth.Role{auth.Producer, auth.Viewer, auth.Operator} {
		tok := auth.NewToken()
		line, err := tok.Line("it-"+role.String(), role)
		if err != nil {
			t.Fatal(err)
		}
		lines, secrets[role] = append(lines, line), tok.Reveal()
	}
	r := serve(t, &fake{}, Config{TokenFile: write(t, "tokens", strings.Join(lines, "\n"))})
	for role, secret := range secrets {
		for _, q := range []*errandv1.WatchJobsRequest{{Ids: []string{newID(t)}}, {Queue: "q"}, {Kind: "k"}, {}} {
			allowed := len(q.GetIds()) > 0 || role != auth.Producer
			c := errandv1connect.NewWatchServiceClient(transport(t, false), r.URL(), connect.WithInterceptors(bearer(secret)))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			s, err := c.WatchJobs(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			told := s.Receive()
			if refused := connect.CodeOf(s.Err()) == connect.CodePermissionDenied; refused == allowed || told != allowed {
				t.Errorf("%s, %v: told %v, %v", role, q, told, s.Err())
			}
			cancel()
			_ = s.Close()
		}
	}
}

// bearer sends a token with streams.
type bearer string

func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc { return next }

func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		conn.RequestHeader().Set("Authorization", "Bearer "+string(b))
		return conn
	}
}

// TestStreamsOutliveTheServersBounds sends for longer than the server gives an
// answer, and is cut off when nobody takes what it sends.
func TestStreamsOutliveTheServersBounds(t *testing.T) {
	const bound = 400 * time.Millisecond
	ended := make(chan error, 1)
	h := http.NewServeMux()
	h.HandleFunc("/steady", func(w http.ResponseWriter, _ *http.Request) {
		for range 8 {
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			time.Sleep(bound / 4) // the pace of the stream
		}
	})
	h.HandleFunc("/stuck", func(w http.ResponseWriter, r *http.Request) {
		for piece := make([]byte, 1<<20); ; {
			if _, err := w.Write(piece); err != nil {
				ended <- err
				return
			}
		}
	})
	s := httptest.NewUnstartedServer(endless(h, bound))
	s.Config.WriteTimeout, s.Config.ReadTimeout = bound, bound
	s.Start()
	defer s.Close()
	resp, err := transport(t, false).Get(s.URL + "/steady")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	buf := make([]byte, 16)
	for err == nil {
		var n int
		n, err = resp.Body.Read(buf)
		got.Write(buf[:n])
	}
	_ = resp.Body.Close()
	if got.String() != "xxxxxxxx" {
		t.Errorf("of the stream came %q, then %v", &got, err)
	}
	resp, err = transport(t, false).Get(s.URL + "/stuck")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("a caller who takes nothing is not cut off")
	}
}
