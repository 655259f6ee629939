package errand

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/gen/errand/v1/errandv1connect"
)

type welcome struct {
	UserID int `json:"user_id"`
}

// TestEnqueueRepeatsWithItsID: the id is made before the first try, only the
// first try says that it is fresh, and a lost answer is no second job.
func TestEnqueueRepeatsWithItsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.script(func(_ string, n int, done bool) error {
			if done && n <= 2 {
				return errLost
			}
			return nil
		})
		p, err := NewTask[welcome]("k").Params(welcome{42})
		if err != nil {
			t.Fatal(err)
		}
		stored, err := f.client().Enqueue(t.Context(), p)
		if err != nil || stored.Duplicate {
			t.Fatalf("%+v, %v: the call itself has stored the job", stored, err)
		}
		id := stored.ID
		if len(f.jobs) != 1 || len(f.enqueues) != 3 {
			t.Fatalf("%d jobs of %d calls, want 1 of 3", len(f.jobs), len(f.enqueues))
		}
		for i, r := range f.enqueues {
			it := r.Items[0]
			if it.Id != id.String() || it.FirstTry != (i == 0) || string(it.Payload) != `{"user_id":42}` {
				t.Errorf("try %d sent %v", i, it)
			}
		}
	})
}

func TestEnqueueUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.script(func(_ string, _ int, done bool) error {
			if done {
				return errLost
			}
			return nil
		})
		began := time.Now()
		_, err := NewTask[welcome]("k").Enqueue(t.Context(), f.client(), welcome{42})
		var e *Error
		if !errors.Is(err, ErrUnknown) || !errors.As(err, &e) || len(e.IDs) != 1 || e.IDs[0].String() != f.jobs[0].job.Id {
			t.Fatalf("error %v, want ErrUnknown with the id", err)
		}
		if d := time.Since(began); d < 20*time.Second || d > 31*time.Second {
			t.Errorf("retried for %s, want about 30s", d)
		}
	})
}

// TestEnqueueKnownNotDone: a server that says that nothing was changed leaves no doubt.
func TestEnqueueKnownNotDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.script(func(string, int, bool) error { return wireErr(CodeUnavailable, ReasonLedgerDown) })
		_, err := NewTask[welcome]("k").Enqueue(t.Context(), f.client(), welcome{42})
		if errors.Is(err, ErrUnknown) || !errors.Is(err, ErrUnavailable) {
			t.Fatalf("error %v, want ErrUnavailable", err)
		}
	})
}

func TestEnqueueCutShortByContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f.script(func(string, int, bool) error { <-ctx.Done(); return ctx.Err() })
		_, err := NewTask[welcome]("k").Enqueue(ctx, f.client(), welcome{42})
		if !errors.Is(err, ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error %v, want ErrUnknown for the deadline", err)
		}
	})
}

func TestRefusalIsNotRetried(t *testing.T) {
	f := newFake()
	f.script(func(string, int, bool) error { return wireErr(CodeResourceExhausted, ReasonQueueFull) })
	_, err := NewTask[welcome]("k").Enqueue(t.Context(), f.client(), welcome{42})
	if !errors.Is(err, ErrQueueFull) || errors.Is(err, ErrUniqueHeld) || f.calls["Enqueue"] != 1 {
		t.Fatalf("error %v after %d calls, want ErrQueueFull after one", err, f.calls["Enqueue"])
	}
}

func TestOptionsReachTheWire(t *testing.T) {
	f := newFake()
	task := NewTask[welcome]("k", Queue("a"), Priority(3), MaxAttempts(5), Timeout(time.Minute), Tags("x"), ExpiresIn(time.Hour))
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	own := NewID()
	ctx := ContextWithTraceParent(t.Context(), "00-trace")
	if _, err := task.Enqueue(ctx, f.client(), welcome{1}, Queue("b"), Priority(0), Tags("y"), At(at), ExpiresAt(at),
		Unique("u", ForWindow(time.Minute), RejectConflict), IdempotencyKey("i"), WithID(own)); err != nil {
		t.Fatal(err)
	}
	it := f.enqueues[0].Items[0]
	want := it.Id == own.String() && it.Queue == "b" && it.Priority != nil && *it.Priority == 0 && it.MaxAttempts == 5 &&
		it.Timeout.AsDuration() == time.Minute && strings.Join(it.Tags, ",") == "x,y" && it.RunAt.AsTime().Equal(at) &&
		it.ExpiresAt.AsTime().Equal(at) && it.ExpiresIn == nil && it.UniqueKey == "u" &&
		it.UniqueMode == errandv1.UniqueMode_UNIQUE_MODE_WINDOW && it.UniqueFor.AsDuration() == time.Minute &&
		it.OnConflict == errandv1.OnConflict_ON_CONFLICT_REJECT && it.IdempotencyKey == "i" && it.TraceParent == "00-trace" &&
		!it.FirstTry // the caller may be repeating its own call
	if !want {
		t.Errorf("sent %v", it)
	}
	if _, err := task.Enqueue(t.Context(), f.client(), welcome{2}); err != nil {
		t.Fatal(err)
	}
	if it := f.enqueues[1].Items[0]; strings.Join(it.Tags, ",") != "x" || it.Queue != "a" {
		t.Errorf("one enqueue's options stuck to the task: %v", it)
	}
}

