package history

import (
	"cmp"
	"fmt"
	"slices"

	errand "github.com/errandhq/errand"
)

// Rule is a promise that a history can break.
type Rule string

// The rules. Each is a sentence of docs/guarantees.md.
const (
	Lost       Rule = "lost"         // an accepted job is not in the ledger
	Foreign    Rule = "foreign"      // the ledger holds, or a worker ran, a job that nobody enqueued
	Stuck      Rule = "stuck"        // a job has not ended
	WrongEnd   Rule = "wrong end"    // it ended otherwise than its handler and its attempts allow
	Twice      Rule = "twice"        // it ended more than once
	Overlap    Rule = "overlap"      // two leases of it were valid at once
	Tokens     Rule = "tokens"       // its tokens did not grow, or one was given out twice
	Stale      Rule = "stale"        // a result under an old token was taken
	OutOfOrder Rule = "out of order" // less urgent jobs went first
)

// Violation is a broken promise with its evidence.
type Violation struct {
	Rule Rule
	Job  errand.ID
	Text string
}

// String is the violation on one line.
func (v Violation) String() string { return fmt.Sprintf("%s: job %s %s", v.Rule, v.Job, v.Text) }

// Verdict is what Judge found.
type Verdict struct {
	Violations []Violation
	Ends       map[errand.State]int // accepted jobs by how they ended
	Ordered    map[string]int       // jobs by queue whose order could be judged
	Overtaken  map[string]int       // the most less urgent jobs that went before one of these
}

// Judge holds the parts of the history against each other.
func (h *History) Judge() Verdict {
	j := &judge{h: h, jobs: map[errand.ID]*errand.JobInfo{}, runs: map[errand.ID][]Run{}}
	j.verdict.Ends, j.verdict.Ordered, j.verdict.Overtaken = map[errand.State]int{}, map[string]int{}, map[string]int{}
	j.ledger()
	j.promises()
	j.tokens()
	j.results()
	j.ends()
	j.order()
	return j.verdict
}

type judge struct {
	h       *History
	jobs    map[errand.ID]*errand.JobInfo
	runs    map[errand.ID][]Run // by token
	verdict Verdict
}

func (j *judge) report(rule Rule, id errand.ID, format string, args ...any) {
	j.verdict.Violations = append(j.verdict.Violations, Violation{rule, id, fmt.Sprintf(format, args...)})
}

// ledger looks at what it lists: each job once, and none that nobody enqueued.
func (j *judge) ledger() {
	for _, info := range j.h.Jobs {
		if twice := j.jobs[info.ID]; twice != nil {
			j.report(Twice, info.ID, "is in the ledger twice: %s and %s", twice.State, info.State)
		}
		j.jobs[info.ID] = info
		if _, ok := j.h.Accepted[info.ID]; !ok {
			j.report(Foreign, info.ID, "is in the ledger (%s), and nobody enqueued it", info.State)
		}
	}
}

// promises looks at each accepted job's end.
func (j *judge) promises() {
	for id, p := range j.h.Accepted {
		info := j.jobs[id]
		switch {
		case info == nil:
			j.report(Lost, id, "was accepted, and the ledger does not have it")
			continue
		case !info.State.Final():
			j.report(Stuck, id, "is %s still, attempt %d of %d, crashes %d", info.State, info.Attempt, info.MaxAttempts, info.Crashes)
			continue
		case info.State == errand.Succeeded, info.State == errand.Dead && (p.Deadly || info.Reason == "crashed"):
		default:
			j.report(WrongEnd, id, "ended %s (%s), attempt %d of %d, crashes %d", info.State, info.Reason, info.Attempt, info.MaxAttempts, info.Crashes)
		}
		j.verdict.Ends[info.State]++
	}
}

