package job_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/errandhq/errand/job"
)

var (
	allStates = []job.State{job.Scheduled, job.Ready, job.Running, job.Succeeded, job.Dead, job.Cancelled}
	allEvents = []job.Event{job.Due, job.Lease, job.Succeed, job.Fail, job.Discard, job.Snooze, job.Release,
		job.Crash, job.Cancel, job.Expire, job.Redrive, job.Delete}
	now = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
)

// half is a fixed jitter: every back-off is half of its ceiling.
func half() job.Rules { return job.DefaultRules(func() float64 { return 0.5 }) }

// inState makes a job that has been through enough to have something to lose.
func inState(s job.State) job.Job {
	j := job.Job{
		ID: job.ID{1}, Queue: "mail", Kind: "send", Priority: 7, State: s, Lane: 7, Seq: 41,
		CreatedAt: now.Add(-time.Hour), RunAt: now.Add(-time.Minute), MaxAttempts: 5, Attempt: 2,
		Token: 9, Version: 30,
	}
	switch s {
	case job.Scheduled:
		j.Seq = 0
	case job.Running:
		j.Session, j.Call, j.LeasedAt = job.ID{2}, 3, now.Add(-time.Second)
	case job.Succeeded, job.Dead, job.Cancelled:
		j.DoneAt = now.Add(-time.Second)
	}
	return j
}

// designTable is design §4 written out by hand: the state that follows, or 0
// where the pair is refused. It is deliberately not derived from the code.
var designTable = map[job.State]map[job.Event]job.State{
	job.Scheduled: {job.Due: job.Ready, job.Cancel: job.Cancelled, job.Expire: job.Cancelled, job.Delete: job.Deleted},
	job.Ready:     {job.Lease: job.Running, job.Cancel: job.Cancelled, job.Expire: job.Cancelled, job.Delete: job.Deleted},
	job.Running: {job.Succeed: job.Succeeded, job.Fail: job.Scheduled, job.Discard: job.Dead, job.Snooze: job.Scheduled,
		job.Release: job.Ready, job.Crash: job.Ready, job.Cancel: job.Running},
	job.Succeeded: {job.Delete: job.Deleted},
	job.Dead:      {job.Redrive: job.Ready, job.Cancel: job.Cancelled, job.Delete: job.Deleted},
	job.Cancelled: {job.Delete: job.Deleted},
}

func TestEveryPairOfStateAndEvent(t *testing.T) {
	for _, s := range append([]job.State{0, job.Deleted, 8}, allStates...) {
		for _, e := range append([]job.Event{0, 13, 255}, allEvents...) {
			t.Run(s.String()+"/"+e.String(), func(t *testing.T) {
				j := inState(s)
				before := j
				err := half().Step(&j, job.Move{Event: e, Now: now})
				want := designTable[s][e]
				if job.Allowed(s, e) != (want != 0) {
					t.Errorf("Allowed = %v", job.Allowed(s, e))
				}
				if want == 0 {
					if job.ReasonOf(err) != job.ReasonBadTransition || job.CodeOf(err) != job.FailedPrecondition {
						t.Errorf("err = %v, want a refusal", err)
					}
					if !reflect.DeepEqual(j, before) {
						t.Errorf("a refused event changed the job: %+v", j)
					}
					return
				}
				if err != nil || j.State != want {
					t.Fatalf("state %s, err %v; want %s", j.State, err, want)
				}
				if j.Version <= before.Version {
					t.Errorf("version went from %d to %d", before.Version, j.Version)
				}
				if grew := j.Token - before.Token; (e == job.Lease) != (grew == 1) || grew < 0 || grew > 1 {
					t.Errorf("token went from %d to %d", before.Token, j.Token)
				}
			})
		}
	}
}

