package engine_test

import (
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// An idle server asks its ledger a handful of things a second, however many workers wait there.
func TestIdleServerAsksLittle(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		var calls, waits []<-chan []job.Job
		for range 100 {
			s := w.open()
			calls = append(calls, w.poll(w.ctx, engine.LeaseRequest{Session: s, Call: 1}))
			waits = append(waits, w.renewing(s, 30*time.Second))
		}
		time.Sleep(2 * time.Second) // what they found is known, and their renewals are together
		before := w.f.counts()
		time.Sleep(20 * time.Second)
		total := 0
		for method, n := range w.f.counts() {
			n -= before[method]
			total += n
			t.Logf("%s: %d", method, n)
		}
		if total > 20*4 {
			t.Errorf("%d calls of the ledger in 20 s, want at most four a second", total)
		}
		for i := range calls {
			<-calls[i]
			<-waits[i]
		}
	})
}

// counts returns how often each method was called.
func (f *fake) counts() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.calls)
}

// renewing extends a session again and again.
func (w *world) renewing(s job.ID, during time.Duration) <-chan []job.Job {
	done, end := make(chan []job.Job), time.Now().Add(during)
	go func() {
		defer close(done)
		for call := int64(2); time.Now().Before(end); call++ {
			if _, err := w.Extend(w.ctx, engine.ExtendRequest{Session: s, Call: call, Pending: []int64{1}, Wait: 10 * time.Second}); err != nil {
				w.t.Error(err)
			}
		}
	}()
	return done
}

// What nobody told this server of is found within the poll interval, or a second.
func TestPulseFindsWhatNobodyTold(t *testing.T) {
	elsewhere := func(w *world, change func(*job.Job)) job.ID {
		id := w.id()
		w.f.put(item(id).Job)
		w.f.change(id, change)
		return id
	}
	for name, c := range map[string]struct {
		change func(w *world, j *job.Job)
		within time.Duration
		want   job.State
	}{
		"due": {func(w *world, j *job.Job) { j.State, j.RunAt = job.Scheduled, w.Now() }, 500 * time.Millisecond, job.Ready},
		"expired, scheduled": {func(w *world, j *job.Job) {
			j.State, j.RunAt, j.ExpiresAt = job.Scheduled, w.Now().Add(time.Hour), w.Now()
		}, 500 * time.Millisecond, job.Cancelled},
		"expired, ready": {func(w *world, j *job.Job) { j.ExpiresAt = w.Now() }, 500 * time.Millisecond, job.Cancelled},
		"session gone":   {func(w *world, j *job.Job) { j.State, j.Session = job.Running, w.id() }, time.Second, job.Ready},
		"session dead": {func(w *world, j *job.Job) {
			j.State, j.Session = job.Running, w.id()
			w.f.sessions[j.Session] = &ledger.Session{ID: j.Session, State: ledger.SessionDead}
		}, time.Second, job.Ready},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, engine.Config{CrashLimit: 10}, func(w *world) {
				time.Sleep(3*time.Second + time.Millisecond) // just after a pulse
				id := elsewhere(w, func(j *job.Job) { j.MaxAttempts = 10; c.change(w, j) })
				time.Sleep(c.within)
				w.is(id, c.want)
			})
		})
	}
}

// A waiter hears within the poll interval of a job that nobody woke it for, also if it came
// after its session had been left with nothing.
func TestPulseFindsReadyJobs(t *testing.T) {
	for name, first := range map[string]time.Duration{"while it waits": 0, "before it waits": 5 * time.Second} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, engine.Config{}, func(w *world) {
				s := w.open()
				w.lease(s, 1, 10)
				put := func() time.Time {
					w.f.put(item(w.id()).Job)
					return time.Now()
				}
				var at time.Time
				if first > 0 {
					put()
					time.Sleep(first)
					at = time.Now()
				}
				got := w.poll(w.ctx, engine.LeaseRequest{Session: s, Call: 2})
				if first == 0 {
					time.Sleep(3*time.Second + time.Millisecond)
					at = put()
				}
				if jobs := <-got; len(jobs) != 1 || time.Since(at) > 500*time.Millisecond {
					t.Errorf("%d jobs after %s, want 1 within 500 ms", len(jobs), time.Since(at))
				}
				if first > 0 && time.Since(at) > 0 {
					t.Error("what was known of a queue that nobody waited for is old")
				}
			})
		})
	}
}

