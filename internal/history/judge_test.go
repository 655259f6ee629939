package history

import (
	"fmt"
	"slices"
	"testing"

	errand "github.com/errandhq/errand"
)

// sound is a history of many jobs without a fault: some run twice, because a worker
// died or the first attempt failed, and one is dead as it was to be.
func sound() *History {
	h := &History{Accepted: map[errand.ID]Promise{}, Bounds: map[string]int{"q": 2}}
	for n := range 20 {
		at := int64(n) * 100
		id := errand.NewID()
		p := Promise{Queue: "q", Priority: 5, At: at + 1}
		run := Run{Job: id, Token: 1, Worker: "a", Start: at + 10, End: at + 20}
		info := &errand.JobInfo{ID: id, State: errand.Succeeded, Token: 1, Version: 3}
		switch n {
		case 3: // the worker died
			h.Runs = append(h.Runs, Run{Job: id, Token: 1, Worker: "dead", Start: at + 5})
			run.Token, info.Token, info.Version = 2, 2, 5
		case 4: // it failed
			h.Runs = append(h.Runs, Run{Job: id, Token: 1, Worker: "b", Start: at + 5, End: at + 9, Failed: true})
			run.Token, info.Token, info.Version = 2, 2, 5
		case 5:
			p.Deadly, run.Failed, info.State, info.Reason = true, true, errand.Dead, "discarded"
		}
		if info.State == errand.Succeeded {
			info.Result = fmt.Appendf(nil, `{"token":%d}`, info.Token)
		}
		h.Accepted[id] = p
		h.Runs = append(h.Runs, run)
		h.Jobs = append(h.Jobs, info)
		h.Ends = append(h.Ends, End{id, info.State, info.Version})
	}
	return h
}

// run returns the last run of the nth job.
func (h *History) run(n int) *Run {
	i := len(h.Runs) - 1
	for ; h.Runs[i].Job != h.Jobs[n].ID; i-- {
	}
	return &h.Runs[i]
}

func TestSoundHistoryHasNoViolation(t *testing.T) {
	v := sound().Judge()
	for _, found := range v.Violations {
		t.Error(found)
	}
	if v.Ends[errand.Succeeded] != 19 || v.Ends[errand.Dead] != 1 {
		t.Errorf("ends %v", v.Ends)
	}
	if v.Ordered["q"] != 20 {
		t.Errorf("of %d jobs the order was judged, want 20", v.Ordered["q"])
	}
}