func TestFieldsAfterEachEvent(t *testing.T) {
	sess := job.ID{7}
	cases := map[string]struct {
		from job.State
		prep func(*job.Job)
		move job.Move
		want func(*job.Job)
	}{
		"due draws a seq and goes to its priority": {job.Scheduled, nil, job.Move{Event: job.Due},
			func(j *job.Job) { j.State, j.Lane, j.Seq = job.Ready, 7, 0 }},
		"due of a job that crashed goes to the suspects": {job.Scheduled, func(j *job.Job) { j.Crashes = 1 }, job.Move{Event: job.Due},
			func(j *job.Job) { j.State, j.Lane, j.Seq = job.Ready, job.LaneSuspect, 0 }},
		"lease": {job.Ready, nil, job.Move{Event: job.Lease, Session: sess, Call: 5},
			func(j *job.Job) {
				j.State, j.Session, j.Call, j.LeasedAt, j.Attempt, j.Token = job.Running, sess, 5, now, 3, 10
			}},
		"succeed": {job.Running, nil, job.Move{Event: job.Succeed, Result: []byte("ok")},
			func(j *job.Job) { ended(j); j.State, j.DoneAt, j.Result = job.Succeeded, now, []byte("ok") }},
		"succeed wins over a cancel request": {job.Running, func(j *job.Job) { j.CancelRequested = true }, job.Move{Event: job.Succeed},
			func(j *job.Job) { ended(j); j.State, j.DoneAt = job.Succeeded, now }},
		"fail backs off": {job.Running, nil, job.Move{Event: job.Fail, Failure: job.Failure{Message: "no"}},
			func(j *job.Job) {
				ended(j)
				failed(j, false)
				j.State, j.Seq, j.RunAt = job.Scheduled, 0, now.Add(time.Second) // half of 2 s
			}},
		"fail with RetryIn is exact": {job.Running, nil, job.Move{Event: job.Fail, Delay: 42 * time.Minute, Failure: job.Failure{Message: "no"}},
			func(j *job.Job) {
				ended(j)
				failed(j, false)
				j.State, j.Seq, j.RunAt = job.Scheduled, 0, now.Add(42*time.Minute)
			}},
		"fail with no attempts left": {job.Running, func(j *job.Job) { j.MaxAttempts = 2 }, job.Move{Event: job.Fail, Delay: time.Hour, Failure: job.Failure{Message: "no"}},
			func(j *job.Job) {
				ended(j)
				failed(j, false)
				j.State, j.DoneAt, j.Reason = job.Dead, now, job.WhyAttempts
			}},
		"discard": {job.Running, nil, job.Move{Event: job.Discard, Failure: job.Failure{Message: "no"}},
			func(j *job.Job) {
				ended(j)
				failed(j, false)
				j.State, j.DoneAt, j.Reason = job.Dead, now, job.WhyDiscarded
			}},
		"snooze gives the attempt back": {job.Running, nil, job.Move{Event: job.Snooze, Delay: time.Hour},
			func(j *job.Job) {
				ended(j)
				j.State, j.Seq, j.RunAt, j.Attempt = job.Scheduled, 0, now.Add(time.Hour), 1
			}},
		"snooze of a negative time means now": {job.Running, nil, job.Move{Event: job.Snooze, Delay: -time.Hour},
			func(j *job.Job) { ended(j); j.State, j.Seq, j.RunAt, j.Attempt = job.Scheduled, 0, now, 1 }},
		"release keeps the place in the order": {job.Running, nil, job.Move{Event: job.Release},
			func(j *job.Job) { ended(j); j.State, j.Lane, j.Attempt = job.Ready, job.LaneFront, 1 }},
		"release of a suspect stays suspect": {job.Running, func(j *job.Job) { j.Crashes = 1 }, job.Move{Event: job.Release},
			func(j *job.Job) { ended(j); j.State, j.Lane, j.Attempt = job.Ready, job.LaneSuspect, 1 }},
		"crash makes a suspect, charged": {job.Running, nil, job.Move{Event: job.Crash, Failure: job.Failure{Message: "no"}},
			func(j *job.Job) {
				ended(j)
				failed(j, true)
				j.State, j.Lane, j.Crashes = job.Ready, job.LaneSuspect, 1
			}},
		"the third crash is the last": {job.Running, func(j *job.Job) { j.Crashes = 2 }, job.Move{Event: job.Crash, Failure: job.Failure{Message: "no"}},
			func(j *job.Job) {
				ended(j)
				failed(j, true)
				j.State, j.DoneAt, j.Reason, j.Crashes = job.Dead, now, job.WhyCrashed, 3
			}},
		"a crash is no failure: it uses up no max_attempts": {job.Running, func(j *job.Job) { j.MaxAttempts = 2 }, job.Move{Event: job.Crash, Failure: job.Failure{Message: "no"}},
			func(j *job.Job) {
				ended(j)
				failed(j, true)
				j.State, j.Lane, j.Crashes = job.Ready, job.LaneSuspect, 1
			}},
		"cancel of a running job is a request": {job.Running, nil, job.Move{Event: job.Cancel},
			func(j *job.Job) { j.CancelRequested = true }},
		"cancel": {job.Ready, nil, job.Move{Event: job.Cancel},
			func(j *job.Job) { j.State, j.DoneAt, j.Reason = job.Cancelled, now, job.WhyCancelled }},
		"cancel of a dead letter": {job.Dead, nil, job.Move{Event: job.Cancel},
			func(j *job.Job) { j.State, j.DoneAt, j.Reason = job.Cancelled, now, job.WhyCancelled }},
		"expire": {job.Scheduled, nil, job.Move{Event: job.Expire},
			func(j *job.Job) { j.State, j.DoneAt, j.Reason = job.Cancelled, now, job.WhyExpired }},
		"redrive": {job.Dead, func(j *job.Job) {
			j.Crashes, j.Reason, j.ExpiresAt = 3, job.WhyCrashed, now.Add(-time.Hour)
			j.Errors = []job.Failure{{Message: "kept"}}
		}, job.Move{Event: job.Redrive},
			func(j *job.Job) {
				j.State, j.Lane, j.Seq, j.RunAt = job.Ready, 7, 0, now
				j.Attempt, j.Crashes, j.Reason, j.Redrives = 0, 0, "", 1
				j.DoneAt, j.ExpiresAt = time.Time{}, time.Time{}
			}},
		"paced redrive": {job.Dead, nil, job.Move{Event: job.Redrive, Delay: time.Minute},
			func(j *job.Job) {
				j.State, j.Seq, j.RunAt = job.Scheduled, 0, now.Add(time.Minute)
				j.Attempt, j.Redrives, j.DoneAt = 0, 1, time.Time{}
			}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := inState(c.from)
			if c.prep != nil {
				c.prep(&got)
			}
			want := got
			c.want(&want)
			want.Version++
			c.move.Now = now
			if err := half().Step(&got, c.move); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// ended is what every end of a lease does.
func ended(j *job.Job) { j.Session, j.Call, j.CancelRequested = job.ID{}, 0, false }

func failed(j *job.Job, crash bool) {
	j.Errors = append(j.Errors, job.Failure{Attempt: 2, Message: "no", At: now, Crash: crash})
}

func TestCancelWinsOverEveryEndButSuccess(t *testing.T) {
	for _, e := range []job.Event{job.Fail, job.Discard, job.Snooze, job.Release, job.Crash} {
		j := inState(job.Running)
		j.CancelRequested, j.Crashes, j.MaxAttempts = true, 2, 2 // would be dead otherwise
		if err := half().Step(&j, job.Move{Event: e, Now: now, Delay: time.Hour}); err != nil {
			t.Fatal(err)
		}
		if j.State != job.Cancelled || j.Reason != job.WhyCancelled || j.CancelRequested || !j.DoneAt.Equal(now) {
			t.Errorf("%s: %s (%s), cancel requested %v", e, j.State, j.Reason, j.CancelRequested)
		}
	}
}

func TestSettle(t *testing.T) {
	for _, e := range []job.Event{job.Succeed, job.Fail, job.Discard, job.Snooze, job.Release} {
		t.Run(e.String(), func(t *testing.T) {
			j := inState(job.Running)
			m := job.Move{Event: e, Now: now, Delay: time.Hour}
			repeated, err := half().Settle(&j, 9, m)
			if err != nil || repeated || j.SettledToken != 9 || j.SettledAs != e {
				t.Fatalf("repeated %v, err %v, settled %d as %s", repeated, err, j.SettledToken, j.SettledAs)
			}
			after := j
			repeated, err = half().Settle(&j, 9, m)
			if err != nil || !repeated || !reflect.DeepEqual(j, after) {
				t.Errorf("again: repeated %v, err %v, %+v", repeated, err, j)
			}
		})
	}
}

func TestSettleRefusesStaleTokens(t *testing.T) {
	for _, s := range allStates {
		for _, token := range []int64{-1, 0, 1, 8, 10} {
			j := inState(s)
			before := j
			repeated, err := half().Settle(&j, token, job.Move{Event: job.Succeed, Now: now})
			if !errors.Is(err, job.ErrStale) || repeated || !reflect.DeepEqual(j, before) {
				t.Errorf("%s, token %d: repeated %v, err %v", s, token, repeated, err)
			}
		}
	}
}

func TestSettleRefusesWhatNoHolderSays(t *testing.T) {
	for _, e := range []job.Event{0, job.Due, job.Lease, job.Crash, job.Cancel, job.Expire, job.Redrive, job.Delete, 99} {
		j := inState(job.Running)
		before := j
		if _, err := half().Settle(&j, 9, job.Move{Event: e, Now: now}); job.ReasonOf(err) != job.ReasonBadTransition {
			t.Errorf("%s: %v", e, err)
		}
		if !reflect.DeepEqual(j, before) {
			t.Errorf("%s changed the job", e)
		}
	}
}

// A sweep is not the holder's word: what the holder says afterwards is stale.
func TestSettleAfterASweepIsStale(t *testing.T) {
	for _, e := range []job.Event{job.Crash, job.Release} {
		j := inState(job.Running)
		if err := half().Step(&j, job.Move{Event: e, Now: now}); err != nil {
			t.Fatal(err)
		}
		if _, err := half().Settle(&j, 9, job.Move{Event: job.Succeed, Now: now}); !errors.Is(err, job.ErrStale) {
			t.Errorf("after %s: %v", e, err)
		}
	}
}

// The repeat of an earlier settle is known while the next lease runs.
func TestSettleRepeatedDuringTheNextLease(t *testing.T) {
	j, r := inState(job.Running), half()
	for _, m := range []job.Move{{Event: job.Due}, {Event: job.Lease}} {
		if j.State == job.Running {
			if _, err := r.Settle(&j, 9, job.Move{Event: job.Fail, Now: now}); err != nil {
				t.Fatal(err)
			}
		}
		m.Now = now
		if err := r.Step(&j, m); err != nil {
			t.Fatal(err)
		}
	}
	if repeated, err := r.Settle(&j, 9, job.Move{Event: job.Fail, Now: now}); !repeated || err != nil || j.State != job.Running {
		t.Errorf("repeated %v, err %v, state %s", repeated, err, j.State)
	}
	if repeated, err := r.Settle(&j, 10, job.Move{Event: job.Succeed, Now: now}); repeated || err != nil || j.State != job.Succeeded {
		t.Errorf("repeated %v, err %v, state %s", repeated, err, j.State)
	}
}

func TestBackoffIsBoundedWithFullJitter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := job.DefaultRules(func() float64 { return rapid.Float64Range(0, 0.999999).Draw(t, "rand") })
		r.BackoffBase = time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "base"))
		r.BackoffCap = time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "cap"))
		attempt := rapid.IntRange(-5, 2*job.MaxAttemptsCap).Draw(t, "attempt")
		ceiling := r.BackoffCap
		if n := max(attempt, 1) - 1; n < 30 {
			ceiling = min(ceiling, r.BackoffBase<<n)
		} else if r.BackoffBase == 0 {
			ceiling = 0
		}
		if d := r.Backoff(attempt); d < 0 || d > ceiling {
			t.Fatalf("attempt %d: %s is not between 0 and %s", attempt, d, ceiling)
		}
	})
	// Full jitter: the draw scales the whole delay, from nothing to the ceiling.
	for _, c := range []struct {
		attempt int
		rand    float64
		want    time.Duration
	}{{1, 0, 0}, {1, 0.5, 500 * time.Millisecond}, {4, 0.25, 2 * time.Second}, {13, 0.5, 30 * time.Minute}, {5000, 0.5, 30 * time.Minute}} {
		if got := job.DefaultRules(func() float64 { return c.rand }).Backoff(c.attempt); got != c.want {
			t.Errorf("attempt %d, draw %v: %s, want %s", c.attempt, c.rand, got, c.want)
		}
	}
}