// While the pulse fails, and nothing else, all is found that it would have told of.
func TestAFailingPulseStopsNothing(t *testing.T) {
	inWorld(t, engine.Config{CrashLimit: 10}, func(w *world) {
		holder := w.open()
		w.put(1)
		held := w.lease(holder, 1, 1)
		w.f.hook(func(method string) error {
			if method == "Pulse" {
				return errors.New("it takes too long")
			}
			return nil
		}, nil)
		told := make(chan engine.ExtendReply, 1)
		go func() {
			r, err := w.Extend(w.ctx, engine.ExtendRequest{Session: holder, Call: 2, Held: names(held), Wait: 20 * time.Second})
			if err != nil {
				t.Error(err)
			}
			told <- r
		}()
		got := w.poll(w.ctx, engine.LeaseRequest{Session: w.open(), Call: 1})
		time.Sleep(3*time.Second + time.Millisecond) // just after a pulse
		expired, orphan := w.id(), w.id()
		w.f.put(item(expired).Job)
		w.f.change(expired, func(j *job.Job) { j.ExpiresAt = w.Now() })
		w.f.put(item(orphan).Job)
		w.f.change(orphan, func(j *job.Job) { j.State, j.Session, j.MaxAttempts = job.Running, w.id(), 10 })
		w.f.change(held[0].ID, func(j *job.Job) { j.CancelRequested = true })
		time.Sleep(time.Second)
		w.is(expired, job.Cancelled)
		if jobs := <-got; len(jobs) != 1 || jobs[0].ID != orphan {
			t.Errorf("leased %d jobs, want the one that was taken back", len(jobs))
		}
		select {
		case r := <-told:
			if len(r.Cancelled) != 1 {
				t.Errorf("%+v", r)
			}
		default:
			t.Error("the cancellation was not told")
		}
		got = w.poll(w.ctx, engine.LeaseRequest{Session: w.open(), Call: 1})
		time.Sleep(time.Second)
		w.f.put(item(w.id()).Job)
		at := time.Now()
		if jobs := <-got; len(jobs) != 1 || time.Since(at) > 500*time.Millisecond {
			t.Errorf("%d ready jobs after %s, want 1 within 500 ms", len(jobs), time.Since(at))
		}
	})
}

// A pulse that was asked for other kinds of a queue says nothing of those that nobody waited
// for: who comes for them is served at once.
func TestPulseOfOtherKindsKeepsNothingDry(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		s := w.open()
		w.lease(s, 1, 10)
		other := w.poll(w.ctx, engine.LeaseRequest{Session: w.open(), Call: 1, Kinds: []string{"other"}})
		time.Sleep(3*time.Second + time.Millisecond) // just after a pulse
		w.f.put(item(w.id()).Job)
		time.Sleep(5 * time.Second)
		at := time.Now()
		if jobs := <-w.poll(w.ctx, engine.LeaseRequest{Session: s, Call: 2}); len(jobs) != 1 || time.Since(at) > 0 {
			t.Errorf("%d jobs after %s, want 1 at once", len(jobs), time.Since(at))
		}
		<-other
	})
}

// Lease calls of sessions that have ended are told so, all of them, though there is no work.
func TestWaitersOfEndedSessionsAreTold(t *testing.T) {
	for _, state := range []ledger.SessionState{ledger.SessionAbsent, ledger.SessionDraining, ledger.SessionDead, ledger.SessionDrained} {
		inWorld(t, engine.Config{}, func(w *world) {
			lost, live := make(chan error, 10), w.open()
			got := w.poll(w.ctx, engine.LeaseRequest{Session: live, Call: 1})
			for range cap(lost) {
				s := w.open()
				go func() {
					_, _, err := w.Lease(w.ctx, engine.LeaseRequest{Session: s, Call: 1, Queues: []string{"default"}, Max: 1, Wait: 20 * time.Second})
					lost <- err
				}()
			}
			time.Sleep(3*time.Second + time.Millisecond)
			w.f.mu.Lock()
			for id, s := range w.f.sessions {
				if id != live && state == ledger.SessionAbsent {
					delete(w.f.sessions, id)
				} else if id != live {
					s.State = state
				}
			}
			w.f.mu.Unlock()
			at := time.Now()
			for range cap(lost) {
				w.fails(<-lost, job.ErrSessionLost)
			}
			if d := time.Since(at); d > time.Second {
				t.Errorf("%s: they were told after %s", state, d)
			}
			w.put(1)
			if jobs := <-got; len(jobs) != 1 {
				t.Errorf("%s: the live one got %d jobs", state, len(jobs))
			}
		})
	}
}

// Intervals that do not agree each come in time.
func TestPulseKeepsBothRhythms(t *testing.T) {
	for _, interval := range []time.Duration{300 * time.Millisecond, 700 * time.Millisecond, 10 * time.Second} {
		inWorld(t, engine.Config{PollInterval: interval}, func(w *world) {
			got := w.poll(w.ctx, engine.LeaseRequest{Session: w.open(), Call: 1})
			time.Sleep(11*time.Second + 10*time.Millisecond)
			w.f.mu.Lock()
			w.f.skew = 5 * time.Second
			w.f.mu.Unlock()
			time.Sleep(time.Second)
			if d := time.Until(w.Now()); d < 5*time.Second-time.Millisecond {
				t.Errorf("%s: the clock is %s ahead after a second, want 5 s", interval, d)
			}
			w.f.put(item(w.id()).Job)
			at := time.Now()
			if jobs := <-got; len(jobs) != 1 || time.Since(at) > interval {
				t.Errorf("%s: %d jobs after %s", interval, len(jobs), time.Since(at))
			}
		})
	}
}
