package insight

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/errandhq/errand/ledger"
)

func TestPattern(t *testing.T) {
	for message, want := range map[string]string{
		"":                     "no message",
		" \n\t":                "no message",
		"no numbers":           "no numbers",
		"order 4711 not found": "order # not found",
		"job 0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b": "job #",
		"dial tcp 10.0.0.1:5432: refused":          "dial tcp #: refused",
		"took 3.25s, want 1.5s":                    "took #s, want #s",
		"at 2026-01-02 03:04:05":                   "at # #",
		`user "Ada \1" is 'gone'`:                  `user "…" is '…'`,
		"don't do 'this'":                          "don't do '…'",
		`an open "quotation`:                       `an open "quotation`,
		"commit deadbeef12 at 0xc000123":           "commit # at #",
		"utf8 and http2":                           "utf# and http#",
		"key abcdefghijklmnop1":                    "key #",
		"first line\nsecond 1":                     "first line",
		"\n\n  second  line":                       "second line",
		"bell\x07 and nul\x00":                     "bell and nul",
		"Straße 7":                                 "Straße #",
	} {
		if got := Pattern(message); got != want {
			t.Errorf("Pattern(%q) = %q, want %q", message, got, want)
		}
	}
}

// Whatever the message, its pattern can be stored, and is its own pattern.
func TestPatternsCanBeStored(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		message := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ "'a-f0-9.:#x\x00\n-]{0,400}`),
			rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "message")
		p := Pattern(message)
		switch {
		case p == "" || len(p) > ledger.MaxFaultMessage || !utf8.ValidString(p) || strings.ContainsAny(p, "\x00\n"):
			t.Fatalf("the pattern %q cannot be stored", p)
		case Pattern(p) != p:
			t.Fatalf("the pattern of %q is %q", p, Pattern(p))
		}
	})
}

