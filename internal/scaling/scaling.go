// Package scaling says how many workers a queue needs. It is pure: the numbers
// come from the engine, which has them from the ledger's counters, so that every
// server on a ledger gives the same answer, before and after a restart.
package scaling

import (
	"math"
	"time"
)

// Facts are what is known of a queue.
type Facts struct {
	Paused    bool
	Scheduled int64
	Running   int64
	Ready     map[string]int64         // by kind
	Runs      map[string]time.Duration // how long an attempt of a kind takes; kinds of which that is not known are absent
	Otherwise time.Duration            // how long an attempt takes in the queue as a whole; 0: not known
	Oldest    time.Duration            // of the ready jobs
	Workers   int                      // live, that take the queue and a kind of the query
	Slots     int                      // theirs
	Rates     Rates
}

// Rates are how fast jobs became ready and attempts ended, a second, over a window.
type Rates struct {
	Arrivals float64
	Services float64
	Window   time.Duration // 0: not known
}

// Signal is the answer to a Query.
type Signal struct {
	Query
	Facts
	ReadyJobs int64
	// Backlog is the work that is ready, in seconds of one slot, if Known: if
	// it is known how long the jobs take.
	Backlog time.Duration
	Known   bool
	// Needed is the number of workers before Min and Max, Desired after them.
	Needed  int
	Desired int
}

// Active reports whether any worker is wanted.
func (s *Signal) Active() bool { return s.Desired > 0 }

// Judge applies the formula
//
//	needed = ⌈(running + backlog / target) / slots⌉
//
// where backlog is the ready jobs times how long an attempt of their kind
// takes. So what runs keeps its workers, and what waits gets so many that it is
// begun within the target. While it is not known how long jobs take, the
// number of workers is held, at one at least if something is ready: a number that
// is missing is never taken for zero. A paused queue needs workers for what still
// runs in it alone.
func Judge(q Query, f Facts) Signal {
	s := Signal{Query: q, Facts: f, Known: true}
	var work float64 // in seconds of a slot
	for kind, n := range f.Ready {
		s.ReadyJobs += n
		run, ok := f.Runs[kind]
		if !ok {
			run = f.Otherwise
		}
		if n > 0 && !ok && run <= 0 {
			s.Known = false
		}
		work += float64(n) * run.Seconds()
	}
	if s.Known {
		s.Backlog = seconds(work)
	}
	busy := float64(f.Running)
	switch floor := ceil(busy / float64(q.Slots)); {
	case f.Paused:
		s.Needed = floor
	case !s.Known:
		s.Needed = max(floor, f.Workers, 1)
	default:
		s.Needed = max(floor, ceil((busy+work/q.Target.Seconds())/float64(q.Slots)))
		if s.ReadyJobs > 0 {
			s.Needed = max(s.Needed, 1) // jobs that take no time at all need somebody too
		}
	}
	s.Desired = min(max(s.Needed, q.Min), q.Max)
	return s
}

// ceil rounds up, but for what only the arithmetic added, and never leaves the
// range of workers.
func ceil(x float64) int {
	return int(min(math.Ceil(x-1e-9), MostWorkers))
}

func seconds(s float64) time.Duration {
	return time.Duration(min(s*float64(time.Second), math.MaxInt64/2))
}
