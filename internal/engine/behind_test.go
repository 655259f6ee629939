package engine

import (
	"testing"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

func waitingEntry(n byte, version int64, s job.State) cache.Entry {
	return cache.Entry{ID: job.ID{15: n}, Version: version, State: s, At: time.Unix(version, 0)}
}

// TestBehindKeepsTheNewestOfEach, whatever the order in which they come.
func TestBehindKeepsTheNewestOfEach(t *testing.T) {
	b := newBehind()
	told := waitingEntry(1, 1, job.Ready)
	told.Tell = true
	b.add([]cache.Entry{told, waitingEntry(1, 3, job.Succeeded), waitingEntry(1, 2, job.Running), waitingEntry(2, 1, job.Ready)}, 0)
	out, _ := b.take(10, 0, false)
	if len(out) != 2 || out[0].Version != 3 || !out[0].Tell || out[1].ID != (job.ID{15: 2}) || out[1].Tell {
		t.Errorf("taken: %+v", out)
	}
	if more, _ := b.take(10, 0, false); len(more) > 0 {
		t.Errorf("taken twice: %+v", more)
	}
}

// TestBehindGivesUpWhatWillChangeAnyway fills it beyond its bound.
func TestBehindGivesUpWhatWillChangeAnyway(t *testing.T) {
	b := newBehind()
	b.max = 4
	var entries []cache.Entry
	for n := range byte(3) {
		entries = append(entries, waitingEntry(n, 1, job.Running), waitingEntry(100+n, 1, job.Succeeded))
	}
	if shed := b.add(entries, 0); shed != 2 {
		t.Errorf("%d given up, want 2", shed)
	}
	if shed := b.add([]cache.Entry{waitingEntry(200, 1, job.Deleted), waitingEntry(201, 1, job.Dead)}, 0); shed != 2 {
		t.Errorf("%d given up, want 2", shed)
	}
	want := []byte{101, 102, 200, 201} // of final ones the oldest
	taken, _ := b.take(10, 0, false)
	for i, e := range taken {
		if e.ID[15] != want[i] {
			t.Errorf("entry %d is of job %d, want %d", i, e.ID[15], want[i])
		}
	}
}

// TestBehindIsSeenUntilItLands: waiting or in flight, the newest of what is
// known is seen.
func TestBehindIsSeenUntilItLands(t *testing.T) {
	b := newBehind()
	id := job.ID{15: 1}
	seen := func(want int64) {
		t.Helper()
		if got := b.of([]job.ID{id})[id].Version; got != want {
			t.Errorf("version %d is seen, want %d", got, want)
		}
	}
	seen(0)
	b.add([]cache.Entry{waitingEntry(1, 2, job.Running)}, 0)
	seen(2)
	taken, _ := b.take(1, 0, false)
	seen(2)
	b.add([]cache.Entry{waitingEntry(1, 3, job.Succeeded)}, 0)
	seen(3)
	if len(taken) != 1 {
		t.Fatalf("taken: %+v", taken)
	}
	b.putBack() // it could not be written
	seen(3)
	b.take(1, 0, false)
	b.landed()
	seen(0)
}

// TestBehindPutsBackWhatWasNotWritten, but not over what is newer, and not beyond its bound.
func TestBehindPutsBackWhatWasNotWritten(t *testing.T) {
	b := newBehind()
	b.max = 2
	b.add([]cache.Entry{waitingEntry(1, 2, job.Running), waitingEntry(2, 2, job.Succeeded)}, 0)
	b.take(10, 0, false)
	b.add([]cache.Entry{waitingEntry(1, 1, job.Ready), waitingEntry(2, 3, job.Deleted), waitingEntry(3, 1, job.Succeeded)}, 0)
	if shed := b.putBack(); shed != 1 {
		t.Errorf("%d given up, want the one that is running", shed)
	}
	taken, _ := b.take(10, 0, false)
	b.landed()
	if len(taken) != 2 || taken[0].Version != 3 || taken[1].ID != (job.ID{15: 3}) {
		t.Errorf("taken: %+v", taken)
	}
	if more, _ := b.take(10, 0, false); len(more) > 0 || len(b.at) > 0 {
		t.Errorf("left: %+v, %d known", more, len(b.at))
	}
}

// TestBehindHoldsBackWhatNobodyHears: changes to states that will change anyway are written
// at once if they are few. Of many none is, and none that has come to its end
// meanwhile. What is left after a second is given up.
func TestBehindHoldsBackWhatNobodyHears(t *testing.T) {
	const n = 2 * promptRate
	all := func(version int64, s job.State, tell bool) []cache.Entry {
		out := make([]cache.Entry, n)
		for i := range out {
			out[i] = cache.Entry{ID: job.ID{14: byte(i >> 8), 15: byte(i)}, Version: version, State: s, Tell: tell}
		}
		return out
	}
	b := newBehind()
	takes := func(now time.Duration, hold bool, want int, s job.State) (wait time.Duration) {
		t.Helper()
		entries, wait := b.take(n, now, hold)
		if len(entries) != want {
			t.Errorf("at %s: %d taken, want %d", now, len(entries), want)
		}
		for _, e := range entries {
			if e.State != s {
				t.Fatalf("at %s: one that is %s was taken, want %s only", now, e.State, s)
			}
		}
		b.landed()
		return wait
	}
	b.add(all(1, job.Running, true)[:promptRate], 0)
	takes(0, true, promptRate, job.Running)
	b.add(all(1, job.Running, true), 0)
	if wait := takes(0, true, 0, 0); wait != freshFor {
		t.Errorf("they wait for %s, want %s", wait, freshFor)
	}
	if !b.pass(1, 0) || b.pass(1, 2*freshFor) {
		t.Error("it does not know that there are many, or that there are few again")
	}
	b.add(all(2, job.Succeeded, true)[:n-5], time.Microsecond)
	takes(time.Microsecond, true, n-5, job.Succeeded)
	takes(freshFor, true, 0, 0)
	if left := b.of([]job.ID{{14: (n - 1) >> 8, 15: (n - 1) & 0xff}}); len(left) > 0 {
		t.Errorf("after a second %v is kept", left)
	}
	later := 3 * freshFor // few again
	b.add(all(3, job.Running, true)[:promptRate], later)
	takes(later, true, promptRate, job.Running)
	b.add(all(4, job.Running, true), later)
	takes(later, false, n, job.Running) // somebody listens
	b.add(all(5, job.Running, false), later)
	takes(later, true, n, job.Running) // somebody asked
}

// TestBehindMakesNoGarbage while jobs go through it.
func TestBehindMakesNoGarbage(t *testing.T) {
	b := newBehind()
	entries := make([]cache.Entry, 100)
	for i := range entries {
		entries[i] = waitingEntry(byte(i), 1, job.Succeeded)
	}
	if n := testing.AllocsPerRun(100, func() {
		b.add(entries, 0)
		b.take(100, 0, true)
		b.landed()
	}); n > 1 {
		t.Errorf("%v allocations for 100 entries", n)
	}
}
