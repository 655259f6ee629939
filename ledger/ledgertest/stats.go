package ledgertest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/errandhq/errand/ledger"
)

var statsTests = []test{
	{"WhatIsFoldedIsRead", nil, statsRead},
	{"RowsReplaceThoseOfTheirKey", nil, statsReplace},
	{"AFoldSeesItsHourAlone", nil, statsHour},
	{"AnErrorChangesNothing", nil, statsError},
	{"AReaderMayStop", nil, statsStopped},
	{"FoldsAtOnceLoseNothing", nil, func(w *world) { statsTogether(w, []ledger.Ledger{w.l}) }},
	{"FoldsOverHandlesLoseNothing", hasSecond, func(w *world) { statsTogether(w, []ledger.Ledger{w.l, w.second()}) }},
	{"AreDurable", hasReopen, statsDurable},
	{"AreKeptForTheirTime", nil, statsKept},
}

// fold stores rows as they are.
func (w *world) fold(hour ledger.Hour, rows ledger.Sums) {
	w.Helper()
	w.ok(w.l.FoldStats(w.ctx, hour, func(ledger.Sums) (ledger.Sums, error) { return rows, nil }))
}

// readStats gathers what is read, whose hours must come in order.
func (w *world) readStats(from ledger.Hour, queue string) (got ledger.Sums) {
	w.Helper()
	w.ok(w.l.ReadStats(w.ctx, from, queue, func(t ledger.Tally) bool {
		if n := len(got.Tallies); n > 0 && got.Tallies[n-1].Hour < t.Hour {
			w.Errorf("a tally of hour %d comes after one of %d", t.Hour, got.Tallies[n-1].Hour)
		}
		got.Tallies = append(got.Tallies, t)
		return true
	}, func(f ledger.Fault) bool {
		if n := len(got.Faults); n > 0 && got.Faults[n-1].Hour < f.Hour {
			w.Errorf("a fault of hour %d comes after one of %d", f.Hour, got.Faults[n-1].Hour)
		}
		got.Faults = append(got.Faults, f)
		return true
	}))
	return got
}

// wantStats reads and compares, in the order of keys.
func (w *world) wantStats(what string, from ledger.Hour, queue string, want ledger.Sums) {
	w.Helper()
	got := w.readStats(from, queue)
	for _, s := range []*ledger.Sums{&got, &want} {
		slices.SortFunc(s.Tallies, func(a, b ledger.Tally) int {
			return cmp.Or(cmp.Compare(a.Hour, b.Hour), cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Outcome, b.Outcome))
		})
		slices.SortFunc(s.Faults, func(a, b ledger.Fault) int {
			return cmp.Or(cmp.Compare(a.Hour, b.Hour), cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Message, b.Message))
		})
	}
	if len(got.Tallies) != len(want.Tallies) || len(got.Faults) != len(want.Faults) {
		w.Fatalf("%s: %+v, want %+v", what, got, want)
	}
	for i := range want.Tallies {
		if !reflect.DeepEqual(got.Tallies[i], want.Tallies[i]) {
			w.Errorf("%s: tally %+v, want %+v", what, got.Tallies[i], want.Tallies[i])
		}
	}
	for i := range want.Faults {
		if !reflect.DeepEqual(got.Faults[i], want.Faults[i]) {
			w.Errorf("%s: fault %+v, want %+v", what, got.Faults[i], want.Faults[i])
		}
	}
}

func (w *world) hour() ledger.Hour { return ledger.HourOf(w.now) }

func (w *world) someStats(hour ledger.Hour, queue string) ledger.Sums {
	at := hour.Start().Add(7 * time.Minute)
	return ledger.Sums{
		Tallies: []ledger.Tally{
			{Hour: hour, Queue: queue, Kind: "k", Outcome: ledger.OutcomeArrived, N: 3},
			{Hour: hour, Queue: queue, Kind: "k", Outcome: ledger.OutcomeLeased, N: 1 << 40, Sum: time.Hour + time.Microsecond, Sketch: []byte{0, 1, 255}},
			{Hour: hour, Queue: queue, Kind: "k ü", Outcome: ledger.OutcomeDied, N: 2},
		},
		Faults: []ledger.Fault{{Hour: hour, Queue: queue, Kind: "k", Message: `it's "#" — ` + strings.Repeat("x", 200), N: 4, First: at, Last: at.Add(time.Second)}},
	}
}

func statsRead(w *world) {
	w.wantStats("an empty ledger", 0, "", ledger.Sums{})
	rows := w.someStats(w.hour(), "q")
	w.fold(w.hour(), rows)
	w.wantStats("all", 0, "", rows)
}

func statsReplace(w *world) {
	rows := w.someStats(w.hour(), "q")
	w.fold(w.hour(), rows)
	one := rows.Tallies[1]
	one.N, one.Sum, one.Sketch = 5, time.Second, bytes.Repeat([]byte{7}, 5000)
	fault := rows.Faults[0]
	fault.N, fault.Last = 9, fault.Last.Add(time.Minute)
	w.fold(w.hour(), ledger.Sums{Tallies: []ledger.Tally{one}, Faults: []ledger.Fault{fault}})
	w.wantStats("after another fold", 0, "", ledger.Sums{
		Tallies: []ledger.Tally{rows.Tallies[0], one, rows.Tallies[2]}, Faults: []ledger.Fault{fault},
	})
}

