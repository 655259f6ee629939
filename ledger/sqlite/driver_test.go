package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

func testPath(t testing.TB) string { return filepath.Join(t.TempDir(), "errand.db") }

func testOpen(t testing.TB, path string) *Ledger {
	t.Helper()
	l, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // the test may have closed it
	return l
}

func newID() job.ID { return job.ID(uuid.Must(uuid.NewV7())) }

func newItem(payload int) ledger.Item {
	now := time.Now().UTC().Truncate(time.Microsecond)
	return ledger.Item{Fresh: true, Job: job.Job{
		ID: newID(), Queue: "q", Kind: "k", State: job.Ready, Lane: 5, Priority: 5, Version: 1,
		CreatedAt: now, RunAt: now, MaxAttempts: 3, Payload: make([]byte, payload), ContentType: job.DefaultContentType,
	}}
}

func mustInsert(t testing.TB, l *Ledger, items ...ledger.Item) {
	t.Helper()
	answers, err := l.Insert(t.Context(), time.Now(), items)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range answers {
		if a.Outcome != ledger.InsertedNew {
			t.Fatalf("insert: %+v", a)
		}
	}
}

func readyCount(t testing.TB, l *Ledger) (n int64) {
	t.Helper()
	counts, err := l.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		if c.State == job.Ready {
			n += c.N
		}
	}
	return n
}

