package errand

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	succeeded = errandv1.JobState_JOB_STATE_SUCCEEDED
	scheduled = errandv1.JobState_JOB_STATE_SCHEDULED
	ready     = errandv1.JobState_JOB_STATE_READY
	running   = errandv1.JobState_JOB_STATE_RUNNING
)

// wantState fails the test unless the job is in the state.
func wantState(t *testing.T, f *fake, id ID, want errandv1.JobState) *errandv1.Settlement {
	t.Helper()
	got, st := f.get(id)
	if got != want {
		t.Errorf("job %s is %v, want %v (settled %v)", id, got, want, st)
	}
	return st
}

func TestWorkerDoesEveryJobOnceInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		ids := f.add("k", 500)
		f.script(func(call string, _ int, done bool) error {
			if call == "Settle" && !done {
				time.Sleep(5 * time.Millisecond) // a commit
			}
			return nil
		})
		w := f.worker()
		w.Concurrency = 50
		var most, now atomic.Int64
		HandleKind(w, "k", func(context.Context, *RawJob) error {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Second)
			now.Add(-1)
			return nil
		})
		stop := start(t, w)
		time.Sleep(11 * time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			wantState(t, f, id, succeeded)
		}
		if most.Load() != 50 {
			t.Errorf("%d handlers ran at a time, want 50", most.Load())
		}
		if n := len(f.settles); n > 120 {
			t.Errorf("500 jobs took %d Settle calls: they are not batched", n)
		}
		if len(f.closed) != 1 || f.closed[0].Draining {
			t.Errorf("the session was closed as %v, want once and clean", f.closed)
		}
	})
}

// TestHandlersThatEndTheirGoroutine: the jobs behind one whose goroutine ended are performed all the same.
func TestHandlersThatEndTheirGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		ids := f.add("k", 100)
		w := f.worker()
		w.Concurrency = 100
		HandleKind(w, "k", func(context.Context, *RawJob) error { runtime.Goexit(); return nil })
		stop := start(t, w)
		time.Sleep(time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if st := wantState(t, f, id, scheduled); st.GetError() != "the handler ended its goroutine" {
				t.Errorf("settled %v", st)
			}
		}
	})
}

// TestOneJobHeldTwice: a job that is leased again while its first handler still runs does
// not hide that one: both are named to the server, and each can be cancelled.
func TestOneJobHeldTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &session{r: &run{base: t.Context()}, pending: map[int64]struct{}{}, settled: make(chan struct{}, 1)}
		id := NewID()
		again := func(token int64) *lease {
			l := &lease{s: s, job: RawJob{ID: id, Token: token}}
			s.admit(token, []*lease{l})
			return l
		}
		first, second, third := again(1), again(2), again(3)
		held := func() (tokens []int64) {
			req, _ := s.extendRequest()
			for _, h := range req.GetHeld() {
				tokens = append(tokens, h.GetToken())
			}
			slices.Sort(tokens)
			return tokens
		}
		s.forget([]*lease{first})
		s.forget([]*lease{first})
		if got := held(); !slices.Equal(got, []int64{2, 3}) {
			t.Errorf("tokens %v are held, want 2 and 3", got)
		}
		s.cancelHeld(&errandv1.Held{Id: id.String(), Token: 2}, ErrCancelled)
		if second.ctx.Err() == nil || third.ctx.Err() != nil {
			t.Errorf("the contexts ended with %v and %v, want only the first to", second.ctx.Err(), third.ctx.Err())
		}
		s.forget([]*lease{third, second})
		if got := held(); len(got) != 0 {
			t.Errorf("tokens %v are held, want none", got)
		}
	})
}

