package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"github.com/google/uuid"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/gen/errand/v1/errandv1connect"
	"github.com/errandhq/errand/internal/api"
	"github.com/errandhq/errand/internal/auth"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// running is a server that serves, with its engine.
type running struct {
	*Server
	stop func()     // asks it to stop
	done chan error // answers when it has
	log  *logBuffer
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve starts a server on a free port over l and stops it with the test.
func serve(t *testing.T, l ledger.Ledger, c Config) *running {
	t.Helper()
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	r := &running{log: &logBuffer{}, done: make(chan error, 1)}
	c.Logger = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	e := engine.New(l, engine.Config{Logger: c.Logger})
	s, err := New(api.New(e, api.Config{Version: "test", Ledger: "fake", Logger: c.Logger}), e, c)
	if err != nil {
		t.Fatal(err)
	}
	r.Server = s
	engineCtx, stopEngine := context.WithCancel(context.Background())
	engineDone := make(chan error, 1)
	go func() { engineDone <- e.Run(engineCtx) }()
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	ended := make(chan struct{})
	go func() { defer close(ended); r.done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-ended
		stopEngine()
		if err := <-engineDone; err != nil {
			t.Error(err)
		}
	})
	r.await(t, "/readyz", http.StatusOK)
	return r
}

// transport is a client of one test, closed with it.
func transport(t *testing.T, h2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{}
	if h2 {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// clients are the three protocols, and JSON.
func (r *running) clients(t *testing.T) map[string]errandv1connect.QueueServiceClient {
	t.Helper()
	h1, h2 := transport(t, false), transport(t, true)
	return map[string]errandv1connect.QueueServiceClient{
		"gRPC":         errandv1connect.NewQueueServiceClient(h2, r.URL(), connect.WithGRPC()),
		"gRPC-Web":     errandv1connect.NewQueueServiceClient(h1, r.URL(), connect.WithGRPCWeb()),
		"Connect":      errandv1connect.NewQueueServiceClient(h1, r.URL()),
		"Connect h2c":  errandv1connect.NewQueueServiceClient(h2, r.URL()),
		"Connect JSON": errandv1connect.NewQueueServiceClient(h1, r.URL(), connect.WithProtoJSON()),
	}
}

func (r *running) client(t *testing.T, opts ...connect.ClientOption) errandv1connect.QueueServiceClient {
	return errandv1connect.NewQueueServiceClient(transport(t, false), r.URL(), opts...)
}

func (r *running) get(t *testing.T, path string) (int, string) {
	t.Helper()
	c := transport(t, false)
	defer c.CloseIdleConnections()
	resp, err := c.Get(r.URL() + path)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b))
}

