package scaling_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/errandhq/errand/internal/scaling"
	"github.com/errandhq/errand/job"
)

const queue = "mail"

func query(t *testing.T, params ...string) scaling.Query {
	t.Helper()
	m := map[string]string{"queue": queue}
	for i := 0; i < len(params); i += 2 {
		m[params[i]] = params[i+1]
	}
	q, err := scaling.Parse(m)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func ready(n int64) map[string]int64 { return map[string]int64{"send": n} }

func TestFormula(t *testing.T) {
	runs := map[string]time.Duration{"send": 3 * time.Second}
	for name, c := range map[string]struct {
		facts           scaling.Facts
		params          []string
		needed, desired int
		backlog         time.Duration
		unknown         bool
	}{
		"nothing at all":                 {},
		"nothing, and a minimum":         {params: []string{"min", "2"}, desired: 2},
		"ready work and running":         {facts: scaling.Facts{Ready: ready(200), Runs: runs, Running: 5}, needed: 2, desired: 2, backlog: 600 * time.Second},
		"just what fits":                 {facts: scaling.Facts{Ready: ready(200), Runs: runs}, needed: 1, desired: 1, backlog: 600 * time.Second},
		"a shorter target":               {facts: scaling.Facts{Ready: ready(200), Runs: runs}, params: []string{"target_wait", "6s"}, needed: 10, desired: 10, backlog: 600 * time.Second},
		"one slot a worker":              {facts: scaling.Facts{Ready: ready(200), Runs: runs, Running: 7}, params: []string{"concurrency", "1"}, needed: 17, desired: 17, backlog: 600 * time.Second},
		"more than the maximum":          {facts: scaling.Facts{Ready: ready(1e6), Runs: runs}, params: []string{"max", "7"}, needed: 5000, desired: 7, backlog: 3e6 * time.Second},
		"floor at what runs":             {facts: scaling.Facts{Running: 41}, needed: 5, desired: 5},
		"paused":                         {facts: scaling.Facts{Ready: ready(1e6), Runs: runs, Paused: true, Workers: 9}, params: []string{"min", "1"}, desired: 1, backlog: 3e6 * time.Second},
		"paused, with running jobs":      {facts: scaling.Facts{Ready: ready(1e6), Runs: runs, Paused: true, Running: 11}, needed: 2, desired: 2, backlog: 3e6 * time.Second},
		"all scheduled":                  {facts: scaling.Facts{Scheduled: 1e6, Runs: runs}},
		"unknown times, no worker":       {facts: scaling.Facts{Ready: ready(1000)}, needed: 1, desired: 1, unknown: true},
		"unknown times hold":             {facts: scaling.Facts{Ready: ready(1000), Workers: 6, Running: 3}, needed: 6, desired: 6, unknown: true},
		"unknown times, floor":           {facts: scaling.Facts{Ready: ready(1000), Workers: 1, Running: 33}, needed: 4, desired: 4, unknown: true},
		"no time at all":                 {facts: scaling.Facts{Ready: ready(1000), Runs: map[string]time.Duration{"send": 0}}, needed: 1, desired: 1},
		"the queue's for an unknown one": {facts: scaling.Facts{Ready: ready(100), Otherwise: 6 * time.Second}, needed: 1, desired: 1, backlog: 600 * time.Second},
		"more than any number":           {facts: scaling.Facts{Ready: ready(1 << 62), Runs: runs}, needed: scaling.MostWorkers, desired: 100, backlog: 1 << 62},
	} {
		t.Run(name, func(t *testing.T) {
			s := scaling.Judge(query(t, c.params...), c.facts)
			if s.Needed != c.needed || s.Desired != c.desired || s.Backlog != c.backlog || s.Known == c.unknown {
				t.Errorf("needed %d, desired %d, backlog %s, known %t; want %d, %d, %s, %t",
					s.Needed, s.Desired, s.Backlog, s.Known, c.needed, c.desired, c.backlog, !c.unknown)
			}
			if s.Active() != (c.desired > 0) {
				t.Errorf("active %t with %d desired", s.Active(), s.Desired)
			}
		})
	}
}

// More of anything never asks for fewer workers, and the bounds always hold.
func TestMoreWorkNeverAsksForFewer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := scaling.Query{
			Queue: queue, Min: rapid.IntRange(0, 5).Draw(t, "min"), Max: rapid.IntRange(5, 500).Draw(t, "max"),
			Slots: rapid.IntRange(1, 50).Draw(t, "slots"), Target: time.Duration(rapid.IntRange(1, 600).Draw(t, "target")) * time.Second,
		}
		if err := q.Complete(); err != nil {
			t.Fatal(err)
		}
		f := scaling.Facts{
			Running: rapid.Int64Range(0, 1e5).Draw(t, "running"), Ready: ready(rapid.Int64Range(0, 1e7).Draw(t, "ready")),
			Runs: map[string]time.Duration{"send": time.Duration(rapid.Int64Range(0, 1e11).Draw(t, "run"))},
		}
		before := scaling.Judge(q, f)
		f.Ready["send"] += rapid.Int64Range(0, 1e6).Draw(t, "more ready")
		f.Running += rapid.Int64Range(0, 1e4).Draw(t, "more running")
		f.Runs["send"] += time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "longer"))
		after := scaling.Judge(q, f)
		if after.Desired < before.Desired || after.Needed < before.Needed {
			t.Fatalf("%+v asks for %d, more for %d", f, before.Desired, after.Desired)
		}
		if after.Desired < q.Min || after.Desired > q.Max {
			t.Fatalf("desired %d is not within %d and %d", after.Desired, q.Min, q.Max)
		}
		if int64(after.Needed)*int64(q.Slots) < min(f.Running, int64(scaling.MostWorkers)*int64(q.Slots)) {
			t.Fatalf("%d workers of %d slots for %d that run", after.Needed, q.Slots, f.Running)
		}
	})
}