// TestLostLeaseReply loses the reply of every third Lease: the repeat has the
// same number and gets the same jobs, and nothing stays running.
func TestLostLeaseReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		ids := f.add("k", 60)
		f.script(func(call string, n int, done bool) error {
			if call == "Lease" && done && n%3 == 1 {
				return errLost
			}
			return nil
		})
		w := f.worker()
		HandleKind(w, "k", func(context.Context, *RawJob) error { time.Sleep(time.Second); return nil })
		stop := start(t, w)
		time.Sleep(5 * time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			wantState(t, f, id, succeeded)
		}
		if f.givenBack != 0 {
			t.Errorf("%d jobs were given back though their Lease was repeated", f.givenBack)
		}
		if got := w.Stats().Started; got != 60 {
			t.Errorf("%d handlers started for 60 jobs", got)
		}
	})
}

// TestGivenUpLease: a Lease that the server refuses after it has taken jobs is
// given up, and an Extend at once gives the jobs back.
func TestGivenUpLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		ids := f.add("k", 3)
		f.script(func(call string, n int, done bool) error {
			if call == "Lease" && done && n == 1 {
				return wireErr(CodeInternal, "")
			}
			return nil
		})
		w := f.worker()
		HandleKind(w, "k", func(context.Context, *RawJob) error { return nil })
		stop := start(t, w)
		time.Sleep(500 * time.Millisecond)
		f.mu.Lock()
		back := f.givenBack
		f.mu.Unlock()
		if back != 3 {
			t.Errorf("%d jobs were given back within half a second, want 3", back)
		}
		time.Sleep(10 * time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			wantState(t, f, id, succeeded)
		}
	})
}

func TestLostSettleAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		id := f.add("k", 1)[0]
		f.script(func(call string, n int, done bool) error {
			if call == "Settle" && done && n <= 3 {
				return errLost
			}
			return nil
		})
		w := f.worker()
		HandleKind(w, "k", func(_ context.Context, j *RawJob) error { return j.SetResult(42) })
		stop := start(t, w)
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if st := wantState(t, f, id, succeeded); string(st.GetResult()) != "42" {
			t.Errorf("result %q, want 42", st.GetResult())
		}
		if s := w.Stats(); s.Started != 1 || s.Stale != 0 {
			t.Errorf("stats %+v: want one start and nothing stale", s)
		}
	})
}

// TestSelfFencing cuts the worker off: at two thirds of the time-to-live, counted
// from when the last good renewal was sent, handlers are cancelled; the jobs are
// given back, and a new session goes on when the line is back.
func TestSelfFencing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		ids := f.add("k", 1)
		var cut atomic.Bool
		f.script(func(string, int, bool) error {
			if cut.Load() {
				return errLost
			}
			return nil
		})
		w := f.worker()
		cancelled := make(chan time.Time, 1)
		HandleKind(w, "k", func(ctx context.Context, j *RawJob) error {
			if j.Token > 1 {
				return nil
			}
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), ErrLeaseLost) {
				t.Errorf("cause %v, want ErrLeaseLost", context.Cause(ctx))
			}
			cancelled <- time.Now()
			return ctx.Err()
		})
		stop := start(t, w)
		time.Sleep(12 * time.Second)
		f.mu.Lock()
		renewed := f.extendAt[len(f.extendAt)-1]
		f.mu.Unlock()
		cut.Store(true)
		at := <-cancelled
		// The Extend under way when the line is cut still gets its answer.
		if d := at.Sub(renewed); d < 19*time.Second || d > 21*time.Second {
			t.Errorf("cancelled %s after the last renewal was sent, want 20s", d)
		}
		if st, _ := f.get(ids[0]); st != running {
			t.Errorf("the job is %v while the worker is cut off, want running", st)
		}
		cut.Store(false)
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		wantState(t, f, ids[0], succeeded)
		if s := w.Stats(); s.Sessions != 2 || s.Released != 1 || s.Failed != 0 {
			t.Errorf("stats %+v: want two sessions, one release and no failure", s)
		}
	})
}