func TestBadInputIsRefusedBeforeTheWire(t *testing.T) {
	f := newFake()
	c := f.client()
	task := NewTask[welcome]("k")
	_, invalid := c.Enqueue(t.Context(), EnqueueParams{Kind: "a\xff"})
	_, mode := c.Enqueue(t.Context(), EnqueueParams{Kind: "a", UniqueKey: "k", UniqueMode: "sometimes"})
	_, conflict := c.Enqueue(t.Context(), EnqueueParams{Kind: "a", OnConflict: "replace"})
	_, many := task.EnqueueMany(t.Context(), c, []welcome{{1}, {2}}, WithID(NewID()))
	_, noJSON := NewTask[chan int]("k").Enqueue(t.Context(), c, nil)
	_, state := c.ListPage(t.Context(), ListQuery{State: "busy"})
	for name, err := range map[string]error{"utf8": invalid, "mode": mode, "conflict": conflict, "many": many, "state": state, "json": noJSON} {
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeInvalidArgument {
			t.Errorf("%s: error %v, want an invalid argument", name, err)
		}
	}
	if len(f.enqueues) != 0 {
		t.Errorf("%d calls were made", len(f.enqueues))
	}
}

// server serves the fake on a real port.
func server(t *testing.T, f *fake, saw *atomic.Int64) string {
	t.Helper()
	mux := http.NewServeMux()
	path, h := errandv1connect.NewQueueServiceHandler(handler{f})
	mux.Handle(path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		saw.Add(1)
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	}))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// handler offers the fake's calls to a server.
type handler struct{ *fake }

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return "http://" + l.Addr().String()
}

func TestDialGoesToTheAddressThatWorks(t *testing.T) {
	f := newFake()
	var saw, busy atomic.Int64
	up := server(t, f, &saw)
	away := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		busy.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(away.Close)
	for range 5 { // whichever it begins at
		c, err := Dial(closedPort(t)+","+away.URL, WithAddresses(up), WithToken("s3cret"))
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if _, err := NewTask[welcome]("k").Enqueue(t.Context(), c, welcome{1}); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if saw.Load() != 50 || busy.Load() > 5 {
		t.Errorf("the good server saw %d calls and the busy one %d, want 50 and at most one for each client", saw.Load(), busy.Load())
	}
}

// A server that takes calls and never answers is left after the first call
// that gave it its time, however short that is.
func TestDialLeavesAServerThatDoesNotAnswer(t *testing.T) {
	var saw atomic.Int64
	up := server(t, newFake(), &saw)
	stuck := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // until then it does not see the caller go
		<-r.Context().Done()
	}))
	t.Cleanup(stuck.Close)
	c, err := Dial(stuck.URL+","+up, WithToken("s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	c.route.at.Store(0)
	hurried, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := NewTask[welcome]("k").Enqueue(hurried, c, welcome{1}); err == nil {
		t.Fatal("an answer of nobody")
	}
	later, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := NewTask[welcome]("k").Enqueue(later, c, welcome{2}); err != nil || saw.Load() != 1 {
		t.Errorf("the good server saw %d calls: %v", saw.Load(), err)
	}
}

func TestDialNobodyThere(t *testing.T) {
	c, err := Dial(closedPort(t), WithRetryFor(0))
	if err != nil {
		t.Fatal(err)
	}
	_, err = NewTask[welcome]("k").Enqueue(t.Context(), c, welcome{1})
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknown) {
		t.Errorf("error %v, want ErrUnavailable: nothing was sent", err)
	}
}

func TestDialWrongToken(t *testing.T) {
	var saw atomic.Int64
	c, err := Dial(server(t, newFake(), &saw), WithToken("wrong"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, err = NewTask[welcome]("k").Enqueue(t.Context(), c, welcome{1})
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeUnauthenticated || saw.Load() != 1 {
		t.Errorf("error %v after %d calls, want unauthenticated after one", err, saw.Load())
	}
}

func TestDialBadArguments(t *testing.T) {
	for _, addr := range []string{"", "ftp://x", "http://", "http://a,", "http://a?b", "http://user@a"} {
		if _, err := Dial(addr); err == nil {
			t.Errorf("Dial(%q) succeeded", addr)
		}
	}
	if _, err := Dial("http://a", WithTokenFile(t.TempDir()+"/none")); err == nil {
		t.Error("a token file that is not there was accepted")
	}
	if _, err := Dial("http://a", WithCA("dial.go")); err == nil {
		t.Error("a CA file without a certificate was accepted")
	}
}

func TestIDs(t *testing.T) {
	id := NewID()
	back, err := ParseID(id.String())
	if err != nil || back != id {
		t.Fatalf("%v %v", back, err)
	}
	if d := time.Since(id.Time()); d < 0 || d > time.Minute {
		t.Errorf("the id was made %s ago", d)
	}
	for _, s := range []string{"", "x", "{" + id.String() + "}", strings.ReplaceAll(id.String(), "-", "")} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("ParseID(%q) succeeded", s)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("0190163d-8694-739b-aea5-966c26f8ad91")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseID(s); err == nil && !strings.EqualFold(id.String(), s) {
			t.Errorf("ParseID(%q) is %s", s, id)
		}
	})
}

// TestTheSDKAsksForNoCompression, which would cost the server more than the rest of an answer.
func TestTheSDKAsksForNoCompression(t *testing.T) {
	asked := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		select {
		case asked <- req.Header.Get("Accept-Encoding"):
		default:
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	defer srv.Close()
	c, err := Dial(srv.URL, WithRetryFor(0))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.ServerInfo(t.Context()); err == nil {
		t.Fatal("an answer of nobody")
	}
	if got := <-asked; got != "identity" {
		t.Errorf("Accept-Encoding: %q", got)
	}
}
