package postgres

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// A process hears the wakes of others, not its own.
func TestOwnWakesAreNotHeard(t *testing.T) {
	l := open(t)
	other := openAt(t, l.listenDSN, Options{})
	heard := make(chan string, 100)
	go func() { _ = l.Listen(t.Context(), func(q string) { heard <- q }) }() // ends with the test
	if q := <-heard; q != "" {
		t.Fatalf("first heard: %q", q)
	}
	for _, from := range []struct {
		l     *Ledger
		queue string
	}{{l, "own"}, {other, "theirs"}} { // they come in this order
		if err := from.l.Wake(t.Context(), []string{from.queue}); err != nil {
			t.Fatal(err)
		}
	}
	if q := <-heard; q != "theirs" {
		t.Errorf("heard %q", q)
	}
}

// When the line broke, the server may have begun anew, and given the numbers of this
// process's connections to those of others: none that died is taken for its own.
func TestDeadBackendsAreForgotten(t *testing.T) {
	l := open(t)
	heard := make(chan string, 10)
	ended := make(chan error, 1)
	go func() { ended <- l.Listen(t.Context(), func(q string) { heard <- q }) }()
	<-heard
	var pids []int32
	conns := make([]*pgxpool.Conn, 3)
	for i := range conns {
		c, err := l.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conns[i], pids = c, append(pids, int32(c.Conn().PgConn().PID()))
	}
	for _, c := range conns {
		c.Release()
	}
	if !l.backends.has(uint32(pids[0])) {
		t.Fatal("a connection of the pool is not known")
	}
	if _, err := connect(t, l.listenDSN).Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Fatal("the line did not break")
	}
	until(t, 10*time.Second, "dead connections are forgotten", func() bool {
		return !slices.ContainsFunc(pids, func(pid int32) bool { return l.backends.has(uint32(pid)) })
	})
}

// Few jobs go in by another statement than many, and are stored alike.
func TestFewAndManyAreStoredAlike(t *testing.T) {
	l := open(t)
	variants := func() []job.Job {
		scheduled, empty, none, full := ready("q", "k"), ready("q", "k"), ready("q", "k"), ready("q", "k")
		scheduled.State, scheduled.RunAt = job.Scheduled, scheduled.RunAt.Add(time.Hour)
		empty.Payload, none.Payload = []byte{}, nil
		full.ContentType, full.Tags, full.Trace = "text/plain", []string{"a,b", `"c"`, "{d}"}, "00-1-2-01"
		full.ExpiresAt, full.Timeout, full.Priority, full.Lane = full.RunAt.Add(time.Hour), time.Minute, 9, 9
		return []job.Job{scheduled, empty, none, full, ready("q", "k")}
	}
	few, many := variants(), variants()
	insert(t, l, fresh(few...))
	insert(t, l, append(fresh(many...), batch(fewItems, "q", "k")...))
	seq := int64(0)
	for i := range few {
		got, err := l.Get(t.Context(), []job.ID{few[i].ID, many[i].ID})
		if err != nil || len(got) != 2 {
			t.Fatalf("%d jobs, %v", len(got), err)
		}
		a, b := got[0], got[1]
		if a.ID != few[i].ID {
			a, b = b, a
		}
		if a.State == job.Ready {
			if a.Seq <= seq || b.Seq <= a.Seq {
				t.Errorf("variant %d: numbers %d and %d after %d", i, a.Seq, b.Seq, seq)
			}
			seq = a.Seq
		}
		b.ID, b.Seq, b.CreatedAt, b.RunAt, b.ExpiresAt = a.ID, a.Seq, a.CreatedAt, a.RunAt, a.ExpiresAt
		if !reflect.DeepEqual(a, b) {
			t.Errorf("variant %d:\n few %+v\nmany %+v", i, a, b)
		}
		want := few[i]
		want.Seq = a.Seq
		if len(want.Payload) == 0 {
			want.Payload = a.Payload
		}
		if !reflect.DeepEqual(a, want) {
			t.Errorf("variant %d:\ngot  %+v\nwant %+v", i, a, want)
		}
	}
}

// A claim locks as many jobs as it may take, until payloads have turned out to
// be large: then it looks first how many of them fit.
func TestLargePayloadsAreLookedAtFirst(t *testing.T) {
	l := open(t)
	s := session(t, l)
	items := batch(20, "q", "k")
	for i := range items {
		items[i].Job.Payload = fmt.Appendf(nil, "%0*d", 1_000_000, i)
	}
	insert(t, l, items)
	insert(t, l, batch(20, "q", "k"))
	next := 0
	for _, want := range []struct {
		jobs  int
		bulky bool
	}{{4, true}, {4, true}, {4, true}, {4, true}, {24, true}, {30, false}} {
		if next == len(items) {
			insert(t, l, batch(30, "q", "k"))
		}
		got := claim(t, l, s, "q", 1000, "k")
		if last := l.marks.lastClaimed("q"); len(got) != want.jobs || last.bulky != want.bulky {
			t.Fatalf("%d jobs, bulky %v; want %+v", len(got), last.bulky, want)
		}
		for _, j := range got[:min(len(got), len(items)-next)] {
			if j.ID != items[next].Job.ID {
				t.Fatalf("job %d is not the next one", next)
			}
			next++
		}
	}
}

// A claim that merges kinds goes on behind the jobs that another process holds,
// even if it saw no others.
func TestMergedClaimBehindLockedJobs(t *testing.T) {
	l := open(t)
	s := session(t, l)
	for range 10 {
		insert(t, l, append(batch(1, "q", "a"), batch(1, "q", "b")...))
	}
	c := connect(t, l.listenDSN)
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT FROM errand.job_row ORDER BY seq LIMIT 6 FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	if n := len(claim(t, l, s, "q", 5, "a", "b")); n != 5 {
		t.Errorf("%d jobs, want 5", n)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A request that must look for its kinds first still comes before those behind it.
func TestRequestsKeepTheirOrder(t *testing.T) {
	l := open(t)
	s := session(t, l)
	for _, kinds := range [][]string{nil, {"k"}} {
		insert(t, l, batch(1, "q", "k"))
		out, err := l.Claim(t.Context(), now(), []ledger.Claim{
			{Session: s, Call: 1, Queue: "q", Kinds: kinds, Max: 1, MaxBytes: 4 << 20},
			{Session: s, Call: 2, Queue: "q", Kinds: []string{"k"}, Max: 1, MaxBytes: 4 << 20},
		})
		if err != nil || len(out[0].Jobs) != 1 || len(out[1].Jobs) != 0 {
			t.Errorf("kinds %q: %+v, %v", kinds, out, err)
		}
	}
}