// A long random life keeps the promises that hold for every job at any moment.
func TestRandomLives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := job.DefaultRules(func() float64 { return 0.5 })
		j := inState(job.Ready)
		j.Attempt, j.MaxAttempts = 0, rapid.IntRange(1, 4).Draw(t, "max")
		clock, failures := now, 0
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			before := j
			e := rapid.SampledFrom(allEvents[:11]).Draw(t, "event")
			clock = clock.Add(1500 * time.Nanosecond)
			err := r.Step(&j, job.Move{Event: e, Now: clock, Delay: time.Duration(rapid.IntRange(-1, 5000).Draw(t, "delay")),
				Failure: job.Failure{Message: "m"}})
			if err != nil {
				if !reflect.DeepEqual(before, j) {
					t.Fatal("a refusal changed the job")
				}
				continue
			}
			if e == job.Fail || e == job.Discard || e == job.Crash {
				failures++
			}
			checkLife(t, r, before, j, e, failures)
		}
	})
}

func checkLife(t *rapid.T, r job.Rules, before, j job.Job, e job.Event, failures int) {
	t.Helper()
	switch {
	case j.Version != before.Version+1:
		t.Fatalf("%s: version %d after %d", e, j.Version, before.Version)
	case j.Token < before.Token || (e == job.Lease) != (j.Token == before.Token+1):
		t.Fatalf("%s: token %d after %d", e, j.Token, before.Token)
	case j.Attempt < 0 || j.Crashes < 0 || j.Crashes > r.CrashLimit:
		t.Fatalf("%s: attempt %d, crashes %d", e, j.Attempt, j.Crashes)
	case (j.State == job.Running) != !j.Session.IsZero() && j.State != job.Running:
		t.Fatalf("%s: %s and held by %s", e, j.State, j.Session)
	case j.State.Final() != !j.DoneAt.IsZero():
		t.Fatalf("%s: %s, done at %s", e, j.State, j.DoneAt)
	case j.CancelRequested && j.State != job.Running:
		t.Fatalf("%s: cancel requested while %s", e, j.State)
	case (j.State == job.Dead || j.State == job.Cancelled) != (j.Reason != ""):
		t.Fatalf("%s: %s because %q", e, j.State, j.Reason)
	case j.State == job.Ready && (j.Crashes > 0) != (j.Lane == job.LaneSuspect):
		t.Fatalf("%s: lane %d after %d crashes", e, j.Lane, j.Crashes)
	case len(j.Errors) != min(failures, job.KeepErrors):
		t.Fatalf("%s: %d errors kept of %d", e, len(j.Errors), failures)
	}
	for _, at := range []time.Time{j.RunAt, j.DoneAt, j.LeasedAt} {
		if at.Nanosecond()%1000 != 0 {
			t.Fatalf("%s: time %s is finer than a ledger stores", e, at)
		}
	}
}