// TestLostSession: the server forgets the session; its late result is refused
// and not repeated, and a new session takes over.
func TestLostSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		id := f.add("k", 1)[0]
		w := f.worker()
		HandleKind(w, "k", func(ctx context.Context, j *RawJob) error {
			if j.Token == 1 {
				<-ctx.Done()
				time.Sleep(time.Second)
			}
			return nil
		})
		stop := start(t, w)
		time.Sleep(time.Second)
		f.mu.Lock()
		f.sessions = map[string]bool{}
		f.find(id.String()).job.State = ready
		f.find(id.String()).job.SessionId = ""
		f.wake()
		f.mu.Unlock()
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		wantState(t, f, id, succeeded)
		if s := w.Stats(); s.Stale != 1 || s.Sessions != 2 || f.stale != 1 {
			t.Errorf("stats %+v, refused %d times: want one stale result, sent once, and two sessions", s, f.stale)
		}
	})
}

// TestOverrun: a handler that ignores its timeout keeps its lease and its hand,
// and is reported.
func TestOverrun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		ids := f.add("k", 2)
		f.jobs[0].job.Timeout = wireDuration(time.Second)
		w := f.worker()
		w.Concurrency = 1
		HandleKind(w, "k", func(ctx context.Context, j *RawJob) error {
			if j.ID == ids[0] {
				time.Sleep(2 * time.Minute)
				return ctx.Err()
			}
			return nil
		})
		stop := start(t, w)
		time.Sleep(100 * time.Second)
		wantState(t, f, ids[0], running)
		wantState(t, f, ids[1], ready)
		if s := w.Stats(); s.Overrun != 1 {
			t.Errorf("%d overruns, want 1", s.Overrun)
		}
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if st := wantState(t, f, ids[0], scheduled); !strings.Contains(st.GetError(), "timed out after 1s") {
			t.Errorf("error %q does not tell of the timeout", st.GetError())
		}
		wantState(t, f, ids[1], succeeded)
	})
}

func TestDrainWaitsForRunningJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		ids := f.add("k", 11)
		w := f.worker()
		HandleKind(w, "k", func(context.Context, *RawJob) error { time.Sleep(20 * time.Second); return nil })
		stop := start(t, w)
		time.Sleep(time.Second)
		began := time.Now()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 18*time.Second || d > 20*time.Second {
			t.Errorf("drained in %s, want 19s: when the handlers returned", d)
		}
		for _, id := range ids[:10] {
			wantState(t, f, id, succeeded)
		}
		wantState(t, f, ids[10], ready)
	})
}

// TestStopWhileASessionOpens: a session whose opening was cut off by the stop
// is closed all the same, so that it does not look like a worker that died.
func TestStopWhileASessionOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.script(func(call string, _ int, done bool) error {
			if call == "OpenSession" && done {
				time.Sleep(2 * time.Second)
				return errLost
			}
			return nil
		})
		w := f.worker()
		HandleKind(w, "k", func(context.Context, *RawJob) error { return nil })
		stop := start(t, w)
		time.Sleep(time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if len(f.sessions) != 0 {
			t.Errorf("sessions %v were left open", f.sessions)
		}
	})
}

// TestDrainLongerThanTheTimeToLive: renewals go on while the worker drains.
func TestDrainLongerThanTheTimeToLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		id := f.add("k", 1)[0]
		w := f.worker()
		w.Grace = time.Hour
		HandleKind(w, "k", func(ctx context.Context, _ *RawJob) error { return sleep(ctx, 10*time.Minute) })
		stop := start(t, w)
		time.Sleep(time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		wantState(t, f, id, succeeded)
	})
}