func wantReason(t *testing.T, err error, code job.Code, reason job.Reason, words ...string) {
	t.Helper()
	if job.ReasonOf(err) != reason || job.CodeOf(err) != code {
		t.Fatalf("want code %d, reason %s: %v", code, reason, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestLock(t *testing.T) {
	path := testPath(t)
	l := testOpen(t, path)
	link := filepath.Join(t.TempDir(), "other.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, link} {
		_, err := Open(t.Context(), name, Options{})
		wantReason(t, err, job.FailedPrecondition, job.ReasonLedgerLocked, path, fmt.Sprint(os.Getpid()), "stop it")
	}
	_, err := Migrate(t.Context(), path)
	wantReason(t, err, job.FailedPrecondition, job.ReasonLedgerLocked)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	testOpen(t, path)
}

func TestPathsRefused(t *testing.T) {
	for _, path := range []string{"", ":memory:", "file:x.db?_pragma=synchronous(off)", "a\x00b", t.TempDir()} {
		_, err := Open(t.Context(), path, Options{})
		wantReason(t, err, job.InvalidArgument, job.ReasonBadField)
	}
	_, err := Open(t.Context(), filepath.Join(t.TempDir(), "absent", "errand.db"), Options{})
	wantReason(t, err, job.FailedPrecondition, job.ReasonLedgerDown, "does not exist")
}

// Names that would mean something in a URI are names all the same.
func TestOddNames(t *testing.T) {
	for _, name := range []string{"a b.db", "50%25.db", "what?mode=memory", "x#y.db", "größe.db"} {
		path := filepath.Join(t.TempDir(), name)
		l := testOpen(t, path)
		mustInsert(t, l, newItem(1))
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestMigrations(t *testing.T) {
	path := testPath(t)
	_, err := Open(t.Context(), path, Options{Migrate: MigrateCheck})
	wantReason(t, err, job.FailedPrecondition, job.ReasonSchemaTooOld)
	steps, err := Status(t.Context(), path)
	if err != nil || len(steps) == 0 || !steps[0].AppliedAt.IsZero() {
		t.Fatalf("status of no file: %+v, %v", steps, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("looking made the file: %v", err)
	}
	applied, err := Migrate(t.Context(), path)
	if err != nil || len(applied) != len(steps) || applied[0] != "0001_foundation" {
		t.Fatalf("migrate: %v, %v", applied, err)
	}
	if again, err := Migrate(t.Context(), path); err != nil || len(again) != 0 {
		t.Fatalf("migrate again: %v, %v", again, err)
	}
	if steps, err = Status(t.Context(), path); err != nil || steps[0].AppliedAt.IsZero() {
		t.Fatalf("status: %+v, %v", steps, err)
	}
	if !strings.Contains(Print(), "CREATE TABLE job") {
		t.Error("Print does not show the tables")
	}
	l, err := Open(t.Context(), path, Options{Migrate: MigrateCheck})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// alter runs a text on a closed ledger's file.
func alter(t *testing.T, path, text string) {
	t.Helper()
	if err := withFile(t.Context(), path, func(c *conn) error { return c.once(text) }); err != nil {
		t.Fatal(err)
	}
}

func TestForeignSchemas(t *testing.T) {
	for _, c := range []struct {
		name, text string
		fresh      bool
		reason     job.Reason
		words      string
	}{
		{"newer", "INSERT INTO schema_migration VALUES (9999, '9999_future', 'x', 1)", false, job.ReasonSchemaTooNew, "9999_future"},
		{"other text", "UPDATE schema_migration SET checksum = 'x'", false, job.ReasonLedgerDown, "another text"},
		{"other program", "CREATE TABLE cat (name)", true, job.ReasonLedgerDown, "another program"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := testPath(t)
			if !c.fresh {
				if _, err := Migrate(t.Context(), path); err != nil {
					t.Fatal(err)
				}
			}
			alter(t, path, c.text)
			for range 2 { // the refusal leaves no lock behind
				_, err := Open(t.Context(), path, Options{})
				wantReason(t, err, job.FailedPrecondition, c.reason, c.words)
			}
			_, err := Status(t.Context(), path)
			wantReason(t, err, job.FailedPrecondition, c.reason, c.words)
		})
	}
}

func TestCorruptFile(t *testing.T) {
	path := testPath(t)
	if err := os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), path, Options{})
	wantReason(t, err, job.FailedPrecondition, job.ReasonLedgerDown, "damaged", "backup")
}

// A full disk fails the call that does not fit, whole; what fits goes on.
func TestDiskFull(t *testing.T) {
	l := testOpen(t, testPath(t))
	mustInsert(t, l, newItem(10))
	limit := func(pages string) {
		t.Helper()
		err := l.w.do(t.Context(), "limit", 1, func(t *tx) error {
			_, err := t.get("PRAGMA max_page_count = "+pages, nil, new(int64))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	limit("100")
	_, err := l.Insert(t.Context(), time.Now(), []ledger.Item{newItem(10), newItem(1 << 20)})
	wantReason(t, err, job.Unavailable, job.ReasonLedgerDown, "disk is full")
	if n := readyCount(t, l); n != 1 {
		t.Fatalf("%d jobs after a refused insert, want 1", n)
	}
	mustInsert(t, l, newItem(10))
	limit("1000000")
	mustInsert(t, l, newItem(1<<20))
	if n := readyCount(t, l); n != 3 {
		t.Fatalf("%d jobs, want 3", n)
	}
}

// Ops that share a transaction fail alone: by their own error, by a full disk,
// or by their context.
func TestGroupIsolation(t *testing.T) {
	l := testOpen(t, testPath(t))
	entered, release := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		first <- l.w.do(context.Background(), "hold", 1, func(*tx) error {
			close(entered)
			<-release
			return nil
		})
	}()
	<-entered
	boom := errors.New("boom")
	gone, cancel := context.WithCancel(t.Context())
	ops := []struct {
		ctx  context.Context
		err  error
		want error
	}{{ctx: t.Context()}, {ctx: t.Context(), err: boom, want: boom}, {ctx: gone, want: context.Canceled}, {ctx: t.Context()}}
	results := make([]chan error, len(ops))
	for i, o := range ops {
		results[i] = make(chan error, 1)
		go func() {
			results[i] <- l.w.do(o.ctx, "op", 1, func(tx *tx) error {
				j := newItem(1).Job
				tx.count(&j, 0, 1)
				if _, err := tx.draw(); err != nil {
					return err
				}
				if _, err := tx.sliceFor(time.Unix(int64(1000000*(i+1)), 0)); err != nil {
					return err
				}
				return o.err
			})
		}()
	}
	waitFor(t, func() bool { l.w.mu.Lock(); defer l.w.mu.Unlock(); return len(l.w.queue) == len(ops) })
	cancel()
	close(release)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	for i, o := range ops {
		if err := <-results[i]; !errors.Is(err, o.want) {
			t.Errorf("op %d: %v, want %v", i, err, o.want)
		}
	}
	if n := readyCount(t, l); n != 2 {
		t.Errorf("counted %d, want what the 2 good ops counted", n)
	}
	mem := *l.w.mem
	fresh, err := loadMemory(l.w.c) // the writer is idle
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(mem.slices, mem.counts, mem.reserved) != fmt.Sprint(fresh.slices, fresh.counts, fresh.reserved) || len(fresh.slices) != 2 {
		t.Errorf("memory %v differs from the database %v", mem, fresh)
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatal("waited 10 s")
		case <-tick.C:
		}
	}
}

// scansAll finds a plan that reads all live jobs, other than by the order of an index.
var scansAll = regexp.MustCompile(`SCAN (job_row|r|j|l)\n`)

func TestPlans(t *testing.T) {
	l := testOpen(t, testPath(t))
	for _, c := range []struct{ name, text, want string }{
		{"claim", laneJobsSQL, "USING INDEX job_ready (queue=? AND kind=? AND lane=? AND seq>?)"},
		{"claim of several kinds", headSQL, "USING COVERING INDEX job_ready (queue=? AND kind=? AND lane=? AND seq>?)"},
		{"due", "SELECT rid FROM job_row WHERE state = 1 AND run_at <= $1 ORDER BY run_at, rid LIMIT $2", "INDEX job_scheduled (run_at<?)"},
		{"expired", "SELECT id FROM job_row WHERE expires_at <= $1 AND state < 3 AND " + notLeased + " ORDER BY expires_at LIMIT $2", "INDEX job_expires (expires_at<?)"},
		{"orphans", "SELECT id FROM job_held WHERE state = 3 AND session IN (" + orphanSessions + "session.state = 3) LIMIT $1", "INDEX job_running (session=?)"},
		{"get", "SELECT " + coldsql.ColumnList + " FROM job WHERE id IN ($1, $2)", "SEARCH r USING INDEX sqlite_autoindex_job_row_1 (id=?)"},
		{"page", "SELECT * FROM (SELECT " + coldsql.ColumnList + " FROM job ORDER BY id DESC LIMIT $1) AS p", "SCAN r USING INDEX sqlite_autoindex_job_row_1"},
		{"page of ready", "SELECT * FROM (SELECT " + coldsql.ColumnList + " FROM job_idle WHERE state = 2 ORDER BY id DESC LIMIT $1) AS p",
			"USING INDEX sqlite_autoindex_job_row_1"},
		{"sessions", "SELECT session AS holder, count(*) AS n FROM job_held WHERE state = 3 GROUP BY session", "USING INDEX job_running"},
		{"oldest", `SELECT name, (SELECT j.run_at FROM job_idle j WHERE j.queue = name AND j.kind = $1 AND j.state = 2
			AND j.lane = $2 ORDER BY j.seq LIMIT 1) FROM queue`, "USING INDEX job_ready (queue=? AND kind=? AND lane=?)"},
		{"cancellations", "SELECT id, session, token, call, cancel_requested FROM job_held WHERE state = 3 AND cancel_requested", "USING INDEX job_running"},
		{"pulse, due", pulseSQL, "INDEX job_scheduled (run_at<?)"},
		{"pulse, expired", pulseSQL, "INDEX job_expires (expires_at<?)"},
		{"pulse, orphans", pulseSQL, "INDEX job_running (session=?)"},
		{"held", "SELECT id, session, token, call, cancel_requested FROM job_held WHERE state = 3 AND session IN ($1, $2)",
			"USING INDEX job_running (session=?)"},
		{"succeed", rowsText(succeedFind, "(?, ?, ?)", 8), "SEARCH j USING INDEX sqlite_autoindex_job_row_1 (id=?)"},
	} {
		var plan strings.Builder
		err := l.w.do(t.Context(), "explain", 1, func(tx *tx) error {
			return tx.query("EXPLAIN QUERY PLAN "+c.text, make([]any, 24), func(row []driver.Value) error {
				fmt.Fprintln(&plan, row[3])
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(plan.String(), c.want) || strings.Contains(plan.String(), "TEMP B-TREE FOR ORDER BY") ||
			scansAll.MatchString(plan.String()) {
			t.Errorf("%s: want %q in\n%s", c.name, c.want, plan.String())
		}
	}
}

func TestFence(t *testing.T) {
	l := testOpen(t, testPath(t))
	it := newItem(1)
	mustInsert(t, l, it)
	n, err := l.Fence(t.Context())
	if err != nil || n != 1 {
		t.Fatalf("fence: %d, %v", n, err)
	}
	jobs, err := l.Get(t.Context(), []job.ID{it.Job.ID})
	if err != nil || len(jobs) != 1 || jobs[0].Token != 1<<32 {
		t.Fatalf("after the fence: %+v, %v", jobs, err)
	}
}

// Numbers given out are never given out again, whatever was left alive.
func TestSeqOutlivesJobs(t *testing.T) {
	path := testPath(t)
	l := testOpen(t, path)
	it := newItem(1)
	mustInsert(t, l, it)
	before := l.w.mem.seq
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	alter(t, path, "DELETE FROM job_row")
	l = testOpen(t, path)
	mustInsert(t, l, newItem(1))
	if l.w.mem.seq <= before {
		t.Errorf("seq %d after %d", l.w.mem.seq, before)
	}
}

func TestClosed(t *testing.T) {
	l := testOpen(t, testPath(t))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := l.Insert(t.Context(), time.Now(), []ledger.Item{newItem(1)})
	if job.CodeOf(err) != job.Unavailable {
		t.Errorf("insert after Close: %v", err)
	}
}