// Percentiles are as exact as promised, also after sketches were stored and added.
func TestSketchesAddUp(t *testing.T) {
	var parts [4]Sketch
	var all []time.Duration
	for i := range 4000 {
		d := time.Duration(math.Pow(1.003, float64(i%3000)) * float64(50*time.Microsecond))
		parts[i%4].Add(d)
		all = append(all, d)
	}
	var sum Sketch
	for i := range parts {
		if err := sum.Merge(parts[i].Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(all)
	if sum.Count() != int64(len(all)) {
		t.Errorf("count %d, want %d", sum.Count(), len(all))
	}
	for _, q := range []float64{0.5, 0.95, 0.99} {
		got, want := sum.At(q), all[int(q*float64(len(all)-1))]
		if off := math.Abs(float64(got-want)) / float64(want); off > accuracy+0.002 {
			t.Errorf("percentile %v is %s, want %s within 2 %%", q, got, want)
		}
	}
	if err := sum.Merge([]byte("nonsense")); err == nil {
		t.Error("nonsense was added")
	}
	var extreme Sketch
	extreme.Add(-time.Second)
	extreme.Add(math.MaxInt64)
	if extreme.Count() != 2 || len(extreme.Bytes()) > 100 {
		t.Errorf("extremes: %d of 2, in %d bytes", extreme.Count(), len(extreme.Bytes()))
	}
	var empty Sketch
	if empty.Bytes() != nil || empty.At(0.5) != 0 {
		t.Error("an empty sketch has something in it")
	}
}

// late is the share of attempts that waits longer than target with c hands, by
// Erlang's formula as the textbooks write it, sum by sum.
func late(c int, load, run, target float64) float64 {
	term, sum := 1.0, 0.0
	for k := range c {
		sum += term
		term *= load / float64(k+1)
	}
	last := term * float64(c) / (float64(c) - load)
	return last / (sum + last) * math.Exp(-(float64(c)-load)*target/run)
}

// With the slots that are named the target is met, with one less it is not.
func TestSlotsAreTheFewestThatDo(t *testing.T) {
	for _, load := range []float64{0.3, 1, 2.5, 7.5, 10, 60} {
		for _, target := range []float64{0.001, 0.5, 2, 30} {
			c, _ := Slots(load/2, 2*time.Second, time.Duration(target*float64(time.Second)))
			if float64(c) <= load || late(c, load, 2, target) > 1-Sure {
				t.Errorf("load %v, target %v s: %d slots are too few", load, target, c)
			}
			if c > 1 && float64(c-1) > load && late(c-1, load, 2, target) <= 1-Sure {
				t.Errorf("load %v, target %v s: %d slots would do, not %d", load, target, c-1, c)
			}
		}
	}
}

func TestSlots(t *testing.T) {
	for _, c := range []struct {
		rate        float64
		run, target time.Duration
		slots       int
		load        float64
	}{
		{0, time.Second, time.Minute, 0, 0},
		{10, 0, time.Minute, 0, 0},
		{0.001, time.Second, time.Minute, 1, 0.001},
		{10, time.Second, time.Minute, 11, 10},          // a minute is long: the load and a little
		{10, time.Second, time.Millisecond, 19, 10},     // no wait at all takes room to spare
		{100, 10 * time.Second, time.Minute, 1001, 1e3}, // many hands need little room
		{2e6, time.Second, time.Minute, mostSlots, 2e6},
	} {
		slots, load := Slots(c.rate, c.run, c.target)
		if slots != c.slots || math.Abs(load-c.load) > 1e-9 {
			t.Errorf("Slots(%v, %s, %s) = %d, %v; want %d, %v", c.rate, c.run, c.target, slots, load, c.slots, c.load)
		}
	}
}

// gather makes the sums of one batch.
func gather(b Bounds, at time.Time, fn func(*Batch)) ledger.Sums {
	r := NewRecorder(b)
	batch := r.Begin(at)
	fn(batch)
	batch.End()
	return r.Take()[ledger.HourOf(at)]
}

var noon = time.Date(2026, 5, 6, 12, 30, 0, 0, time.UTC)

// However many kinds, queues and failures come, an hour holds a bounded number
// of rows, in memory and in the ledger, and nothing is left uncounted.
func TestCardinalityIsBounded(t *testing.T) {
	b := Bounds{Pairs: 10, Faults: 5}
	var stored ledger.Sums
	const batches, each = 4, 50
	for n := range batches {
		added := gather(b, noon, func(batch *Batch) {
			for i := range each {
				queue, kind := fmt.Sprint("q", i%20), fmt.Sprint("k", n, i)
				batch.Time(queue, kind, ledger.OutcomeFailed, time.Second)
				batch.Fail(queue, kind, "letters "+strings.Repeat("x", n*each+i))
			}
		})
		changed, err := Fold(stored, added, b)
		if err != nil {
			t.Fatal(err)
		}
		stored = put(stored, changed)
	}
	if most := 2*b.Pairs + 1; len(stored.Tallies) > most {
		t.Errorf("%d tallies, want at most %d", len(stored.Tallies), most)
	}
	if most := b.Faults + 2*b.Pairs + 1; len(stored.Faults) > most {
		t.Errorf("%d faults, want at most %d", len(stored.Faults), most)
	}
	var tallied, faults int64
	for _, row := range stored.Tallies {
		tallied += row.N
	}
	for _, row := range stored.Faults {
		faults += row.N
	}
	if tallied != batches*each || faults != batches*each {
		t.Errorf("%d and %d counted, want %d each", tallied, faults, batches*each)
	}
}

// put stores rows as a ledger does.
func put(stored, changed ledger.Sums) ledger.Sums {
	for _, c := range changed.Tallies {
		stored.Tallies = append(slices.DeleteFunc(stored.Tallies, func(t ledger.Tally) bool {
			return t.Queue == c.Queue && t.Kind == c.Kind && t.Outcome == c.Outcome && t.Hour == c.Hour
		}), c)
	}
	for _, c := range changed.Faults {
		stored.Faults = append(slices.DeleteFunc(stored.Faults, func(f ledger.Fault) bool {
			return f.Queue == c.Queue && f.Kind == c.Kind && f.Message == c.Message && f.Hour == c.Hour
		}), c)
	}
	return stored
}

// Times that add up to more than a Duration holds stay the largest there is, and
// never turn negative.
func TestSumsDoNotOverflow(t *testing.T) {
	many := gather(DefaultBounds, noon, func(b *Batch) {
		for range 100 {
			b.Time("q", "k", ledger.OutcomeLeased, longest)
			b.Time("q", "k", ledger.OutcomeFailed, longest)
		}
	})
	twice, err := Fold(many, many, DefaultBounds)
	if err != nil {
		t.Fatal(err)
	}
	for _, tally := range slices.Concat(many.Tallies, twice.Tallies) {
		if tally.Sum < math.MaxInt64-time.Microsecond {
			t.Errorf("of %d times of ten years the sum is %s", tally.N, tally.Sum)
		}
	}
	r, err := made(ledger.Sums{Tallies: slices.Concat(many.Tallies, twice.Tallies)}, Query{Since: time.Hour, Target: time.Minute, Most: 1}, noon)
	if err != nil {
		t.Fatal(err)
	}
	if k := r.Kinds[0]; k.Busy <= 0 || k.Wasted <= 0 || k.Wait.Mean <= 0 || k.Run.Mean <= 0 || r.Queues[0].Run <= 0 || r.Queues[0].Slots < 1 {
		t.Errorf("the report: %+v, %+v", k, r.Queues[0])
	}
}

// made makes a report of rows.
func made(sums ledger.Sums, q Query, now time.Time) (Report, error) {
	d := NewDraft(q, now)
	for _, t := range sums.Tallies {
		if err := d.Tally(t); err != nil {
			return Report{}, err
		}
	}
	for _, f := range sums.Faults {
		d.Fault(f)
	}
	return d.Report(), nil
}

// A report of whatever many kinds, queues and failures holds a bounded number of
// them, tells the first apart, and counts all.
func TestReportsAreBounded(t *testing.T) {
	d := NewDraft(Query{Since: time.Hour, Target: time.Minute, Most: math.MaxInt}, noon)
	const rows = 20_000
	for i := range rows {
		queue, kind := fmt.Sprint("q", i%3000), fmt.Sprint("k", i)
		if err := d.Tally(ledger.Tally{Hour: ledger.HourOf(noon), Queue: queue, Kind: kind, Outcome: ledger.OutcomeFailed, N: 1}); err != nil {
			t.Fatal(err)
		}
		d.Fault(ledger.Fault{Hour: ledger.HourOf(noon), Queue: queue, Kind: kind, Message: fmt.Sprint("m", i), N: 1, Last: noon})
	}
	r := d.Report()
	if most := 2*draftBounds.Pairs + 1; len(r.Kinds) > most || len(r.Kinds) < draftBounds.Pairs {
		t.Errorf("%d kinds, want %d to %d", len(r.Kinds), draftBounds.Pairs, most)
	}
	if most := draftBounds.Faults + 2*draftBounds.Pairs + 1; len(r.Failures) > most {
		t.Errorf("%d failures, want at most %d", len(r.Failures), most)
	}
	var kinds, failures int64
	for _, k := range r.Kinds {
		kinds += k.Failed
	}
	for _, f := range r.Failures {
		failures += f.Count
	}
	if kinds != rows || failures != rows || r.Hours[0].Failed != rows {
		t.Errorf("%d, %d and %d counted, want %d each", kinds, failures, r.Hours[0].Failed, rows)
	}
}

func TestReport(t *testing.T) {
	old := gather(DefaultBounds, noon.Add(-time.Hour), func(b *Batch) {
		for range 3600 {
			b.Count("q", "slow", ledger.OutcomeArrived)
		}
		for range 100 {
			b.Time("q", "slow", ledger.OutcomeLeased, 5*time.Second)
			b.Time("q", "slow", ledger.OutcomeSucceeded, 10*time.Second)
		}
		b.Fail("q", "slow", "order 1 is gone")
	})
	young := gather(DefaultBounds, noon, func(b *Batch) {
		b.Time("q", "quick", ledger.OutcomeSucceeded, time.Millisecond)
		b.Time("q", "slow", ledger.OutcomeFailed, 10*time.Second)
		b.Time("q", "slow", ledger.OutcomeCrashed, 7*time.Second)
		b.Time("q", "slow", ledger.OutcomeSnoozed, time.Second)
		b.Count("q", "slow", ledger.OutcomeDied)
		b.Fail("q", "slow", "order 22 is gone")
	})
	sums := ledger.Sums{Tallies: append(old.Tallies, young.Tallies...), Faults: append(old.Faults, young.Faults...)}
	r, err := made(sums, Query{Since: 2 * time.Hour, Target: time.Minute, Most: 10}, noon)
	if err != nil {
		t.Fatal(err)
	}
	if !r.From.Equal(time.Date(2026, 5, 6, 10, 0, 0, 0, time.UTC)) || !r.Until.Equal(noon) {
		t.Errorf("from %s until %s", r.From, r.Until)
	}
	slow := r.Kinds[0]
	near := func(got, want time.Duration) bool { return math.Abs(float64(got-want)) <= accuracy*float64(want) }
	if len(r.Kinds) != 2 || slow.Kind != "slow" || !near(slow.Run.P95, 10*time.Second) || !near(slow.Wait.P50, 5*time.Second) ||
		slow.Wait.Mean != 5*time.Second {
		t.Errorf("the slowest kinds: %+v", r.Kinds)
	}
	if slow.Busy != 1018*time.Second || slow.Wasted != 17*time.Second || slow.Dead != 1 || slow.Started != 100 {
		t.Errorf("busy %s, wasted %s, dead %d, started %d", slow.Busy, slow.Wasted, slow.Dead, slow.Started)
	}
	if h := r.Hours[0]; len(r.Hours) != 2 || h.Start.Hour() != 11 || h.Arrived != 3600 || h.Busy != 1000*time.Second {
		t.Errorf("the busiest hours: %+v", r.Hours)
	}
	q := r.Queues[0]
	if q.Rate != 1 || q.Peak.Hour() != 11 || math.Abs(q.Load-q.Run.Seconds()) > 1e-9 || q.Slots <= int(q.Load) {
		t.Errorf("the queue: %+v", q)
	}
	if f := r.Failures[0]; len(r.Failures) != 1 || f.Pattern != "order # is gone" || f.Count != 2 || f.Fingerprint == "" ||
		!f.First.Equal(noon.Add(-time.Hour)) || !f.Last.Equal(noon) {
		t.Errorf("failures: %+v", r.Failures)
	}
	if r, err = made(sums, Query{Since: time.Hour, Most: 1}, noon); err != nil || len(r.Kinds) != 1 || len(r.Hours) != 1 {
		t.Errorf("the lists are not cut: %+v, %v", r, err)
	}
}

// BenchmarkRecord is what a change of a job costs in a batch of a hundred.
func BenchmarkRecord(b *testing.B) {
	r := NewRecorder(DefaultBounds)
	b.ReportAllocs()
	for b.Loop() {
		batch := r.Begin(noon)
		for i := range 100 {
			batch.Time("q", "k", ledger.OutcomeSucceeded, time.Duration(i)*time.Millisecond)
		}
		batch.End()
	}
}
