package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/errandhq/errand/gen/keda/externalscaler"
	"github.com/errandhq/errand/internal/auth"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// scalerMethod begins the names of KEDA's calls.
const scalerMethod = "/externalscaler.ExternalScaler/"

// keda is a gRPC client as KEDA has one, made by gRPC's own library.
type keda struct{ *grpc.ClientConn }

func dialKeda(t *testing.T, addr string, creds credentials.TransportCredentials) keda {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return keda{conn}
}

func ref(pairs ...string) *externalscaler.ScaledObjectRef {
	m := map[string]string{"scalerAddress": "errand:7421"} // KEDA passes on what is its own too
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return &externalscaler.ScaledObjectRef{Name: "workers", Namespace: "jobs", ScalerMetadata: m}
}

func (k keda) isActive(ctx context.Context, r *externalscaler.ScaledObjectRef) (bool, error) {
	var resp externalscaler.IsActiveResponse
	err := k.Invoke(ctx, scalerMethod+"IsActive", r, &resp)
	return resp.GetResult(), err
}

// desired asks as KEDA does: for the metric's name, then for its value.
func (k keda) desired(ctx context.Context, r *externalscaler.ScaledObjectRef) (float64, error) {
	var spec externalscaler.GetMetricSpecResponse
	if err := k.Invoke(ctx, scalerMethod+"GetMetricSpec", r, &spec); err != nil {
		return 0, err
	}
	if len(spec.GetMetricSpecs()) != 1 || spec.GetMetricSpecs()[0].GetTargetSize() != 1 || spec.GetMetricSpecs()[0].GetTargetSizeFloat() != 1 {
		return 0, errors.New("the target is not one: " + spec.String())
	}
	var resp externalscaler.GetMetricsResponse
	req := &externalscaler.GetMetricsRequest{ScaledObjectRef: r, MetricName: spec.GetMetricSpecs()[0].GetMetricName()}
	if err := k.Invoke(ctx, scalerMethod+"GetMetrics", req, &resp); err != nil {
		return 0, err
	}
	if len(resp.GetMetricValues()) != 1 || float64(resp.GetMetricValues()[0].GetMetricValue()) != resp.GetMetricValues()[0].GetMetricValueFloat() {
		return 0, errors.New("not one value: " + resp.String())
	}
	return resp.GetMetricValues()[0].GetMetricValueFloat(), nil
}

func (k keda) stream(ctx context.Context, r *externalscaler.ScaledObjectRef) (grpc.ClientStream, error) {
	s, err := k.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, scalerMethod+"StreamIsActive")
	if err != nil {
		return nil, err
	}
	if err := s.SendMsg(r); err != nil {
		return nil, err
	}
	return s, s.CloseSend()
}

func next(s grpc.ClientStream) (bool, error) {
	var resp externalscaler.IsActiveResponse
	err := s.RecvMsg(&resp)
	return resp.GetResult(), err
}