func statsHour(w *world) {
	h := w.hour()
	old, young, other := w.someStats(h-1, "q"), w.someStats(h, "q"), w.someStats(h, "p")
	w.fold(h-1, old)
	w.fold(h, young)
	w.fold(h, other)
	var seen ledger.Sums
	w.ok(w.l.FoldStats(w.ctx, h, func(s ledger.Sums) (ledger.Sums, error) { seen = s; return ledger.Sums{}, nil }))
	if len(seen.Tallies) != 6 || len(seen.Faults) != 2 {
		w.Errorf("a fold of the hour sees %d tallies and %d faults, want 6 and 2", len(seen.Tallies), len(seen.Faults))
	}
	for _, t := range seen.Tallies {
		if t.Hour != h {
			w.Errorf("a fold of hour %d sees %+v", h, t)
		}
	}
	w.wantStats("since the hour, of one queue", h, "q", w.someStats(h, "q"))
	w.wantStats("since the hour before", h-1, "q", ledger.Sums{
		Tallies: append(w.someStats(h-1, "q").Tallies, w.someStats(h, "q").Tallies...),
		Faults:  append(w.someStats(h-1, "q").Faults, w.someStats(h, "q").Faults...),
	})
	w.wantStats("of a queue that is unknown", 0, "nobody's", ledger.Sums{})
}

func statsError(w *world) {
	rows := w.someStats(w.hour(), "q")
	w.fold(w.hour(), rows)
	refused := errors.New("refused")
	err := w.l.FoldStats(w.ctx, w.hour(), func(ledger.Sums) (ledger.Sums, error) { return w.someStats(w.hour(), "p"), refused })
	if !errors.Is(err, refused) {
		w.Errorf("%v, want the function's error", err)
	}
	w.wantStats("afterwards", 0, "", rows)
}

// statsStopped ends a reading when it has seen enough; and faults that nobody
// wants are not read.
func statsStopped(w *world) {
	w.fold(w.hour(), w.someStats(w.hour(), "q"))
	for _, most := range []int{1, 4} { // there are three tallies and a fault
		calls := 0
		count := func() bool { calls++; return calls < most }
		w.ok(w.l.ReadStats(w.ctx, 0, "", func(ledger.Tally) bool { return count() }, func(ledger.Fault) bool { return count() }))
		if calls != most {
			w.Errorf("a reader that has enough after %d rows was called %d times", most, calls)
		}
	}
	w.ok(w.l.ReadStats(w.ctx, 0, "", func(ledger.Tally) bool { return true }, nil))
}

// statsTogether counts by many folds at once, which must each see the last.
func statsTogether(w *world, handles []ledger.Ledger) {
	const folds = 20
	h := w.hour()
	w.together(8, func(i int) error {
		for range folds {
			err := handles[i%len(handles)].FoldStats(w.ctx, h, func(s ledger.Sums) (ledger.Sums, error) {
				t := ledger.Tally{Hour: h, Queue: "q", Kind: "k", Outcome: ledger.OutcomeFailed}
				if len(s.Tallies) > 0 {
					t = s.Tallies[0]
				}
				t.N++
				return ledger.Sums{Tallies: []ledger.Tally{t}}, nil
			})
			if err != nil {
				return fmt.Errorf("fold: %w", err)
			}
		}
		return nil
	})
	w.wantStats("after all folds", 0, "", ledger.Sums{Tallies: []ledger.Tally{
		{Hour: h, Queue: "q", Kind: "k", Outcome: ledger.OutcomeFailed, N: 8 * folds},
	}})
}

func statsDurable(w *world) {
	rows := w.someStats(w.hour(), "q")
	w.fold(w.hour(), rows)
	w.l = w.suite.features.Reopen(w.TB, w.l)
	w.wantStats("after a restart", 0, "", rows)
}

func statsKept(w *world) {
	keep := ledger.DefaultKeep
	keep.Stats = 48 * time.Hour
	h := w.hour()
	for _, hour := range []ledger.Hour{h - 49, h - 48, h} {
		w.fold(hour, w.someStats(hour, "q"))
	}
	did := w.upkeep(ledger.Keep{Archive: time.Hour, Idempotency: time.Hour})
	if did.StatsRemoved != 0 {
		w.Errorf("%d rows removed without a rule", did.StatsRemoved)
	}
	if did = w.upkeep(keep); did.StatsRemoved != 4 {
		w.Errorf("%d rows removed, want the 4 of one hour", did.StatsRemoved)
	}
	if did = w.upkeep(keep); did.StatsRemoved != 0 {
		w.Errorf("%d rows removed the second time", did.StatsRemoved)
	}
	w.wantStats("kept", 0, "", ledger.Sums{
		Tallies: append(w.someStats(h-48, "q").Tallies, w.someStats(h, "q").Tallies...),
		Faults:  append(w.someStats(h-48, "q").Faults, w.someStats(h, "q").Faults...),
	})
}
