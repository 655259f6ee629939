package postgres

import (
	"fmt"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Each statement sees what was committed before it, whatever the database's default is.
func TestIsolationIsNotTheDatabases(t *testing.T) {
	dsn := testenv.Postgres(t)
	c := connect(t, dsn)
	if _, err := c.Exec(t.Context(), `DO $$ BEGIN EXECUTE format(
		'ALTER DATABASE %I SET default_transaction_isolation = ''repeatable read''', current_database()); END $$`); err != nil {
		t.Fatal(err)
	}
	l := openAt(t, dsn, Options{MaxConns: 4})
	var isolation string
	err := l.inTx(t.Context(), "show", func(tx *tx) error {
		if err := tx.run(t.Context()); err != nil {
			return err
		}
		return tx.conn.QueryRow(t.Context(), "SELECT current_setting('transaction_isolation')").Scan(&isolation)
	})
	if err != nil || isolation != "read committed" {
		t.Errorf("isolation %q, %v", isolation, err)
	}
}

// Pulses raise the floors of lanes that nobody claims from, and never beyond one who
// has drawn a number and not committed.
func TestPulseRaisesFloors(t *testing.T) {
	l := open(t)
	s := session(t, l)
	insert(t, l, batch(20, "q", "k"))
	claim(t, l, s, "q", 20, "k")
	pulse := func() bool {
		t.Helper()
		p, err := l.Pulse(t.Context(), now(), ledger.Ask{Queues: []ledger.Head{{Queue: "q", Kinds: []string{"k", "never"}}}})
		if err != nil {
			t.Fatal(err)
		}
		return len(p.Ready) > 0
	}
	last := func() (n int64) {
		t.Helper()
		if err := l.pool.QueryRow(t.Context(), "SELECT last_value + $1 FROM errand.seq", int64(seqBlock-1)).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	floors := func() []int64 {
		return l.marks.floors([]laneKey{{"q", "k", job.LaneLast}, {"q", "never", 0}, {"q", "k", job.LaneFront}})
	}
	if pulse() {
		t.Error("all were claimed")
	}
	n := last()
	if f := floors(); f[0] != n || f[1] != n || f[2] != 0 {
		t.Errorf("floors %v, want %d, %[2]d and 0", f, n)
	}
	tx, err := connect(t, l.listenDSN).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT pg_advisory_xact_lock_shared($1, $2)", lockClass, lockWriting); err != nil {
		t.Fatal(err)
	}
	insert(t, l, batch(20, "q", "other"))
	if pulse() {
		t.Error("another kind is told of")
	}
	if f := floors(); f[0] >= last() {
		t.Errorf("floors %v, though somebody writes", f)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	pulse()
	if f := floors(); f[0] != last() {
		t.Errorf("floors %v, want %d when all has come to rest", f, last())
	}
}

// However many queues and kinds are asked for, a pulse looks at so many lanes, and at the
// counters of the queues for the others.
func TestPulseIsBounded(t *testing.T) {
	kinds := make([]string, 500)
	for i := range kinds {
		kinds[i] = fmt.Sprint(i)
	}
	var heads []ledger.Head
	for i := range 500 {
		heads = append(heads, ledger.Head{Queue: fmt.Sprint(i), Kinds: kinds})
	}
	heads = append(heads, ledger.Head{Queue: "few", Kinds: []string{"k"}}, ledger.Head{Queue: "all"})
	lanes, every := lanesAsked(heads)
	asked := map[string]bool{}
	for _, k := range lanes {
		asked[k.queue] = true
	}
	if len(lanes) > maxPulseLanes || !asked["0"] || !asked["few"] {
		t.Errorf("%d lanes of %d queues", len(lanes), len(asked))
	}
	for _, q := range every {
		asked[q] = true
	}
	if len(asked) != len(heads) {
		t.Errorf("%d of %d queues are asked for", len(asked), len(heads))
	}
	l := open(t)
	insert(t, l, batch(1, "499", "0"))
	p, err := l.Pulse(t.Context(), now(), ledger.Ask{Queues: heads})
	if err != nil || len(p.Ready) != 1 || p.Ready[0] != "499" {
		t.Errorf("ready %v, %v", p.Ready, err)
	}
}

// A clock that was ahead for a moment hides no job for good: what it takes for expired
// holds the floor all the same.
func TestPulseAheadBuriesNothing(t *testing.T) {
	l := open(t)
	s := session(t, l)
	items := batch(1, "q", "k")
	items[0].Job.ExpiresAt = now().Add(time.Hour)
	insert(t, l, items)
	for _, ahead := range []time.Duration{2 * time.Hour, 0} {
		_, err := l.Pulse(t.Context(), now().Add(ahead), ledger.Ask{Queues: []ledger.Head{{Queue: "q", Kinds: []string{"k"}}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := claim(t, l, s, "q", 1, "k"); len(got) != 1 {
		t.Error("the job is not found any more")
	}
}