// TestDrainLeavesStubbornJobs: at the end of the grace a handler that returns
// on cancellation gives its job back uncharged; one that does not is named.
func TestDrainLeavesStubbornJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		ids := f.add("k", 2)
		w := f.worker()
		HandleKind(w, "k", func(ctx context.Context, j *RawJob) error {
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), ErrShutdown) {
				t.Errorf("cause %v, want ErrShutdown", context.Cause(ctx))
			}
			if j.ID == ids[1] {
				time.Sleep(time.Minute)
			}
			return ctx.Err()
		})
		stop := start(t, w)
		time.Sleep(time.Second)
		began := time.Now()
		err := stop()
		if d := time.Since(began); d < 29*time.Second || d > 31*time.Second {
			t.Errorf("Run took %s to end, want the grace, 30s", d)
		}
		var left *LeftError
		if !errors.As(err, &left) || len(left.Jobs) != 1 || left.Jobs[0] != ids[1] {
			t.Fatalf("Run said %v, want it to name job %s", err, ids[1])
		}
		if len(f.closed) != 1 || !f.closed[0].Draining {
			t.Errorf("closed as %v, want once, draining", f.closed)
		}
		if st := wantState(t, f, ids[0], ready); st.GetOutcome() != errandv1.Outcome_OUTCOME_RELEASE {
			t.Errorf("outcome %v, want a release", st.GetOutcome())
		}
		wantState(t, f, ids[1], running)
		time.Sleep(2 * time.Minute) // the stubborn handler ends, and nobody is there
	})
}

func TestCancelReachesRunningHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		id := f.add("k", 1)[0]
		w := f.worker()
		HandleKind(w, "k", func(ctx context.Context, _ *RawJob) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
		stop := start(t, w)
		time.Sleep(time.Second)
		f.mu.Lock()
		f.find(id.String()).job.CancelRequested = true
		f.wake()
		f.mu.Unlock()
		time.Sleep(time.Millisecond)
		synctest.Wait()
		wantState(t, f, id, errandv1.JobState_JOB_STATE_CANCELLED)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestCancelIgnored: a server that answers every Extend at once, because the
// cancelled handler still runs, is not asked without end.
func TestCancelIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		id := f.add("k", 1)[0]
		f.jobs[0].job.CancelRequested = true
		w := f.worker()
		HandleKind(w, "k", func(context.Context, *RawJob) error { time.Sleep(time.Minute); return nil })
		stop := start(t, w)
		time.Sleep(50 * time.Second)
		f.mu.Lock()
		n := len(f.extends)
		f.mu.Unlock()
		if n > 60 {
			t.Errorf("%d Extends in 50s", n)
		}
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		wantState(t, f, id, succeeded)
	})
}

func TestOutcomes(t *testing.T) {
	boom := errors.New("boom")
	cases := []struct {
		name  string
		h     Handler
		want  errandv1.Outcome
		err   string
		delay time.Duration
		stack bool
	}{
		{"error", func(context.Context, *RawJob) error { return boom }, errandv1.Outcome_OUTCOME_FAIL, "boom", 0, false},
		{"discard", func(context.Context, *RawJob) error { return Discard(boom) }, errandv1.Outcome_OUTCOME_DISCARD, "boom", 0, false},
		{"retry in", func(context.Context, *RawJob) error { return RetryIn(time.Minute, boom) }, errandv1.Outcome_OUTCOME_FAIL, "boom", time.Minute, false},
		{"snooze", func(context.Context, *RawJob) error { return Snooze(time.Hour) }, errandv1.Outcome_OUTCOME_SNOOZE, "", time.Hour, false},
		{"panic", func(context.Context, *RawJob) error { panic("ouch") }, errandv1.Outcome_OUTCOME_FAIL, "panic: ouch", 0, true},
		{"bad text", func(context.Context, *RawJob) error { return errors.New("a\xffb") }, errandv1.Outcome_OUTCOME_FAIL, "a\uFFFDb", 0, false},
		{"long text", func(context.Context, *RawJob) error { return errors.New(strings.Repeat("é", 4000)) }, errandv1.Outcome_OUTCOME_FAIL, strings.Repeat("é", 2048), 0, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				id := f.add("k", 1)[0]
				w := f.worker()
				HandleKind(w, "k", c.h)
				stop := start(t, w)
				time.Sleep(time.Second)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				_, st := f.get(id)
				if st.GetOutcome() != c.want || st.GetDelay().AsDuration() != c.delay || (st.GetStack() != "") != c.stack {
					t.Fatalf("settled %v", st)
				}
				if c.want != errandv1.Outcome_OUTCOME_SNOOZE && st.GetError() != c.err {
					t.Errorf("error %q, want %q", st.GetError(), c.err)
				}
			})
		})
	}
}

