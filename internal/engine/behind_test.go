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
	b.add(taken, 0) // it could not be written
	b.landed()
	seen(3)
	b.take(1, 0, false)
	b.landed()
	seen(0)
}