func timed(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func running31(f *fake) {
	f.holds(ledger.Count{Queue: "mail", Kind: "send", State: job.Running, N: 31})
}

func TestKEDAScalesByIt(t *testing.T) {
	f := &fake{}
	running31(f)
	r := serve(t, f, Config{})
	k := dialKeda(t, r.Addr().String(), insecure.NewCredentials()) // the server's own port
	ctx := timed(t)
	if n, err := k.desired(ctx, ref("queue", "mail", "concurrency", "4")); err != nil || n != 8 {
		t.Errorf("%v workers, %v", n, err)
	}
	if n, err := k.desired(ctx, ref("queue", "mail", "concurrency", "4", "max", "3", "targetWait", "30s", "kinds", "send,other")); err != nil || n != 3 {
		t.Errorf("%v workers, %v", n, err)
	}
	if active, err := k.isActive(ctx, ref("queue", "mail")); err != nil || !active {
		t.Errorf("active %t, %v", active, err)
	}
	// What the ScaledObject took from the environment keeps its name and has the value.
	if n, err := k.desired(ctx, ref("queueFromEnv", "mail", "concurrencyFromEnv", "4")); err != nil || n != 8 {
		t.Errorf("from the environment: %v workers, %v", n, err)
	}
	s, err := k.stream(ctx, ref("queue", "mail"))
	if err != nil {
		t.Fatal(err)
	}
	if active, err := next(s); err != nil || !active {
		t.Fatalf("the stream begins with %t, %v", active, err)
	}
	f.holds(ledger.Count{Queue: "mail", Kind: "send", State: job.Scheduled, N: 7})
	if active, err := next(s); err != nil || active {
		t.Fatalf("nothing is ready any more, and the stream says %t, %v", active, err)
	}
	running31(f)
	if active, err := next(s); err != nil || !active {
		t.Fatalf("jobs run again, and the stream says %t, %v", active, err)
	}
	r.stop()
	if _, err := next(s); status.Code(err) != codes.Unavailable {
		t.Errorf("when the server stops, the stream ends with %v", err)
	}
}

func TestKEDAIsToldWhatIsWrong(t *testing.T) {
	f := &fake{}
	running31(f)
	r := serve(t, f, Config{})
	k := dialKeda(t, r.Addr().String(), insecure.NewCredentials())
	ctx := timed(t)
	for want, refs := range map[codes.Code][]*externalscaler.ScaledObjectRef{
		codes.InvalidArgument: {
			ref(), ref("queue", ""), ref("queue", "mail", "targetWait", "soon"), ref("queue", "mail", "targetwait", "5s"),
			ref("queue", "mail", "queueFromEnv", "post"), ref("queue", "mail", "min", "5", "max", "2"), ref("queue", "mail", "concurrency", "0"), {},
		},
		codes.NotFound: {ref("queue", "nobody")},
	} {
		for _, one := range refs {
			if _, err := k.isActive(ctx, one); status.Code(err) != want {
				t.Errorf("IsActive of %v: %v, want %s", one.GetScalerMetadata(), err, want)
			}
			if _, err := k.desired(ctx, one); status.Code(err) != want {
				t.Errorf("GetMetrics of %v: %v, want %s", one.GetScalerMetadata(), err, want)
			}
			s, err := k.stream(ctx, one)
			if err == nil {
				_, err = next(s)
			}
			if status.Code(err) != want {
				t.Errorf("StreamIsActive of %v: %v, want %s", one.GetScalerMetadata(), err, want)
			}
		}
	}
	err := k.Invoke(ctx, scalerMethod+"GetMetrics", &externalscaler.GetMetricsRequest{ScaledObjectRef: ref("queue", "mail"), MetricName: "other"}, &externalscaler.GetMetricsResponse{})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("another metric: %v", err)
	}
	// A newer KEDA asks for more, and goes on without where it is not to be had.
	err = k.Invoke(ctx, scalerMethod+"StreamMetricSpec", ref("queue", "mail"), &externalscaler.GetMetricSpecResponse{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a call of a newer contract: %v", err)
	}
	f.down.Store(true)
	deadline := time.Now().Add(patience)
	for {
		_, err := k.desired(ctx, ref("queue", "mail"))
		if status.Code(err) == codes.Unavailable {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("without a ledger: %v; a number that is missing must be an error, for KEDA to hold", err)
		}
	}
}

// A ledger that takes longer to answer than an answer is good for is asked once for all
// who ask meanwhile, so that the last of them does not wait for as many answers.
func TestScalingOfASlowLedger(t *testing.T) {
	f := &fake{slow: 1200 * time.Millisecond}
	running31(f)
	r := serve(t, f, Config{})
	k := dialKeda(t, r.Addr().String(), insecure.NewCredentials())
	ctx := timed(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if n, err := k.desired(ctx, ref("queue", "mail", "concurrency", "4")); err != nil || n != 8 {
				t.Errorf("%v workers, %v", n, err)
			}
		})
	}
	all.Wait()
	if n := f.asked.Load(); n > 2 { // who came a second late has one of his own
		t.Errorf("eight questions at once, and the ledger was asked %d times", n)
	}
}

