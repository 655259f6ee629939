package job

import (
	"math"
	"slices"
	"time"
)

// allowed is the transition table: the events that each state answers to.
// Where an event may end in several states, Step says which.
var allowed = map[State][]Event{
	Scheduled: {Due, Cancel, Expire, Delete},
	Ready:     {Lease, Cancel, Expire, Delete},
	Running:   {Succeed, Fail, Discard, Snooze, Release, Crash, Cancel},
	Succeeded: {Delete},
	Dead:      {Redrive, Cancel, Delete},
	Cancelled: {Delete},
}

// Allowed reports whether a job in state s answers to e.
func Allowed(s State, e Event) bool {
	return slices.Contains(allowed[s], e)
}

// Rules are the settings that decide transitions. The zero value is not
// useful; start from DefaultRules.
type Rules struct {
	CrashLimit  int           // a job is dead after so many crashes
	BackoffBase time.Duration // delay before the second attempt
	BackoffCap  time.Duration // no retry waits longer
	// Rand returns a number in [0,1) for the jitter. It must be set.
	Rand func() float64
}

// DefaultRules are the defaults of design §3.6.
func DefaultRules(rand func() float64) Rules {
	return Rules{CrashLimit: 3, BackoffBase: time.Second, BackoffCap: time.Hour, Rand: rand}
}

// Backoff returns the delay after the given failed attempt (1 is the first):
// base × 2^(attempt-1) up to the cap, with full jitter, so uniformly drawn
// between zero and that (AWS Architecture Blog, "Exponential Backoff And
// Jitter"): retries of a mass failure do not come back as one wave.
func (r Rules) Backoff(attempt int) time.Duration {
	doublings := min(max(attempt, 1)-1, 63) // beyond any cap; further on the power is infinite
	ceiling := float64(r.BackoffBase) * math.Pow(2, float64(doublings))
	ceiling = min(ceiling, float64(r.BackoffCap))
	return time.Duration(r.Rand() * ceiling)
}

// Move is an event with its circumstances.
type Move struct {
	Event Event
	Now   time.Time

	Session ID      // Lease
	Call    int64   // Lease
	Result  []byte  // Succeed
	Failure Failure // Fail, Discard, Crash; Attempt and At are filled in
	// Delay is for Snooze (how long), Fail (zero: by policy; else RetryIn,
	// which is then exact) and Redrive (zero: ready at once).
	Delay time.Duration
}

// Step moves j by m, or refuses with an *Error and leaves j as it was. It
// raises Version, and clears Seq where the job is to draw a new one. The times
// that it sets are in UTC and whole microseconds, as a ledger stores them; the
// slices of j are replaced and never written to, so that a copy of j stays as
// it was.
func (r Rules) Step(j *Job, m Move) error {
	if !Allowed(j.State, m.Event) {
		return Errorf(FailedPrecondition, ReasonBadTransition, "job %s is %s: cannot %s", j.ID, j.State, m.Event)
	}
	m.Now, m.Delay = m.Now.UTC().Truncate(time.Microsecond), m.Delay.Truncate(time.Microsecond)
	j.Version++
	switch m.Event {
	case Due:
		r.ready(j, m.Now, Lane(j.Priority))
	case Lease:
		r.lease(j, m)
	case Succeed, Fail, Discard, Snooze, Release, Crash:
		r.endLease(j, m)
	case Cancel:
		if j.State == Running {
			j.CancelRequested = true
		} else {
			finish(j, Cancelled, WhyCancelled, m.Now)
		}
	case Expire:
		finish(j, Cancelled, WhyExpired, m.Now)
	case Redrive:
		r.redrive(j, m)
	case Delete:
		j.State = Deleted
	}
	return nil
}