// tokens looks at the runs of each job: a token is given out once, later ones
// are larger, and no run begins before the one before it has ended.
func (j *judge) tokens() {
	for _, r := range j.h.Runs {
		j.runs[r.Job] = append(j.runs[r.Job], r)
	}
	for id, runs := range j.runs {
		slices.SortStableFunc(runs, func(a, b Run) int { return cmp.Compare(a.Token, b.Token) })
		info := j.jobs[id]
		if info == nil {
			j.report(Foreign, id, "was run and is not in the ledger")
			continue
		}
		if last := runs[len(runs)-1]; info.Token < last.Token {
			j.report(Tokens, id, "has token %d in the ledger; it was run under %d", info.Token, last.Token)
		}
		for i := 1; i < len(runs); i++ {
			j.pair(id, runs[i-1], runs[i])
		}
	}
}

func (j *judge) pair(id errand.ID, before, after Run) {
	switch {
	case before.Token == after.Token:
		j.report(Tokens, id, "was begun twice under token %d, by %s and %s", after.Token, before.Worker, after.Worker)
	case after.Start < before.Start:
		j.report(Tokens, id, "was begun under token %d before token %d", after.Token, before.Token)
	case before.End > after.Start && !j.h.Frozen:
		j.report(Overlap, id, "ran twice at once: under token %d by %s and under %d by %s", before.Token, before.Worker, after.Token, after.Worker)
	}
}

// results looks at whose success was recorded: that of the last token, by a run
// which ended well.
func (j *judge) results() {
	for id := range j.h.Accepted {
		info := j.jobs[id]
		if info == nil || info.State != errand.Succeeded {
			continue
		}
		if m, ok := MarkOf(info); ok && m.Token != info.Token {
			j.report(Stale, id, "has the result of token %d; its last lease had token %d", m.Token, info.Token)
		}
		ended := slices.ContainsFunc(j.runs[id], func(r Run) bool { return r.Token == info.Token && r.End > 0 && !r.Failed })
		if !ended {
			j.report(Stale, id, "succeeded under token %d, and no run under it ended well", info.Token)
		}
	}
}

// ends looks at what watchers heard: a final state is the last.
func (j *judge) ends() {
	first := map[errand.ID]End{}
	for _, e := range j.h.Ends {
		was, ok := first[e.Job]
		if !ok {
			first[e.Job] = e
		} else if was.Version != e.Version || was.State != e.State {
			j.report(Twice, e.Job, "ended %s with version %d and %s with version %d", was.State, was.Version, e.State, e.Version)
		}
	}
}

// order counts, for each job that was to be begun at once, the first runs of less urgent ones
// of its queue between its acceptance and its own first run.
func (j *judge) order() {
	type begun struct {
		at       int64
		priority int
	}
	starts := map[string][]begun{}
	first := map[errand.ID]Run{}
	for id, runs := range j.runs {
		if p, ok := j.h.Accepted[id]; ok && runs[0].Token == 1 {
			first[id] = runs[0]
			starts[p.Queue] = append(starts[p.Queue], begun{runs[0].Start, p.Priority})
		}
	}
	for id, p := range j.h.Accepted {
		bound, judged := j.h.Bounds[p.Queue]
		run, ran := first[id]
		if !judged || !ran || p.At == 0 || j.disturbed(p.Queue, p.At, run.Start) {
			continue
		}
		j.verdict.Ordered[p.Queue]++
		overtaken := 0
		for _, s := range starts[p.Queue] {
			if s.priority > p.Priority && s.at > p.At && s.at < run.Start {
				overtaken++
			}
		}
		j.verdict.Overtaken[p.Queue] = max(j.verdict.Overtaken[p.Queue], overtaken)
		if overtaken > bound {
			j.report(OutOfOrder, id, "of priority %d in queue %s waited while %d of lower priority were begun; at most %d may", p.Priority, p.Queue, overtaken, bound)
		}
	}
}

func (j *judge) disturbed(queue string, from, to int64) bool {
	return slices.ContainsFunc(j.h.Disturbed, func(i Interval) bool {
		return (i.Queue == "" || i.Queue == queue) && i.From < to && i.To > from
	})
}