func TestPayloadThatDoesNotDecode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		id := f.add("k", 1)[0]
		f.jobs[0].job.Payload = []byte(`{"n":"many"}`)
		w := f.worker()
		Handle(w, NewTask[struct{ N int }]("k"), func(context.Context, *Job[struct{ N int }]) error { return nil })
		stop := start(t, w)
		time.Sleep(time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if st := wantState(t, f, id, scheduled); !strings.HasPrefix(st.GetError(), "the payload is no ") {
			t.Errorf("error %q", st.GetError())
		}
	})
}

// TestProgress: notes are sent at most every five seconds, the last one of those
// that came faster, and however many come the session is renewed.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.add("k", 10)
		w := f.worker()
		HandleKind(w, "k", func(ctx context.Context, j *RawJob) error {
			for range 600 {
				if err := j.Progress(ctx, time.Now().String()); err != nil {
					return err
				}
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		})
		stop := start(t, w)
		time.Sleep(70 * time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		byJob := map[string]int{}
		for _, p := range f.progress {
			byJob[p.Id]++
		}
		for id, n := range byJob {
			if n < 8 || n > 13 {
				t.Errorf("job %s sent %d notes in a minute", id, n)
			}
		}
		if s := w.Stats(); len(byJob) != 10 || s.Succeeded != 10 || s.Sessions != 1 {
			t.Errorf("%d jobs with notes, stats %+v", len(byJob), s)
		}
	})
}

func TestMiddlewareAndAny(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.add("a", 1)
		f.add("b", 1)
		var mu sync.Mutex
		var seen []string
		note := func(s string) { mu.Lock(); seen = append(seen, s); mu.Unlock() }
		layer := func(name string) Middleware {
			return func(next Handler) Handler {
				return func(ctx context.Context, j *RawJob) error { note(name + j.Kind); return next(ctx, j) }
			}
		}
		w := f.worker()
		w.Concurrency = 1
		w.Middleware = []Middleware{layer("1"), layer("2")}
		HandleKind(w, "a", func(context.Context, *RawJob) error { note("own"); return nil })
		HandleAny(w, func(context.Context, *RawJob) error { note("any"); return nil })
		stop := start(t, w)
		time.Sleep(time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(seen, " "); got != "1a 2a own 1b 2b any" {
			t.Errorf("order %q", got)
		}
		if len(f.leases[0].Kinds) != 0 {
			t.Errorf("kinds %q, want none: every kind", f.leases[0].Kinds)
		}
	})
}

// TestOutage: every server is away for ten minutes; the worker goes on afterwards.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		id := f.add("k", 1)[0]
		began := time.Now()
		f.script(func(string, int, bool) error {
			if time.Since(began) < 10*time.Minute {
				return errLost
			}
			return nil
		})
		w := f.worker()
		HandleKind(w, "k", func(context.Context, *RawJob) error { return nil })
		stop := start(t, w)
		time.Sleep(11 * time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		wantState(t, f, id, succeeded)
	})
}

func TestWorkerSetUpBadly(t *testing.T) {
	f := newFake()
	noop := func(context.Context, *RawJob) error { return nil }
	none := &Worker{}
	noHandler := f.worker()
	negative := f.worker()
	negative.Concurrency = -1
	HandleKind(negative, "k", noop)
	denied := f.worker()
	HandleKind(denied, "k", noop)
	f.script(func(string, int, bool) error { return wireErr(CodePermissionDenied, "") })
	for name, w := range map[string]*Worker{"no client": none, "no handler": noHandler, "negative": negative, "denied": denied} {
		if err := w.Run(context.Background()); err == nil {
			t.Errorf("%s: Run returned nil", name)
		}
	}
}