// tokenFile writes a token for each role.
func tokenFile(t *testing.T, roles ...auth.Role) (string, map[auth.Role]string) {
	t.Helper()
	var lines []string
	tokens := map[auth.Role]string{}
	for _, role := range roles {
		token := auth.NewToken()
		line, err := token.Line(role.String(), role)
		if err != nil {
			t.Fatal(err)
		}
		tokens[role] = token.Reveal()
		lines = append(lines, line)
	}
	return write(t, "tokens", strings.Join(lines, "\n")), tokens
}

// Where there are tokens, KEDA, which has none, is served at the address made for it alone.
func TestKEDAWithoutATokenHasAnAddressOfItsOwn(t *testing.T) {
	f := &fake{}
	running31(f)
	file, tokens := tokenFile(t, auth.Worker, auth.Monitor)
	r := serve(t, f, Config{TokenFile: file, ScalerListen: "127.0.0.1:0"})
	ctx := timed(t)
	main := dialKeda(t, r.Addr().String(), insecure.NewCredentials())
	if _, err := main.isActive(ctx, ref("queue", "mail")); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a token: %v", err)
	}
	for role, want := range map[auth.Role]codes.Code{auth.Worker: codes.PermissionDenied, auth.Monitor: codes.OK} {
		as := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+tokens[role])
		if _, err := main.isActive(as, ref("queue", "mail")); status.Code(err) != want {
			t.Errorf("%s: %v", role, err)
		}
	}
	own := dialKeda(t, r.ScalerAddr().String(), insecure.NewCredentials())
	if active, err := own.isActive(ctx, ref("queue", "mail")); err != nil || !active {
		t.Errorf("at its own address: %t, %v", active, err)
	}
	for _, path := range []string{"/v1/scaling?queue=mail", "/metrics"} {
		if status, _ := fetch(t, "http://"+r.ScalerAddr().String()+path, ""); status != http.StatusNotFound {
			t.Errorf("%s there: %d", path, status)
		}
	}
	err := own.Invoke(ctx, "/errand.v1.QueueService/ListQueues", ref(), &externalscaler.IsActiveResponse{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("another call there: %v", err)
	}
}

// KEDA has one connection to each server, with a stream for every object of type
// external-push, and asks in between.
func TestManyKEDAStreamsShareAConnection(t *testing.T) {
	f := &fake{}
	running31(f)
	r := serve(t, f, Config{ScalerListen: "127.0.0.1:0"})
	k := dialKeda(t, r.ScalerAddr().String(), insecure.NewCredentials())
	ctx := timed(t)
	var streams []grpc.ClientStream
	for i := range 300 {
		s, err := k.stream(ctx, ref("queue", "mail"))
		if err == nil {
			_, err = next(s)
		}
		streams = append(streams, s)
		if err != nil {
			t.Fatalf("stream %d: %v", i+1, err)
		}
	}
	if _, err := k.isActive(ctx, ref("queue", "mail")); err != nil {
		t.Error(err)
	}
	r.stop()
	for _, s := range streams {
		if _, err := next(s); status.Code(err) != codes.Unavailable {
			t.Fatalf("when the server stops, a stream ends with %v", err)
		}
	}
	if err := <-r.done; err != nil {
		t.Error(err)
	}
}