func TestKeepErrors(t *testing.T) {
	j, r := inState(job.Running), half()
	j.MaxAttempts = 1000
	for i := 1; i <= 50; i++ {
		j.State, j.Attempt = job.Running, i
		snapshot := j
		if err := r.Step(&j, job.Move{Event: job.Fail, Now: now, Failure: job.Failure{Message: "m", Worker: "w", Attempt: 999}}); err != nil {
			t.Fatal(err)
		}
		// A copy taken before the step must not see it through a shared array.
		if n := len(snapshot.Errors); n > 0 && snapshot.Errors[n-1].Attempt != i-1 {
			t.Fatalf("step %d wrote into the errors of a copy", i)
		}
	}
	if len(j.Errors) != job.KeepErrors {
		t.Fatalf("%d errors kept", len(j.Errors))
	}
	for i, f := range j.Errors {
		want := i + 1
		if i >= 9 {
			want = 50 - 17 + i
		}
		if f.Attempt != want {
			t.Errorf("error %d is of attempt %d, want %d", i, f.Attempt, want)
		}
	}
	if j.LastError() != "m" || (&job.Job{}).LastError() != "" {
		t.Error("LastError")
	}
}

func TestFailuresAreClippedToCleanText(t *testing.T) {
	j := inState(job.Running)
	msg := strings.Repeat("a", 5000) + "\x00\xff€ the end"
	err := half().Step(&j, job.Move{Event: job.Fail, Now: now, Failure: job.Failure{
		Message: msg, Stack: strings.Repeat("€", 5000), Worker: strings.Repeat("w\x00", 500)}})
	if err != nil {
		t.Fatal(err)
	}
	f := j.Errors[0]
	if len(f.Message) > job.MaxErrorMessage || !strings.HasSuffix(f.Message, "\uFFFD\uFFFD€ the end") {
		t.Errorf("message: %d bytes, ends %q", len(f.Message), f.Message[len(f.Message)-20:])
	}
	if len(f.Stack) > job.MaxErrorStack || strings.Trim(f.Stack, "€") != "" {
		t.Errorf("stack: %d bytes, cut inside a rune", len(f.Stack))
	}
	if len(f.Worker) > job.MaxName || strings.Contains(f.Worker, "\x00") {
		t.Errorf("worker: %q", f.Worker)
	}
}

func TestHoldsKey(t *testing.T) {
	type key struct {
		mode   job.UniqueMode
		state  job.State
		leased bool
	}
	holds := map[key]bool{
		{job.WhileQueued, job.Scheduled, false}: true, {job.WhileQueued, job.Ready, false}: true,
		{job.UntilDone, job.Scheduled, false}: true, {job.UntilDone, job.Ready, false}: true, {job.UntilDone, job.Running, false}: true,
		{job.UntilDone, job.Scheduled, true}: true, {job.UntilDone, job.Ready, true}: true, {job.UntilDone, job.Running, true}: true,
	}
	for mode := job.NotUnique; mode <= job.ForWindow; mode++ {
		for _, s := range append([]job.State{job.Deleted}, allStates...) {
			for _, leased := range []bool{false, true} {
				j := job.Job{State: s, UniqueMode: mode, UniqueKey: "k"}
				if leased {
					j.LeasedAt = now
				}
				if got := j.HoldsKey(); got != holds[key{mode, s, leased}] {
					t.Errorf("mode %d, %s, leased %v: %v", mode, s, leased, got)
				}
			}
		}
	}
}