// await polls path until it answers with status.
func (r *running) await(t *testing.T, path string, status int) {
	t.Helper()
	if r.certs != nil {
		return
	}
	for end := time.Now().Add(patience); ; {
		got, text := r.get(t, path)
		if got == status {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s answers %d %s, not %d", path, got, text, status)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func newID(t *testing.T) string {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

func TestThreeProtocolsAndJSON(t *testing.T) {
	r := serve(t, &fake{}, Config{})
	for name, c := range r.clients(t) {
		id := newID(t)
		resp, err := c.Enqueue(t.Context(), &errandv1.EnqueueRequest{Items: []*errandv1.EnqueueItem{{Id: id, Kind: "k", Payload: []byte("{}")}}})
		if err != nil || resp.GetResults()[0].GetId() != id || resp.GetResults()[0].GetState() != errandv1.JobState_JOB_STATE_READY {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
		_, err = c.Enqueue(t.Context(), &errandv1.EnqueueRequest{})
		var ce *connect.Error
		if !errors.As(err, &ce) || ce.Code() != connect.CodeInvalidArgument || len(ce.Details()) != 2 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// post sends JSON as curl would.
func (r *running) post(t *testing.T, call, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.URL()+"/errand.v1.QueueService/"+call, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	return answerTo(t, req)
}

// answerTo sends a request, and returns the status and the body of its answer.
func answerTo(t *testing.T, req *http.Request) (int, string) {
	t.Helper()
	resp, err := transport(t, false).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestCurl(t *testing.T) {
	r := serve(t, &fake{}, Config{})
	for _, c := range []struct {
		call, body string
		status     int
		want       string
	}{
		{"Enqueue", `{"items":[{"kind":"email","json":{"user":42},"delay":"5s","priority":1}]}`, 200, `"JOB_STATE_SCHEDULED"`},
		{"Enqueue", `{"items":[{"kind":"email","payload":"e30="}]}`, 200, `"JOB_STATE_READY"`},
		{"GetServerInfo", `{}`, 200, `"operator"`},
		{"Enqueue", `{"items":[{"kind":"email","priority":99}]}`, 400, "priority 99 is not between 0 and 9"},
		{"Enqueue", `{"items":[{"kind":"email"},{"kind":"email","delay":"-1s"}]}`, 400, "items[1].delay: -1s is negative"},
		{"Enqueue", `{"items":[{"kind":"email","json":1,"payload":"e30="}]}`, 400, "comes together with payload"},
		{"Enqueue", `{"items":[{"kind":"email","nonsense":1}]}`, 400, "nonsense"},
		{"Enqueue", `{"items":`, 400, "invalid_argument"},
		{"Enqueue", "{\"items\":[{\"kind\":\"a\xff\"}]}", 400, "invalid_argument"},
		{"Enqueue", `{"items":[{"kind":"a\u0000b"}]}`, 400, "control character"},
		{"RedriveJobs", `{"filter":{},"rate":"NaN"}`, 400, "rate"},
		{"RedriveJobs", `{"filter":{},"rate":-1}`, 400, "rate"},
		{"ListJobs", `{"state":"JOB_STATE_LOST"}`, 400, "invalid_argument"},
		{"NoSuchCall", `{}`, 404, ""},
	} {
		if status, text := r.post(t, c.call, c.body); status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s %s: %d %s; want %d %s", c.call, c.body, status, text, c.status, c.want)
		}
	}
	if status, text := r.post(t, "Enqueue", `{}`, "Content-Type", "text/plain"); status != http.StatusUnsupportedMediaType {
		t.Errorf("text/plain: %d %s", status, text)
	}
}

// TestBadInputAtEveryCall sends each call what it must refuse.
func TestBadInputAtEveryCall(t *testing.T) {
	c := serve(t, &fake{}, Config{}).client(t)
	ctx, id, long := t.Context(), newID(t), strings.Repeat("k", 10_000)
	for name, call := range map[string]func() error{
		"Enqueue none": func() error { _, err := c.Enqueue(ctx, &errandv1.EnqueueRequest{}); return err },
		"Enqueue many": func() error {
			_, err := c.Enqueue(ctx, &errandv1.EnqueueRequest{Items: make([]*errandv1.EnqueueItem, 1001)})
			return err
		},
		"Enqueue payload":   func() error { return enqueue(ctx, c, &errandv1.EnqueueItem{Kind: "k", Payload: make([]byte, 2<<20)}) },
		"Enqueue kind":      func() error { return enqueue(ctx, c, &errandv1.EnqueueItem{Kind: long}) },
		"Wake":              func() error { _, err := c.Wake(ctx, &errandv1.WakeRequest{Queues: []string{""}}); return err },
		"GetJobs none":      func() error { _, err := c.GetJobs(ctx, &errandv1.GetJobsRequest{}); return err },
		"GetJobs id":        func() error { _, err := c.GetJobs(ctx, &errandv1.GetJobsRequest{Ids: []string{"x"}}); return err },
		"ListJobs token":    func() error { _, err := c.ListJobs(ctx, &errandv1.ListJobsRequest{PageToken: "garbage"}); return err },
		"ListJobs size":     func() error { _, err := c.ListJobs(ctx, &errandv1.ListJobsRequest{PageSize: 1001}); return err },
		"ListJobs negative": func() error { _, err := c.ListJobs(ctx, &errandv1.ListJobsRequest{PageSize: -1}); return err },
		"ListJobs state":    func() error { _, err := c.ListJobs(ctx, &errandv1.ListJobsRequest{State: 42}); return err },
		"ListJobs error":    func() error { _, err := c.ListJobs(ctx, &errandv1.ListJobsRequest{Error: "x", State: 1}); return err },
		"ListJobs queue":    func() error { _, err := c.ListJobs(ctx, &errandv1.ListJobsRequest{Queue: long}); return err },
		"WaitJobs":          func() error { _, err := c.WaitJobs(ctx, &errandv1.WaitJobsRequest{}); return err },
		"WaitJobs timeout": func() error {
			_, err := c.WaitJobs(ctx, &errandv1.WaitJobsRequest{Ids: []string{id}, Timeout: durationpb.New(-1)})
			return err
		},
		"CancelJobs": func() error { _, err := c.CancelJobs(ctx, &errandv1.CancelJobsRequest{}); return err },
		"DeleteJobs": func() error {
			_, err := c.DeleteJobs(ctx, &errandv1.DeleteJobsRequest{Ids: make([]string, 1001)})
			return err
		},
		"RedriveJobs neither": func() error { _, err := c.RedriveJobs(ctx, &errandv1.RedriveJobsRequest{}); return err },
		"RedriveJobs both": func() error {
			_, err := c.RedriveJobs(ctx, &errandv1.RedriveJobsRequest{Ids: []string{id}, Filter: &errandv1.DeadFilter{}})
			return err
		},
		"RedriveJobs token": func() error {
			_, err := c.RedriveJobs(ctx, &errandv1.RedriveJobsRequest{Filter: &errandv1.DeadFilter{}, PageToken: "AQ"})
			return err
		},
		"PurgeDead": func() error { _, err := c.PurgeDead(ctx, &errandv1.PurgeDeadRequest{}); return err },
		"CountDead": func() error {
			_, err := c.CountDead(ctx, &errandv1.CountDeadRequest{Filter: &errandv1.DeadFilter{OlderThan: durationpb.New(-1)}})
			return err
		},
		"OpenSession": func() error { _, err := c.OpenSession(ctx, &errandv1.OpenSessionRequest{}); return err },
		"OpenSession v4": func() error {
			_, err := c.OpenSession(ctx, &errandv1.OpenSessionRequest{SessionId: uuid.NewString()})
			return err
		},
		"OpenSession hands": func() error {
			_, err := c.OpenSession(ctx, &errandv1.OpenSessionRequest{SessionId: id, Concurrency: -1})
			return err
		},
		"Lease max": func() error {
			_, err := c.Lease(ctx, &errandv1.LeaseRequest{SessionId: id, Call: 1, Max: 1001})
			return err
		},
		"Lease call": func() error { _, err := c.Lease(ctx, &errandv1.LeaseRequest{SessionId: id, Max: 1}); return err },
		"Lease queue and -s": func() error {
			_, err := c.Lease(ctx, &errandv1.LeaseRequest{SessionId: id, Call: 1, Max: 1, Queue: "a", Queues: []string{"b"}})
			return err
		},
		"Lease kind": func() error {
			_, err := c.Lease(ctx, &errandv1.LeaseRequest{SessionId: id, Call: 1, Max: 1, Kinds: []string{long}})
			return err
		},
		"Extend token": func() error {
			_, err := c.Extend(ctx, &errandv1.ExtendRequest{SessionId: id, Call: 1, Held: []*errandv1.Held{{Id: id}}})
			return err
		},
		"Extend note": func() error {
			_, err := c.Extend(ctx, &errandv1.ExtendRequest{SessionId: id, Call: 1, Progress: []*errandv1.Progress{{Id: id, Token: 1, Note: make([]byte, 1025)}}})
			return err
		},
		"Settle none": func() error { _, err := c.Settle(ctx, &errandv1.SettleRequest{SessionId: id}); return err },
		"Settle outcome": func() error {
			_, err := c.Settle(ctx, &errandv1.SettleRequest{SessionId: id, Items: []*errandv1.Settlement{{Id: id, Token: 1}}})
			return err
		},
		"CloseSession": func() error { _, err := c.CloseSession(ctx, &errandv1.CloseSessionRequest{SessionId: "x"}); return err },
		"PauseQueue":   func() error { _, err := c.PauseQueue(ctx, &errandv1.PauseQueueRequest{}); return err },
		"ResumeQueue":  func() error { _, err := c.ResumeQueue(ctx, &errandv1.ResumeQueueRequest{Queue: long}); return err },
	} {
		var ce *connect.Error
		if err := call(); !errors.As(err, &ce) || ce.Code() != connect.CodeInvalidArgument || len(ce.Details()) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func enqueue(ctx context.Context, c errandv1connect.QueueServiceClient, items ...*errandv1.EnqueueItem) error {
	_, err := c.Enqueue(ctx, &errandv1.EnqueueRequest{Items: items})
	return err
}

// TestMessageBound: what no valid call can be is refused before it is decoded.
func TestMessageBound(t *testing.T) {
	r := serve(t, &fake{}, Config{})
	big := &errandv1.EnqueueItem{Kind: "k", Payload: make([]byte, 40<<20)}
	for name, opts := range map[string][]connect.ClientOption{"plain": nil, "gzip": {connect.WithSendGzip()}} {
		if err := enqueue(t.Context(), r.client(t, opts...), big); connect.CodeOf(err) != connect.CodeResourceExhausted {
			t.Errorf("%s: %v", name, err)
		}
	}
	items := make([]*errandv1.EnqueueItem, 1000)
	for i := range items {
		items[i] = &errandv1.EnqueueItem{Kind: "k", Payload: make([]byte, 4<<20/1000), Tags: []string{strings.Repeat("t", 64)}}
	}
	if err := enqueue(t.Context(), r.client(t, connect.WithProtoJSON()), items...); err != nil {
		t.Errorf("the largest batch in JSON: %v", err)
	}
}

// TestCompression: a short answer is sent as it is, even to who would take it
// compressed, and a long one is compressed for him alone.
func TestCompression(t *testing.T) {
	r := serve(t, &fake{}, Config{})
	encoding := func(items int, accept string) string {
		t.Helper()
		body := `{"items":[` + strings.TrimSuffix(strings.Repeat(`{"kind":"k"},`, items), ",") + `]}`
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.URL()+"/errand.v1.QueueService/Enqueue", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept-Encoding", accept)
		resp, err := transport(t, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status, err)
		}
		return resp.Header.Get("Content-Encoding")
	}
	for _, c := range []struct {
		items        int
		accept, want string
	}{{1, "gzip", ""}, {1000, "gzip", "gzip"}, {1000, "identity", ""}} {
		if got := encoding(c.items, c.accept); got != c.want {
			t.Errorf("%d items for %q: encoded %q, want %q", c.items, c.accept, got, c.want)
		}
	}
}

// TestRoles makes every call under every role and compares with the table.
func TestRoles(t *testing.T) {
	lines, secrets := []string{}, map[auth.Role]string{}
	for _, role := range []auth.Role{auth.Producer, auth.Worker, auth.Viewer, auth.Operator, auth.Producer | auth.Worker} {
		tok := auth.NewToken()
		line, err := tok.Line("it-"+role.String(), role)
		if err != nil {
			t.Fatal(err)
		}
		lines, secrets[role] = append(lines, line), tok.Reveal()
	}
	r := serve(t, &fake{}, Config{TokenFile: write(t, "tokens", strings.Join(lines, "\n"))})
	methods := errandv1.File_errand_v1_errand_proto.Services().ByName("QueueService").Methods()
	for i := range methods.Len() {
		call := string(methods.Get(i).Name())
		if status, text := r.post(t, call, "{}"); status != http.StatusUnauthorized || !strings.Contains(text, "UNAUTHENTICATED") {
			t.Errorf("%s without a token: %d %s", call, status, text)
		}
		if status, _ := r.post(t, call, "{}", "Authorization", "Bearer nonsense"); status != http.StatusUnauthorized {
			t.Errorf("%s with an unknown token: %d", call, status)
		}
		for role, secret := range secrets {
			status, text := r.post(t, call, "{}", "Authorization", "Bearer "+secret)
			allowed := role.Allows("/errand.v1.QueueService/" + call)
			if allowed == (status == http.StatusForbidden) || status == http.StatusUnauthorized || status >= 500 {
				t.Errorf("%s as %s: %d %s", call, role, status, text)
			}
			if !allowed && !strings.Contains(text, "PERMISSION_DENIED") {
				t.Errorf("%s as %s: %s", call, role, text)
			}
		}
	}
	if strings.Contains(r.log.String(), secrets[auth.Operator]) {
		t.Error("the log shows a token")
	}
	if !strings.Contains(r.log.String(), "caller=it-operator") {
		t.Error("the access log does not name the caller")
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, _ := r.get(t, path); status != http.StatusOK {
			t.Errorf("%s needs a token: %d", path, status)
		}
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestExposure: what others can reach must be authenticated and encrypted, and
// the refusal says what to set.
func TestExposure(t *testing.T) {
	line, err := auth.NewToken().Line("a", auth.Operator)
	if err != nil {
		t.Fatal(err)
	}
	tokens := write(t, "tokens", line)
	for _, c := range []struct {
		conf Config
		want string // "" is allowed
	}{
		{Config{Listen: "127.0.0.1:0"}, ""},
		{Config{Listen: "[::1]:0"}, ""},
		{Config{Listen: "localhost:0"}, ""},
		{Config{Listen: "0.0.0.0:0"}, "--auth-token-file"},
		{Config{Listen: ":0"}, "--auth-token-file"},
		{Config{Listen: "[::]:0"}, "--auth-token-file"},
		{Config{Listen: "192.0.2.1:0"}, "--auth-token-file"},
		{Config{Listen: "0.0.0.0:0", TokenFile: tokens}, "--tls-cert"},
		{Config{Listen: "0.0.0.0:0", TokenFile: tokens, TLSInFront: true}, ""},
		{Config{Listen: "0.0.0.0:0", TLSInFront: true}, "--auth-token-file"},
		{Config{Listen: "127.0.0.1:0", TLSCert: "x"}, "go together"},
		{Config{Listen: "127.0.0.1:0", TLSCert: "x", TLSKey: "y"}, "tls-cert"},
		{Config{Listen: "127.0.0.1:0", TokenFile: "x"}, "token file"},
		{Config{Listen: "7420"}, "host:port"},
		{Config{Listen: "127.0.0.1:0", Grace: time.Second, DrainDelay: time.Second}, "drain-delay"},
	} {
		e := engine.New(&fake{}, engine.Config{})
		s, err := New(api.New(e, api.Config{}), e, c.conf)
		switch {
		case err == nil && c.want != "":
			t.Errorf("%+v: accepted", c.conf)
		case err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)):
			if c.conf.Listen == "[::1]:0" {
				continue // a machine without IPv6
			}
			t.Errorf("%+v: %v; want %q", c.conf, err, c.want)
		}
		if err == nil {
			_ = s.Close()
		}
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	e := engine.New(&fake{}, engine.Config{})
	if _, err := New(api.New(e, api.Config{}), e, Config{Listen: l.Addr().String()}); err == nil || !strings.Contains(err.Error(), "listen on") {
		t.Error(err)
	}
}

// TestBrowsersAreKeptOut: a page cannot drive a server without tokens, neither
// by a cross-site request nor under a name of its own.
func TestBrowsersAreKeptOut(t *testing.T) {
	r := serve(t, &fake{}, Config{})
	host := r.Addr().String()
	_, port, err := net.SplitHostPort(host)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ok     bool
		header []string
	}{
		{true, nil},
		{true, []string{"Host", "localhost:" + port}},
		{true, []string{"Host", "errand.localhost"}},
		{true, []string{"Host", "[::1]:7420"}},
		{true, []string{"Host", host, "Origin", "http://" + host}},
		{true, []string{"Sec-Fetch-Site", "same-origin"}},
		{false, []string{"Host", "evil.example"}},
		{false, []string{"Host", "evil.example:" + port}},
		{false, []string{"Host", "127.0.0.1.evil.example"}},
		{false, []string{"Host", "192.0.2.1"}},
		{false, []string{"Origin", "http://evil.example"}},
		{false, []string{"Origin", "http://localhost:3000"}},
		{false, []string{"Origin", "null"}},
		{false, []string{"Sec-Fetch-Site", "cross-site"}},
		{false, []string{"Sec-Fetch-Site", "same-site"}},
	} {
		if status, text := r.post(t, "GetServerInfo", "{}", c.header...); (status == http.StatusOK) != c.ok {
			t.Errorf("%v: %d %s", c.header, status, text)
		}
	}
}

// TestReadiness follows the ledger; the caller is not told why.
func TestReadiness(t *testing.T) {
	l := &fake{}
	r := serve(t, l, Config{})
	l.down.Store(true)
	r.await(t, "/readyz", http.StatusServiceUnavailable)
	if _, text := r.get(t, "/readyz"); strings.Contains(text, "10.9.8.7") {
		t.Errorf("tells of our insides: %s", text)
	}
	if status, _ := r.get(t, "/healthz"); status != http.StatusOK {
		t.Error("a process whose ledger is away is not healthy")
	}
	status, text := r.post(t, "Enqueue", `{"items":[{"kind":"k"}]}`)
	if status != http.StatusServiceUnavailable || strings.Contains(text, "10.9.8.7") || !strings.Contains(text, "LEDGER_UNAVAILABLE") {
		t.Errorf("%d %s", status, text)
	}
	if status, text := r.health(t); status != http.StatusOK || !strings.Contains(text, "NOT_SERVING") {
		t.Errorf("health: %d %s", status, text)
	}
	l.down.Store(false)
	r.await(t, "/readyz", http.StatusOK)
	if _, text := r.health(t); strings.Contains(text, "NOT_SERVING") {
		t.Errorf("health: %s", text)
	}
}

func (r *running) health(t *testing.T) (int, string) {
	t.Helper()
	resp, err := transport(t, false).Post(r.URL()+"/grpc.health.v1.Health/Check", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestDrainLosesNothing: a call that is under way when the server is asked to
// stop is answered; before that readiness is false, and a long poll ends at once.
func TestDrainLosesNothing(t *testing.T) {
	l := &fake{entered: make(chan struct{}, 1), release: make(chan struct{})}
	r := serve(t, l, Config{Grace: patience, DrainDelay: 3 * time.Second}) // for a slow machine to see it
	c := r.client(t)
	stored := make(chan error, 1)
	go func() { stored <- enqueue(context.Background(), c, &errandv1.EnqueueItem{Kind: "k"}) }()
	<-l.entered
	session := newID(t)
	if _, err := c.OpenSession(t.Context(), &errandv1.OpenSessionRequest{SessionId: session}); err != nil {
		t.Fatal(err)
	}
	polled := make(chan error, 1)
	go func() {
		resp, err := c.Lease(context.Background(), &errandv1.LeaseRequest{SessionId: session, Call: 1, Max: 1, Wait: durationpb.New(patience)})
		if err == nil && !resp.GetDraining() {
			err = fmt.Errorf("not told of the drain: %v", resp)
		}
		polled <- err
	}()

	start := time.Now()
	r.stop()
	r.await(t, "/readyz", http.StatusServiceUnavailable)
	if err := <-polled; err != nil {
		t.Errorf("the long poll: %v", err)
	}
	if took := time.Since(start); took > patience/2 {
		t.Errorf("the long poll ended after %s", took)
	}
	select {
	case err := <-r.done:
		t.Fatalf("stopped before its last call was answered: %v", err)
	default:
	}
	close(l.release)
	if err := <-stored; err != nil {
		t.Errorf("a call under way was lost: %v", err)
	}
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	err := enqueue(t.Context(), c, &errandv1.EnqueueItem{Kind: "k"})
	if connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("a closed port: %v", err)
	}
}

// TestGraceIsABound: a call that never ends does not keep the server.
func TestGraceIsABound(t *testing.T) {
	l := &fake{entered: make(chan struct{}, 1), release: make(chan struct{})}
	r := serve(t, l, Config{Grace: 200 * time.Millisecond})
	c := r.client(t)
	stored := make(chan error, 1)
	go func() { stored <- enqueue(context.Background(), c, &errandv1.EnqueueItem{Kind: "k"}) }()
	<-l.entered
	r.stop()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	if err := <-stored; err == nil {
		t.Error("the call was answered")
	}
	close(l.release)
}

func TestReflection(t *testing.T) {
	r := serve(t, &fake{}, Config{})
	stream := grpcreflect.NewClient(transport(t, true), r.URL(), connect.WithGRPC()).NewStream(t.Context())
	defer func() { _, _ = stream.Close() }()
	names, err := stream.ListServices()
	if err != nil || len(names) != 4 {
		t.Errorf("%v, %v", names, err)
	}
}

func TestRequestIDs(t *testing.T) {
	r := serve(t, &fake{}, Config{})
	for sent, kept := range map[string]bool{"abc-1.2_3": true, "": false, "a b": false, strings.Repeat("x", 65): false} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL()+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Request-Id", sent)
		resp, err := transport(t, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := resp.Header.Get("X-Request-Id"); (got == sent) != kept || got == "" {
			t.Errorf("%q became %q", sent, got)
		}
	}
}