// Each violation, planted into a sound history, is found, and named by its rule and its job.
func TestPlantedViolationsAreFound(t *testing.T) {
	for _, c := range []struct {
		name  string
		rule  Rule
		plant func(h *History, job *errand.JobInfo)
	}{
		{"a lost job", Lost, func(h *History, job *errand.JobInfo) {
			h.Jobs = slices.DeleteFunc(h.Jobs, func(j *errand.JobInfo) bool { return j == job })
			h.Runs = slices.DeleteFunc(h.Runs, func(r Run) bool { return r.Job == job.ID })
		}},
		{"a job from nowhere", Foreign, func(h *History, job *errand.JobInfo) { delete(h.Accepted, job.ID) }},
		{"a run of a job that is not there", Foreign, func(h *History, job *errand.JobInfo) {
			h.Jobs = slices.DeleteFunc(h.Jobs, func(j *errand.JobInfo) bool { return j == job })
		}},
		{"a job that is still running", Stuck, func(_ *History, job *errand.JobInfo) { job.State = errand.Running }},
		{"a job left ready", Stuck, func(_ *History, job *errand.JobInfo) { job.State = errand.Ready }},
		{"a dead letter for no reason", WrongEnd, func(_ *History, job *errand.JobInfo) { job.State, job.Reason = errand.Dead, "attempts" }},
		{"a job in the ledger twice", Twice, func(h *History, job *errand.JobInfo) {
			other := *job
			other.State = errand.Cancelled
			h.Jobs = append(h.Jobs, &other)
		}},
		{"a doubled finish", Twice, func(h *History, job *errand.JobInfo) {
			h.Ends = append(h.Ends, End{job.ID, errand.Succeeded, job.Version + 2})
		}},
		{"an overlapping lease", Overlap, func(h *History, job *errand.JobInfo) {
			first := h.run(9)
			again := Run{Job: job.ID, Token: 2, Worker: "b", Start: first.Start + 1, End: first.End + 1}
			h.Runs = append(h.Runs, again)
			job.Token, job.Result = 2, []byte(`{"token":2}`)
		}},
		{"a token given out twice", Tokens, func(h *History, job *errand.JobInfo) {
			first := h.run(9)
			h.Runs = append(h.Runs, Run{Job: job.ID, Token: 1, Worker: "b", Start: first.End + 1, End: first.End + 2})
		}},
		{"a smaller token after a larger", Tokens, func(h *History, job *errand.JobInfo) {
			first := h.run(9)
			h.Runs = append(h.Runs, Run{Job: job.ID, Token: 2, Worker: "b", Start: first.Start - 5, End: first.Start - 1})
			job.Token, job.Result = 2, []byte(`{"token":2}`)
		}},
		{"a token that the ledger forgot", Tokens, func(h *History, job *errand.JobInfo) { h.run(9).Token = 7 }},
		{"a stale settle taken while the job ran elsewhere", Stale, func(h *History, job *errand.JobInfo) {
			first := h.run(9)
			h.Runs = append(h.Runs, Run{Job: job.ID, Token: 2, Worker: "b", Start: first.End + 1, End: first.End + 5})
			job.Token = 2 // and the result is that of token 1
		}},
		{"a success that no run reported", Stale, func(h *History, job *errand.JobInfo) { h.run(9).End = 0 }},
		{"a success of a run that failed", Stale, func(h *History, job *errand.JobInfo) { h.run(9).Failed = true }},
		{"an urgent job behind three others", OutOfOrder, func(h *History, job *errand.JobInfo) {
			h.Accepted[job.ID] = Promise{Queue: "q", Priority: 0, At: h.run(6).Start - 1}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := sound()
			job := h.Jobs[9]
			c.plant(h, job)
			found := h.Judge().Violations
			if !slices.ContainsFunc(found, func(v Violation) bool { return v.Rule == c.rule && v.Job == job.ID }) {
				t.Errorf("it was not found: %v", found)
			}
		})
	}
}

// What may be is no violation.
func TestWhatIsAllowed(t *testing.T) {
	t.Run("runs of a frozen worker overlap", func(t *testing.T) {
		h := sound()
		h.Frozen = true
		first := h.run(9)
		h.Runs = append(h.Runs, Run{Job: first.Job, Token: 2, Worker: "b", Start: first.Start + 1, End: first.End + 1})
		h.Jobs[9].Token, h.Jobs[9].Result = 2, []byte(`{"token":2}`)
		noViolation(t, h)
	})
	t.Run("two others go first, within the bound", func(t *testing.T) {
		h := sound()
		h.Accepted[h.Jobs[9].ID] = Promise{Queue: "q", Priority: 0, At: h.run(7).Start - 1}
		noViolation(t, h)
	})
	t.Run("more go first in a time of trouble", func(t *testing.T) {
		h := sound()
		h.Accepted[h.Jobs[9].ID] = Promise{Queue: "q", Priority: 0, At: h.run(1).Start}
		h.Disturbed = []Interval{{Queue: "q", From: h.run(5).Start, To: h.run(6).Start}}
		noViolation(t, h)
	})
	t.Run("a watcher hears of an end twice", func(t *testing.T) {
		h := sound()
		h.Ends = append(h.Ends, h.Ends...)
		noViolation(t, h)
	})
}

func noViolation(t *testing.T, h *History) {
	t.Helper()
	for _, v := range h.Judge().Violations {
		t.Error(v)
	}
}
