package ledgertest

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/errandhq/errand/ledger"
)

// sums are the model's statistics, by their keys.
type sums struct {
	tallies map[tallyKey]ledger.Tally
	faults  map[faultKey]ledger.Fault
}

type tallyKey struct {
	hour        ledger.Hour
	queue, kind string
	outcome     ledger.Outcome
}

type faultKey struct {
	hour                 ledger.Hour
	queue, kind, message string
}

func newSums() sums {
	return sums{map[tallyKey]ledger.Tally{}, map[faultKey]ledger.Fault{}}
}

func (s sums) put(rows ledger.Sums) {
	for _, t := range rows.Tallies {
		s.tallies[tallyKey{t.Hour, t.Queue, t.Kind, t.Outcome}] = t
	}
	for _, f := range rows.Faults {
		s.faults[faultKey{f.Hour, f.Queue, f.Kind, f.Message}] = f
	}
}

func (s sums) get(yes func(ledger.Hour, string) bool) ledger.Sums {
	return ledger.Sums{
		Tallies: slices.DeleteFunc(slices.Collect(maps.Values(s.tallies)), func(t ledger.Tally) bool { return !yes(t.Hour, t.Queue) }),
		Faults:  slices.DeleteFunc(slices.Collect(maps.Values(s.faults)), func(f ledger.Fault) bool { return !yes(f.Hour, f.Queue) }),
	}
}

func (s sums) removeBefore(hour ledger.Hour) (n int) {
	n = len(s.tallies) + len(s.faults)
	maps.DeleteFunc(s.tallies, func(k tallyKey, _ ledger.Tally) bool { return k.hour < hour })
	maps.DeleteFunc(s.faults, func(k faultKey, _ ledger.Fault) bool { return k.hour < hour })
	return n - len(s.tallies) - len(s.faults)
}

func (m *model) FoldStats(ctx context.Context, hour ledger.Hour, fn func(ledger.Sums) (ledger.Sums, error)) error {
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	rows, err := fn(m.sums.get(func(h ledger.Hour, _ string) bool { return h == hour }))
	if err == nil {
		m.sums.put(rows)
	}
	return err
}

func (m *model) ReadStats(ctx context.Context, from ledger.Hour, queue string, tally func(ledger.Tally) bool, fault func(ledger.Fault) bool) error {
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	got := m.sums.get(func(h ledger.Hour, q string) bool { return h >= from && (queue == "" || q == queue) })
	unlock()
	slices.SortFunc(got.Tallies, func(a, b ledger.Tally) int { return cmp.Compare(b.Hour, a.Hour) })
	slices.SortFunc(got.Faults, func(a, b ledger.Fault) int { return cmp.Compare(b.Hour, a.Hour) })
	for _, t := range got.Tallies {
		if !tally(t) {
			return nil
		}
	}
	for _, f := range got.Faults {
		if fault == nil || !fault(f) {
			return nil
		}
	}
	return nil
}