func TestParse(t *testing.T) {
	q := query(t, "kinds", "a, b", "target_wait", "1m30s", "min", "1", "max", "20", "concurrency", "4")
	if strings.Join(q.Kinds, "+") != "a+b" || q.Target != 90*time.Second || q.Min != 1 || q.Max != 20 || q.Slots != 4 {
		t.Errorf("%+v", q)
	}
	if q = query(t, "target_wait", "2.5"); q.Target != 2500*time.Millisecond || q.Max != 100 || q.Slots != 10 {
		t.Errorf("%+v", q)
	}
	if q = query(t, "min", "300"); q.Max != 300 {
		t.Errorf("%+v", q)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"queue", "", "queue is empty"},
		{"queue", "a\x00b", "control character"},
		{"kinds", "a,,b", "kinds is empty"},
		{"target_wait", "soon", "not a duration"},
		{"target_wait", "0", "less than 1s"},
		{"target_wait", "-5s", "less than 1s"},
		{"target_wait", "25h", "not between"},
		{"target_wait", "NaN", "not a duration"},
		{"target_wait", "1e300", "not a duration"},
		{"min", "-1", "less than 0"},
		{"min", "many", "not a number"},
		{"min", "100001", "not between"},
		{"max", "0", "less than 1"},
		{"max", "1000000", "not between"},
		{"concurrency", "0", "less than 1"},
		{"concurrency", "99999999999999999999", "not a number"},
		{"targetwait", "5s", `unknown parameter "targetwait"`},
	} {
		m := map[string]string{"queue": queue}
		m[c.name] = c.value
		_, err := scaling.Parse(m)
		if job.CodeOf(err) != job.InvalidArgument || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%q: %v, want %q", c.name, c.value, err, c.want)
		}
	}
	if _, err := scaling.Parse(map[string]string{"queue": queue, "min": "9", "max": "3"}); err == nil || !strings.Contains(err.Error(), "more than max") {
		t.Errorf("min above max: %v", err)
	}
}
