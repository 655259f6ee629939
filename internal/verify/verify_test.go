package verify

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/embedded"
	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open starts an Errand whose sessions die fast enough for a test. It is on PostgreSQL unless
// conf says otherwise: under the race detector SQLite, which is Go, takes ten times the processor.
func open(t *testing.T, conf embedded.Config) *errand.Client {
	t.Helper()
	if conf.Ledger == "" && conf.Path == "" {
		conf.Ledger = testenv.Postgres(t)
	}
	conf.SessionTTL = 3 * time.Second
	c, err := embedded.Open(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func config(svc errand.Service) Config {
	return Config{Service: svc, Queue: "errand-verify", Jobs: 200, Timeout: 2 * time.Minute, Seed: 1}
}

func describe(t *testing.T, r Report) {
	t.Helper()
	for _, c := range r.Checks {
		t.Logf("%s %d %s (%.1fs): %s %s", c.Status, c.Promise, c.Name, c.Seconds, c.Detail, strings.Join(c.Evidence, "; "))
	}
}

// A sound server passes, every check says something, and nothing is left behind.
func TestSoundServerPasses(t *testing.T) {
	for name, conf := range map[string]func(t *testing.T) embedded.Config{
		"sqlite": func(t *testing.T) embedded.Config {
			return embedded.Config{Path: filepath.Join(t.TempDir(), "errand.db")}
		},
		"postgres": func(t *testing.T) embedded.Config { return embedded.Config{Ledger: testenv.Postgres(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := open(t, conf(t))
			told := 0
			run := config(c.Service())
			run.Progress = func(ended, total int, _ Check) {
				told = max(told, ended*1000/total)
				if ended == total { // the load is over, its workers have left
					r, err := Run(t.Context(), config(c.Service()))
					refused(t, r, err, errand.CodeFailedPrecondition, "another verification")
				}
			}
			r, err := Run(t.Context(), run)
			describe(t, r)
			if err != nil || !r.OK {
				t.Fatalf("ok %t, %v", r.OK, err)
			}
			if told != 1000 {
				t.Errorf("the progress ended at %d per mille", told)
			}
			for _, c := range r.Checks {
				if c.Status != Pass {
					t.Errorf("%s: %s", c.Name, c.Status)
				}
			}
			empty(t, c, r)
		})
	}
}

// empty wants nothing of the run to be left.
func empty(t *testing.T, c *errand.Client, r Report) {
	t.Helper()
	for j, err := range c.List(t.Context(), errand.ListQuery{Queue: "errand-verify"}) {
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("job %s of kind %s is left, %s", j.ID, j.Kind, j.State)
	}
	if r.Deleted < 200 || len(r.Left) > 0 || r.Retained != 0 {
		t.Errorf("deleted %d, retained %d, left %v", r.Deleted, r.Retained, r.Left)
	}
	sessions, err := c.Sessions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions {
		if s.State == "live" {
			t.Errorf("the session of %s is left", s.Worker)
		}
	}
}

// breaking is a server that breaks a promise.
type breaking struct {
	errand.Service
	enqueue func(ctx context.Context, r *errandv1.EnqueueRequest) (*errandv1.EnqueueResponse, error)
	lease   func(ctx context.Context, r *errandv1.LeaseRequest) (*errandv1.LeaseResponse, error)
	extend  func(ctx context.Context, r *errandv1.ExtendRequest) (*errandv1.ExtendResponse, error)
	settle  func(ctx context.Context, r *errandv1.SettleRequest) (*errandv1.SettleResponse, error)
	get     func(ctx context.Context, r *errandv1.GetJobsRequest) (*errandv1.GetJobsResponse, error)
	queues  func(ctx context.Context, r *errandv1.ListQueuesRequest) (*errandv1.ListQueuesResponse, error)
}

func via[Q, R any](ctx context.Context, broken, sound func(context.Context, Q) (R, error), q Q) (R, error) {
	if broken != nil {
		return broken(ctx, q)
	}
	return sound(ctx, q)
}

func (b *breaking) Enqueue(ctx context.Context, r *errandv1.EnqueueRequest) (*errandv1.EnqueueResponse, error) {
	return via(ctx, b.enqueue, b.Service.Enqueue, r)
}
func (b *breaking) Lease(ctx context.Context, r *errandv1.LeaseRequest) (*errandv1.LeaseResponse, error) {
	return via(ctx, b.lease, b.Service.Lease, r)
}
func (b *breaking) Extend(ctx context.Context, r *errandv1.ExtendRequest) (*errandv1.ExtendResponse, error) {
	return via(ctx, b.extend, b.Service.Extend, r)
}
func (b *breaking) Settle(ctx context.Context, r *errandv1.SettleRequest) (*errandv1.SettleResponse, error) {
	return via(ctx, b.settle, b.Service.Settle, r)
}
func (b *breaking) GetJobs(ctx context.Context, r *errandv1.GetJobsRequest) (*errandv1.GetJobsResponse, error) {
	return via(ctx, b.get, b.Service.GetJobs, r)
}
func (b *breaking) ListQueues(ctx context.Context, r *errandv1.ListQueuesRequest) (*errandv1.ListQueuesResponse, error) {
	return via(ctx, b.queues, b.Service.ListQueues, r)
}

// Each broken server fails, at the check that is about what it breaks.
func TestBrokenServersFail(t *testing.T) {
	for _, c := range []struct {
		name   string
		fails  string // a check
		breaks func(b *breaking)
	}{
		{"loses a job", "load with lost answers", func(b *breaking) {
			// The last job of a large batch is accepted, and never stored.
			b.enqueue = func(ctx context.Context, r *errandv1.EnqueueRequest) (*errandv1.EnqueueResponse, error) {
				items := r.GetItems()
				last := items[len(items)-1]
				if len(items) < 10 || len(items) > 500 {
					return b.Service.Enqueue(ctx, r)
				}
				resp, err := b.Service.Enqueue(ctx, &errandv1.EnqueueRequest{Items: items[:len(items)-1]})
				if err == nil {
					resp.Results = append(resp.Results, &errandv1.EnqueueResult{Id: last.GetId(), State: errandv1.JobState_JOB_STATE_READY})
				}
				return resp, err
			}
		}},
		{"stores a repeated enqueue again", "idempotency key", func(b *breaking) {
			b.enqueue = func(ctx context.Context, r *errandv1.EnqueueRequest) (*errandv1.EnqueueResponse, error) {
				for _, it := range r.GetItems() {
					it.IdempotencyKey = ""
				}
				return b.Service.Enqueue(ctx, r)
			}
		}},
		{"accepts a stale settle", "stale tokens", func(b *breaking) {
			b.settle = func(ctx context.Context, r *errandv1.SettleRequest) (*errandv1.SettleResponse, error) {
				for _, it := range r.GetItems() {
					jobs, err := b.Service.GetJobs(ctx, &errandv1.GetJobsRequest{Ids: []string{it.GetId()}, Fresh: true})
					if err == nil && len(jobs.GetJobs()) == 1 && jobs.GetJobs()[0].GetToken() > 0 {
						it.Token = jobs.GetJobs()[0].GetToken() // whatever it was
					}
				}
				return b.Service.Settle(ctx, r)
			}
		}},
		{"says yes to a stale settle", "a dead worker's jobs", func(b *breaking) {
			b.settle = func(ctx context.Context, r *errandv1.SettleRequest) (*errandv1.SettleResponse, error) {
				resp, err := b.Service.Settle(ctx, r)
				for _, res := range resp.GetResults() {
					res.Problem = nil
				}
				return resp, err
			}
		}},
		{"drops results", "load with lost answers", dropResults},
		{"drops every result", "a doubled settle", dropResults},
		{"takes a live session's job away", "a held job is nobody else's", func(b *breaking) {
			b.extend = func(ctx context.Context, r *errandv1.ExtendRequest) (*errandv1.ExtendResponse, error) {
				held := r.GetHeld()
				r.Held = nil // as if it named none: the ledger takes them for lost
				resp, err := b.Service.Extend(ctx, r)
				r.Held = held
				return resp, err
			}
		}},
		{"gives all suspects at once", "a dead worker's jobs", func(b *breaking) {
			b.lease = func(ctx context.Context, r *errandv1.LeaseRequest) (*errandv1.LeaseResponse, error) {
				resp, err := b.Service.Lease(ctx, r)
				if n := len(resp.GetJobs()); n == 1 && resp.GetJobs()[0].GetCrashes() > 0 {
					resp.Jobs = append(resp.Jobs, resp.GetJobs()[0])
				}
				return resp, err
			}
		}},
		{"forgets what a Lease was answered with", "a lost lease", func(b *breaking) {
			b.lease = func(ctx context.Context, r *errandv1.LeaseRequest) (*errandv1.LeaseResponse, error) {
				r.Call += 1_000_000 * time.Now().UnixNano() % 1_000_000_007
				return b.Service.Lease(ctx, r)
			}
		}},
		{"serves old states", "the view agrees with the ledger", func(b *breaking) {
			b.get = func(ctx context.Context, r *errandv1.GetJobsRequest) (*errandv1.GetJobsResponse, error) {
				resp, err := b.Service.GetJobs(ctx, r)
				if r.GetView() == errandv1.JobView_JOB_VIEW_STATE {
					for _, j := range resp.GetJobs() {
						j.State, j.Version = errandv1.JobState_JOB_STATE_READY, 1
					}
				}
				return resp, err
			}
		}},
		{"miscounts", "the counters agree with the ledger", func(b *breaking) {
			b.queues = func(ctx context.Context, r *errandv1.ListQueuesRequest) (*errandv1.ListQueuesResponse, error) {
				resp, err := b.Service.ListQueues(ctx, r)
				for _, q := range resp.GetQueues() {
					q.Succeeded++
				}
				return resp, err
			}
		}},
		{"forgets priorities", "order by priority", func(b *breaking) {
			b.enqueue = func(ctx context.Context, r *errandv1.EnqueueRequest) (*errandv1.EnqueueResponse, error) {
				for _, it := range r.GetItems() {
					if p := it.GetPriority(); it.Priority != nil && p >= 0 && p <= 9 {
						it.Priority = nil
					}
				}
				return b.Service.Enqueue(ctx, r)
			}
		}},
		{"takes anything", "bad jobs", func(b *breaking) {
			b.enqueue = func(ctx context.Context, r *errandv1.EnqueueRequest) (*errandv1.EnqueueResponse, error) {
				for _, it := range r.GetItems() {
					if it.GetPriority() > 9 {
						nine := int32(9)
						it.Priority = &nine
					}
				}
				return b.Service.Enqueue(ctx, r)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := &breaking{Service: open(t, embedded.Config{}).Service()}
			c.breaks(b)
			conf := config(b)
			conf.Timeout = 40 * time.Second // too short for those that wait for sessions to die
			r, err := Run(t.Context(), conf)
			if err != nil {
				t.Errorf("the run: %v", err)
			}
			at := slices.IndexFunc(r.Checks, func(k Check) bool { return k.Name == c.fails })
			if r.OK || at < 0 || r.Checks[at].Status != Fail || len(r.Checks[at].Evidence) == 0 {
				describe(t, r)
				t.Fatalf("ok %t: %q did not fail", r.OK, c.fails)
			}
			t.Logf("evidence: %s", strings.Join(r.Checks[at].Evidence, "\n"))
		})
	}
}

func dropResults(b *breaking) {
	b.settle = func(ctx context.Context, r *errandv1.SettleRequest) (*errandv1.SettleResponse, error) {
		r = proto.CloneOf(r)
		for _, it := range r.GetItems() {
			it.Result = nil
		}
		return b.Service.Settle(ctx, r)
	}
}

// prepared is a bench that is cleared at the test's end.
func prepared(t *testing.T, svc errand.Service, timeout time.Duration) *bench {
	t.Helper()
	b := &bench{conf: config(svc), client: errand.NewClient(svc, nil), svc: svc, ids: map[errand.ID]bool{}}
	b.conf.Timeout = timeout
	if err := b.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.clear(context.WithoutCancel(t.Context()), &Report{}) })
	return b
}

// A server that waits for long between attempts, unless told otherwise, keeps its promises.
func TestLongBackOff(t *testing.T) {
	slow := &breaking{Service: open(t, embedded.Config{}).Service()}
	slow.settle = func(ctx context.Context, r *errandv1.SettleRequest) (*errandv1.SettleResponse, error) {
		for _, it := range r.GetItems() {
			if it.GetOutcome() == errandv1.Outcome_OUTCOME_FAIL && it.Delay == nil {
				it.Delay = durationpb.New(time.Hour)
			}
		}
		return slow.Service.Settle(ctx, r)
	}
	b := prepared(t, slow, 10*time.Second)
	for name, run := range map[string]func(context.Context, *bench) (string, error){"failures": failures, "growing": growing} {
		if _, err := run(t.Context(), b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Checks that need a session's end say nothing in a run that is too short for one.
func TestTooShortForASession(t *testing.T) {
	b := prepared(t, open(t, embedded.Config{}).Service(), 4*time.Second)
	for name, run := range map[string]func(context.Context, *bench) (string, error){
		"held": heldJob, "dead": deadWorker, "drained": drained, "pill": pill,
	} {
		var short *skippedError
		if _, err := run(t.Context(), b); !errors.As(err, &short) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What cannot be examined is refused before anything is enqueued, with an error that says why.
func TestRefusals(t *testing.T) {
	c := open(t, embedded.Config{})
	t.Run("a paused queue", func(t *testing.T) {
		if err := c.Pause(t.Context(), "errand-verify"); err != nil {
			t.Fatal(err)
		}
		r, err := Run(t.Context(), config(c.Service()))
		refused(t, r, err, errand.CodeFailedPrecondition, "is paused: resume it")
		if err := c.Resume(t.Context(), "errand-verify"); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("another run", func(t *testing.T) {
		other := &bench{conf: config(c.Service()), svc: c.Service(), ids: map[errand.ID]bool{}}
		h, err := other.hand(t.Context(), "probe")
		if err != nil {
			t.Fatal(err)
		}
		r, err := Run(t.Context(), config(c.Service()))
		refused(t, r, err, errand.CodeFailedPrecondition, "another verification")
		if err := h.close(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("too few rights", func(t *testing.T) {
		for role, lacks := range map[string]string{
			"producer": "it lacks worker,viewer", "worker,viewer": "it lacks producer", "monitor": "it lacks producer,worker,viewer",
		} {
			r, err := Run(t.Context(), config(&roled{c.Service(), role}))
			refused(t, r, err, errand.CodePermissionDenied, lacks)
		}
	})
}

func refused(t *testing.T, r Report, err error, code errand.Code, text string) {
	t.Helper()
	var e *errand.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, text) || r.OK || r.Jobs > 0 {
		t.Errorf("ok %t, %d jobs, %v; want %s, %q", r.OK, r.Jobs, err, code, text)
	}
}

// roled is a server that says the token has this role.
type roled struct {
	errand.Service
	role string
}

func (r *roled) GetServerInfo(ctx context.Context, q *errandv1.GetServerInfoRequest) (*errandv1.GetServerInfoResponse, error) {
	resp, err := r.Service.GetServerInfo(ctx, q)
	resp.Role = r.role
	return resp, err
}

// Who is no operator deletes nothing: what has ended stays for the retention, and no dead letter is left.
func TestWithoutAnOperatorsToken(t *testing.T) {
	t.Parallel()
	c := open(t, embedded.Config{})
	r, err := Run(t.Context(), config(&roled{c.Service(), "producer,worker,viewer"}))
	if err != nil || !r.OK || r.Deleted > r.Jobs-r.Retained || r.Retained < 200 {
		describe(t, r)
		t.Fatalf("ok %t, deleted %d, retained %d, left %v, %v", r.OK, r.Deleted, r.Retained, r.Left, err)
	}
	n, _, err := c.CountDead(t.Context(), errand.DeadFilter{})
	if err != nil || n != 0 {
		t.Errorf("%d dead letters are left, %v", n, err)
	}
}

// Interrupted, it clears up and says so: a session too, whose opening was cut off.
func TestInterrupted(t *testing.T) {
	for name, at := range map[string]int{"after some checks": 0, "while a session opens": 4} {
		t.Run(name, func(t *testing.T) {
			c := open(t, embedded.Config{})
			ctx, cancel := context.WithCancel(t.Context())
			conf := config(&interrupting{Service: c.Service(), at: int64(at), cancel: cancel})
			conf.Progress = func(ended, _ int, _ Check) {
				if ended == 3 {
					cancel()
				}
			}
			r, err := Run(ctx, conf)
			if !errors.Is(err, context.Canceled) || r.OK {
				t.Errorf("ok %t, %v", r.OK, err)
			}
			for j, err := range c.List(t.Context(), errand.ListQuery{Queue: "errand-verify"}) {
				t.Errorf("job %s is left, %s, %v", j.ID, j.State, err)
			}
			sessions, err := c.Sessions(t.Context())
			for _, s := range sessions {
				if s.State == "live" {
					t.Errorf("the session of %s is left", s.Worker)
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// interrupting interrupts the run when its session number at is open and nobody knows yet.
type interrupting struct {
	errand.Service
	at, n  int64
	cancel func()
}

func (i *interrupting) OpenSession(ctx context.Context, r *errandv1.OpenSessionRequest) (*errandv1.OpenSessionResponse, error) {
	resp, err := i.Service.OpenSession(ctx, r)
	if atomic.AddInt64(&i.n, 1) == i.at {
		i.cancel()
		return nil, ctx.Err()
	}
	return resp, err
}

// What a run that was killed left is removed by the next.
func TestClearsUpAfterAKilledRun(t *testing.T) {
	t.Parallel()
	c := open(t, embedded.Config{})
	old := &bench{conf: config(c.Service()), client: c, svc: c.Service(), ids: map[errand.ID]bool{}}
	id, err := old.enqueue(t.Context(), "order")
	if err != nil {
		t.Fatal(err)
	}
	mine := []string{"mine", "verify.email"}
	for _, kind := range mine {
		for _, opts := range [][]errand.EnqueueOption{nil, {errand.In(time.Hour)}} {
			if _, err := c.Enqueue(t.Context(), errand.NewParams(kind, []byte("1"), append(opts, errand.Queue("errand-verify"))...)); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, err := Run(t.Context(), config(marked(t, c)))
	if err != nil || !r.OK {
		describe(t, r)
		t.Fatal(err)
	}
	if _, err := c.Job(t.Context(), id); !errors.Is(err, errand.ErrNotFound) {
		t.Errorf("the old canary is left: %v", err)
	}
	for _, kind := range mine {
		n := 0
		for _, err := range c.List(t.Context(), errand.ListQuery{Queue: "errand-verify", Kind: kind}) {
			if n++; err != nil {
				t.Fatal(err)
			}
		}
		if n != 2 {
			t.Errorf("of the user's own jobs of kind %s %d are left, want 2", kind, n)
		}
	}
}

// marked wants every canary that is stored to be one which the next run would find.
func marked(t *testing.T, c *errand.Client) errand.Service {
	b := &breaking{Service: c.Service()}
	b.enqueue = func(ctx context.Context, r *errandv1.EnqueueRequest) (*errandv1.EnqueueResponse, error) {
		resp, err := b.Service.Enqueue(ctx, r)
		for _, it := range r.GetItems() {
			if err == nil && (!isKind(it.GetKind()) || !slices.Contains(it.GetTags(), tag)) {
				t.Errorf("a canary of kind %s with the tags %v would be left by a run that was killed", it.GetKind(), it.GetTags())
			}
		}
		return resp, err
	}
	return b
}

// However the calls to a server end that does not answer any more, it is told as away.
func TestServerThatDoesNotAnswer(t *testing.T) {
	for name, end := range map[string]error{
		"hangs":  connect.NewError(connect.CodeDeadlineExceeded, context.DeadlineExceeded),
		"breaks": io.ErrUnexpectedEOF,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &breaking{Service: open(t, embedded.Config{}).Service()}
			b.settle = func(context.Context, *errandv1.SettleRequest) (*errandv1.SettleResponse, error) { return nil, end }
			r, err := Run(t.Context(), config(b))
			if e := errand.ErrorOf(err); err == nil || e.Code != errand.CodeUnavailable || !errors.Is(err, end) {
				describe(t, r)
				t.Fatalf("the run ended with %v", err)
			}
		})
	}
}