// With an authority of callers, who shows no certificate of it is turned away.
func TestKEDAShowsACertificate(t *testing.T) {
	f := &fake{}
	running31(f)
	ca, stranger := newAuthority(t), newAuthority(t)
	cert, key := ca.issue(t, 2)
	file, _ := tokenFile(t, auth.Monitor)
	c := Config{
		TokenFile: file, TLSCert: write(t, "cert", cert), TLSKey: write(t, "key", key),
		ScalerListen: "127.0.0.1:0", ScalerClientCA: write(t, "ca", ca.pem()),
	}
	r := serve(t, f, c)
	ask := func(by *authority) error {
		conf := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
		conf.RootCAs.AddCert(ca.cert)
		if by != nil {
			certPEM, keyPEM := by.issue(t, 3)
			pair, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
			if err != nil {
				t.Fatal(err)
			}
			// A client that is told which authorities are wanted sends no other certificate by itself.
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		_, err := dialKeda(t, r.ScalerAddr().String(), credentials.NewTLS(conf)).isActive(timed(t), ref("queue", "mail"))
		return err
	}
	if err := ask(ca); err != nil {
		t.Errorf("with a certificate: %v", err)
	}
	for name, by := range map[string]*authority{"without a certificate": nil, "with a stranger's": stranger} {
		if err := ask(by); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, broken := range []string{write(t, "empty", ""), "/nowhere"} {
		c.Listen, c.ScalerClientCA = "127.0.0.1:0", broken
		if _, err := New(nil, nil, c); err == nil || !strings.Contains(err.Error(), "scaler-client-ca") {
			t.Errorf("an authority that is none: %v", err)
		}
	}
}

// fetch GETs with a token, if there is one.
func fetch(t *testing.T, url, token string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return answerTo(t, req)
}

func TestScalingAsJSON(t *testing.T) {
	f := &fake{}
	f.holds(ledger.Count{Queue: "mail", Kind: "send", State: job.Running, N: 31}, ledger.Count{Queue: "mail", Kind: "send", State: job.Ready, N: 5})
	r := serve(t, f, Config{})
	code, text := fetch(t, r.URL()+"/v1/scaling?queue=mail&concurrency=4&min=2&target_wait=30", "")
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil || code != http.StatusOK {
		t.Fatalf("%d %s: %v", code, text, err)
	}
	for name, want := range map[string]any{
		"queue": "mail", "ready": 5.0, "running": 31.0, "desired_workers": 8.0, "needed_workers": 8.0, "paused": false, "backlog_seconds": nil,
		"arrival_rate": 0.0, "service_rate": 0.0, "oldest_ready_seconds": 0.0, "workers": 0.0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v, want %v", name, v, want)
		}
	}
	for query, want := range map[string]int{
		"": http.StatusBadRequest, "queue=mail&max=-1": http.StatusBadRequest, "queue=mail&quue=x": http.StatusBadRequest,
		"queue=mail&queue=post": http.StatusBadRequest, "queue=%zz": http.StatusBadRequest, "queue=nobody": http.StatusNotFound,
	} {
		code, text := fetch(t, r.URL()+"/v1/scaling?"+query, "")
		var e struct {
			Code, Message string
			Details       []struct{ Type string }
		}
		err := json.Unmarshal([]byte(text), &e)
		if err != nil || code != want || e.Message == "" || len(e.Details) != 2 || e.Details[1].Type != "google.rpc.ErrorInfo" {
			t.Errorf("%q: %d %s", query, code, text)
		}
	}
}

func TestWhoMayAskForScaling(t *testing.T) {
	f := &fake{}
	running31(f)
	all := []auth.Role{auth.Producer, auth.Worker, auth.Viewer, auth.Operator, auth.Monitor}
	file, tokens := tokenFile(t, all...)
	r := serve(t, f, Config{TokenFile: file})
	url := r.URL() + "/v1/scaling?queue=mail"
	for role, want := range map[auth.Role]int{
		auth.Producer: http.StatusForbidden, auth.Worker: http.StatusForbidden,
		auth.Viewer: http.StatusOK, auth.Operator: http.StatusOK, auth.Monitor: http.StatusOK,
	} {
		if code, text := fetch(t, url, tokens[role]); code != want || strings.Contains(text, "desired_workers") != (want == http.StatusOK) {
			t.Errorf("%s: %d %s", role, code, text)
		}
	}
	for _, token := range []string{"", "wrong"} {
		if code, text := fetch(t, url, token); code != http.StatusUnauthorized || strings.Contains(text, "desired_workers") {
			t.Errorf("token %q: %d %s", token, code, text)
		}
	}
}
