package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/testenv"
)

// TestVitalsSeeWhatIsHeld: an open transaction of somebody else, dead rows that
// it keeps, and calls that wait for a connection.
func TestVitalsSeeWhatIsHeld(t *testing.T) {
	l := openAt(t, testenv.Postgres(t), Options{MaxConns: 2})
	v, err := l.Vitals(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v.Vacuum.OldestOpen != 0 || l.Pool().Max != 2 || l.Pool().Busy != 0 || v.Bytes <= 0 {
		t.Errorf("at rest: %+v, %+v, %d bytes", v.Vacuum, l.Pool(), v.Bytes)
	}
	c := connect(t, l.listenDSN)
	for _, sql := range []string{"BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM errand.job"} {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		insert(t, l, batch(10, "q", "k"))
	}
	if v, err = l.Vitals(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v.Vacuum.OldestOpen <= 0 || v.Vacuum.XminAge < 5 {
		t.Errorf("a transaction is open, and five came after: %+v", v.Vacuum)
	}
	if _, err := c.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	holdPool(t, l)
	if p := l.Pool(); p.Waits == 0 || p.Waited <= 0 || p.GaveUp != 1 {
		t.Errorf("one call waited for a connection, and one gave up: %+v", p)
	}
}

// holdPool takes all connections, gives up on another, and waits for one that
// comes back.
func holdPool(t *testing.T, l *Ledger) {
	t.Helper()
	a, err := l.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Now(short); err == nil {
		t.Fatal("a third connection of two")
	}
	time.AfterFunc(50*time.Millisecond, a.Release)
	if _, err := l.Now(t.Context()); err != nil {
		t.Fatal(err)
	}
}