// Settle is Step for the holder of a lease: it refuses any token but that of
// the running lease, and records which token settled the job, and how. A settle
// repeated with that token reports repeated and changes nothing. What a sweep
// does (a crash, a lost reply given back) goes through Step and is not recorded:
// the holder's word, if it comes later, is stale.
//
// A holder reports Succeed, Fail, Discard, Snooze or Release; every other event
// is refused.
func (r Rules) Settle(j *Job, token int64, m Move) (repeated bool, err error) {
	if m.Event < Succeed || m.Event > Release {
		return false, Errorf(FailedPrecondition, ReasonBadTransition, "the holder of a job cannot %s it", m.Event)
	}
	if j.State == Running && j.Token == token {
		if err := r.Step(j, m); err != nil {
			return false, err
		}
		j.SettledToken, j.SettledAs = token, m.Event
		return false, nil
	}
	if token > 0 && j.SettledToken == token {
		return true, nil
	}
	return false, ErrStale
}

func (r Rules) lease(j *Job, m Move) {
	j.State = Running
	j.Session, j.Call = m.Session, m.Call
	j.LeasedAt = m.Now
	j.Attempt++
	j.Token++
}

// endLease leaves Running. A cancel request wins over everything but success
// (design §4).
func (r Rules) endLease(j *Job, m Move) {
	switch m.Event {
	case Fail, Discard:
		r.addFailure(j, m, false)
	case Crash:
		r.addFailure(j, m, true)
		j.Crashes++
	case Snooze, Release:
		j.Attempt--
	}
	cancel := j.CancelRequested
	j.Session, j.Call, j.CancelRequested = ID{}, 0, false
	switch {
	case m.Event == Succeed:
		j.Result = m.Result
		finish(j, Succeeded, "", m.Now)
	case cancel:
		finish(j, Cancelled, WhyCancelled, m.Now)
	case m.Event == Discard:
		finish(j, Dead, WhyDiscarded, m.Now)
	case m.Event == Crash && j.Crashes >= r.CrashLimit:
		finish(j, Dead, WhyCrashed, m.Now)
	case m.Event == Crash || m.Event == Release:
		// Seq is kept: the job goes back to where it was in the order.
		j.State, j.Lane = Ready, LaneFront
		if j.Crashes > 0 {
			j.Lane = LaneSuspect
		}
	case m.Event == Fail && j.Attempt >= j.MaxAttempts:
		finish(j, Dead, WhyAttempts, m.Now)
	default:
		r.schedule(j, m)
	}
}

func (r Rules) schedule(j *Job, m Move) {
	delay := m.Delay
	if m.Event == Fail && delay <= 0 {
		delay = r.Backoff(j.Attempt).Truncate(time.Microsecond)
	}
	j.State, j.Seq = Scheduled, 0
	j.RunAt = m.Now.Add(max(delay, 0))
}

func (r Rules) ready(j *Job, now time.Time, lane Lane) {
	if j.RunAt.IsZero() || j.RunAt.After(now) {
		j.RunAt = now
	}
	j.State, j.Lane, j.Seq = Ready, lane, 0
	if j.Crashes > 0 {
		j.Lane = LaneSuspect
	}
}

func (r Rules) redrive(j *Job, m Move) {
	j.Attempt, j.Crashes, j.Reason = 0, 0, ""
	j.Redrives++
	j.DoneAt = time.Time{}
	j.ExpiresAt = time.Time{} // a person wants it run, however late
	j.RunAt = m.Now.Add(max(m.Delay, 0))
	if m.Delay > 0 {
		j.State, j.Seq = Scheduled, 0
		return
	}
	r.ready(j, m.Now, Lane(j.Priority))
}

func finish(j *Job, s State, why string, now time.Time) {
	j.State, j.Reason, j.DoneAt = s, why, now
}

func (r Rules) addFailure(j *Job, m Move, crash bool) {
	f := m.Failure
	f.Attempt, f.At, f.Crash = j.Attempt, m.Now, crash
	f.Message = clipBytes(f.Message, MaxErrorMessage)
	f.Stack = clipBytes(f.Stack, MaxErrorStack)
	f.Worker = clipBytes(f.Worker, MaxName)
	j.Errors = append(slices.Clip(j.Errors), f)
	if n := len(j.Errors); n > KeepErrors {
		// First and last half: how it began and how it stands.
		half := KeepErrors / 2
		kept := make([]Failure, 0, KeepErrors)
		kept = append(kept, j.Errors[:half]...)
		j.Errors = append(kept, j.Errors[n-(KeepErrors-half):]...)
	}
}
