package postgres

import (
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
	if v.Vacuum.OldestOpen != 0 || v.Pool.Max != 2 || v.Pool.Busy != 0 || v.Bytes <= 0 {
		t.Errorf("at rest: %+v, %+v, %d bytes", v.Vacuum, v.Pool, v.Bytes)
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
	if v, err = l.Vitals(t.Context()); err != nil || v.Pool.Waits == 0 || v.Pool.Waited <= 0 {
		t.Errorf("a call waited for a connection: %+v, %v", v.Pool, err)
	}
}

// holdPool takes all connections, and waits for one that comes back.
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
	time.AfterFunc(50*time.Millisecond, a.Release)
	if _, err := l.Now(t.Context()); err != nil {
		t.Fatal(err)
	}
}
