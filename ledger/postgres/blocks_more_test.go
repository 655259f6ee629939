package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// An Apply whose answer comes late, behind another lease of the same job in another block,
// does not count the job as gone from that block.
func TestLateAnswerOfApply(t *testing.T) {
	l := openBlocks(t)
	s := session(t, l)
	items := batch(1, "q", "k")
	insert(t, l, items)
	x := claim(t, l, s, "q", 1, "k")[0]
	// Apply, up to its commit: the goroutine is held up before endLeases.
	var rows []*picked
	at := now()
	err := l.inTx(t.Context(), "apply", func(tx *tx) (err error) {
		rows, _, err = tx.apply(t.Context(), at, &ledger.Pick{IDs: []job.ID{x.ID}}, func(j *job.Job) error {
			return rules().Step(j, job.Move{Event: job.Fail, Now: at, Failure: job.Failure{Message: "no"}})
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	later := now().Add(time.Hour)
	if _, err := l.Apply(t.Context(), later, ledger.Pick{Due: later, Limit: 10}, func(j *job.Job) error {
		return rules().Step(j, job.Move{Event: job.Due, Now: later})
	}); err != nil {
		t.Fatal(err)
	}
	insert(t, l, batch(1, "q", "k"))
	held := claim(t, l, s, "q", 10, "k")
	if len(held) != 2 {
		t.Fatalf("%d jobs", len(held))
	}
	l.endLeases(rows) // it goes on
	for _, j := range held {
		if j.ID != x.ID {
			succeed(t, l, []job.Job{j})
		}
	}
	insert(t, l, batch(1, "q", "k"))
	claim(t, l, s, "q", 1, "k") // removes what has ended
	got, err := l.Get(t.Context(), []job.ID{x.ID})
	if err != nil || len(got) != 1 || got[0].State != job.Running {
		t.Fatalf("the job that runs is %v, %v", got[0].State, err)
	}
}

// Claims of all forms that wait for one another get by with few connections.
func TestClaimsOfFewConnections(t *testing.T) {
	l := openAt(t, testenv.Postgres(t), Options{MaxConns: 2})
	l.few = -1
	s := session(t, l)
	insert(t, l, batch(10, "q", "k"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for n := range 6 {
		wg.Go(func() {
			kinds := []string{"k"}
			if n%2 == 0 {
				kinds = nil // every kind: by rows
			}
			for range 300 {
				if _, err := l.Claim(ctx, now(), []ledger.Claim{{Session: s, Call: 1, Queue: "q", Kinds: kinds, Max: 1, MaxBytes: 1 << 20}}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A claim by blocks does not wait for whoever removes blocks.
func TestClaimDoesNotWaitForRemoval(t *testing.T) {
	l := openBlocks(t)
	s := session(t, l)
	insert(t, l, batch(10, "q", "k"))
	succeed(t, l, claim(t, l, s, "q", 1, "k"))
	c := connect(t, l.listenDSN)
	// As a removal of many blocks is while it still looks at others.
	if _, err := c.Exec(t.Context(), "BEGIN; DELETE FROM errand.lease_block b WHERE NOT "+blockLives, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	claim(t, l, s, "q", 1, "k")
	if d := time.Since(start); d > time.Second {
		t.Errorf("a claim waited %v for the removal of blocks", d)
	}
}

// The id of a block that is given out again, as after a fail-over that lost the last values of the sequence, is not
// taken for the one that has ended.
func TestBlockNumberGivenOutTwice(t *testing.T) {
	l := openBlocks(t)
	s := session(t, l)
	insert(t, l, batch(2, "q", "k"))
	succeed(t, l, claim(t, l, s, "q", 1, "k")) // ended, and remembered
	c := connect(t, l.listenDSN)
	if _, err := c.Exec(t.Context(), "DELETE FROM errand.lease_block; ALTER SEQUENCE errand.lease_block_id_seq RESTART", pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	other := blocksAt(t, l.listenDSN)
	x := claim(t, other, s, "q", 1, "k")[0]
	insert(t, l, batch(1, "q", "k"))
	if len(l.leases.ended) != 1 || len(claim(t, l, s, "q", 1, "k")) != 1 || len(l.leases.ended) != 0 {
		t.Fatal("no claim removed what has ended")
	}
	got, err := l.Get(t.Context(), []job.ID{x.ID})
	if err != nil || got[0].State != job.Running {
		t.Errorf("the job that runs is %v, %v", got[0].State, err)
	}
}

// A claim by blocks reads no payloads that it could not take.
func TestBlocksReadNoLargePayloads(t *testing.T) {
	l := openBlocks(t)
	s := session(t, l)
	for range 8 {
		items := batch(8, "q", "k")
		for i := range items {
			items[i].Job.Payload = make([]byte, 1<<20)
		}
		insert(t, l, items)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	out, err := l.Claim(t.Context(), now(), []ledger.Claim{{Session: s, Call: 1, Queue: "q", Kinds: []string{"k"}, Max: 1000, MaxBytes: 1 << 20}})
	if err != nil || len(out[0].Jobs) != 1 {
		t.Fatal(len(out[0].Jobs), err)
	}
	runtime.ReadMemStats(&after)
	if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 16 {
		t.Errorf("a claim bounded to 1 MiB took %d MiB of memory", mib)
	}
}

// errand.complete_v1 in a transaction at REPEATABLE READ, begun behind the lease, beside a change of the job.
func TestCompleteAtRepeatableRead(t *testing.T) {
	l := openBlocks(t)
	insert(t, l, batch(2, "q", "k"))
	jobs := claim(t, l, session(t, l), "q", 2, "k")
	c := connect(t, l.listenDSN)
	if _, err := c.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM errand.lease_block", pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	apply(t, l, job.Release, jobs[0].ID)
	if _, err := l.Upkeep(t.Context(), now().Add(2*blockAge), ledger.Keep{}); err != nil {
		t.Fatal(err)
	}
	var ended bool
	if err := c.QueryRow(t.Context(), "SELECT errand.complete_v1($1, 1)", uuidArg(jobs[1].ID)).Scan(&ended); err != nil || !ended {
		t.Error(ended, err)
	}
	if err := c.QueryRow(t.Context(), "SELECT errand.complete_v1($1, 1)", uuidArg(jobs[0].ID)).Scan(&ended); sqlState(err) != "40001" {
		t.Error(ended, err)
	}
}

// A process that has stopped inside a claim, or an Apply, keeps no other one from the jobs for long.
func TestFrozenClaimant(t *testing.T) {
	for holds, most := range map[string]time.Duration{"_shared": time.Second, "": 5 * time.Second} {
		l := openBlocks(t)
		s := session(t, l)
		insert(t, l, batch(10, "q", "k"))
		c := connect(t, l.listenDSN)
		if _, err := c.Exec(t.Context(), "BEGIN; "+settings+"; "+blockPatience.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exec(t.Context(), "SELECT pg_advisory_xact_lock"+holds+"($1, $2)", lockLeasing, leasingKeys([]string{"q"})[0]); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if n := len(claim(t, l, s, "q", 1, "k")); n != 1 {
			t.Errorf("%d jobs", n)
		}
		if d := time.Since(start); d > most {
			t.Errorf("a claim waited %v for a frozen process that holds the lock%s", d, holds)
		}
	}
}

// A process that has stopped while it reads the jobs of a claim by blocks keeps nobody from them for long: the
// server, which waits for it to read on, ends it.
func TestFrozenReader(t *testing.T) {
	l := openBlocks(t)
	s := session(t, l)
	for range 20 {
		items := batch(200, "q", "k")
		for i := range items {
			items[i].Job.Payload = make([]byte, 4000) // more together than the sockets hold
		}
		insert(t, l, items)
	}
	cfg, err := pgx.ParseConfig(l.listenDSN)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(cfg.Host, "/") {
		t.Skip("a Unix socket has no such timeout")
	}
	frozen := make(chan struct{})
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return &freezingConn{c, frozen}, err
	}
	c, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"BEGIN; " + settings + "; " + blockPatience.sql,
		fmt.Sprintf("SELECT pg_advisory_xact_lock(%d, %d)", lockLeasing, leasingKeys([]string{"q"})[0])} {
		if _, err := c.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	close(frozen)
	go func() {
		_, _ = c.Exec(context.Background(), "SELECT payload FROM errand.job_row", pgx.QueryExecModeSimpleProtocol)
	}()
	sees := func(sql string) bool { return number(t, l, "SELECT count(*) FROM pg_stat_activity WHERE "+sql) > 0 }
	for end := time.Now().Add(10 * time.Second); !sees("wait_event = 'ClientWrite' AND datname = current_database()"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the server does not wait for a reader")
		}
	}
	start := time.Now()
	if n := len(claim(t, l, s, "q", 1, "k")); n != 1 {
		t.Errorf("%d jobs", n)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("a claim waited %v for a process that does not read", d)
	}
}

// freezingConn reads nothing once it is frozen.
type freezingConn struct {
	net.Conn
	frozen chan struct{}
}

func (c *freezingConn) Read(b []byte) (int, error) {
	select {
	case <-c.frozen:
		select {}
	default:
		return c.Conn.Read(b)
	}
}

// A queue whose lock was not to be had in time is read by rows for a while, without waiting for it anew; and
// by blocks again after that.
func TestLockedQueueIsReadByRows(t *testing.T) {
	l := openBlocks(t)
	s := session(t, l)
	insert(t, l, batch(10, "q", "k"))
	c := connect(t, l.listenDSN)
	if _, err := c.Exec(t.Context(), fmt.Sprintf("BEGIN; SELECT pg_advisory_xact_lock_shared(%d, %d)", lockLeasing, leasingKeys([]string{"q"})[0]),
		pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	req := []ledger.Claim{{Session: s, Call: 1, Queue: "q", Kinds: []string{"k"}, Max: 1, MaxBytes: 1 << 20}}
	// lockedAt sets when the lock was not to be had, so that no stall of the machine ends the pause.
	lockedAt := func(at time.Time) {
		l.marks.mu.Lock()
		defer l.marks.mu.Unlock()
		last := l.marks.claimed["q"]
		if last.locked.IsZero() {
			t.Fatal("it is not remembered that the lock was not to be had")
		}
		last.locked = at
		l.marks.claimed["q"] = last
	}
	for n := range 3 {
		if l.blocksExpected(req) != (n == 0) {
			t.Fatalf("claim %d: by blocks: %t", n, n > 0)
		}
		if len(claim(t, l, s, "q", 1, "k")) != 1 {
			t.Fatal("no job")
		}
		lockedAt(time.Now().Add(time.Hour))
	}
	if n := blocksIn(t, l); n != 0 {
		t.Errorf("%d blocks", n)
	}
	lockedAt(time.Now().Add(-2 * lockedPause))
	if !l.blocksExpected(req) {
		t.Error("by rows for good")
	}
}

// A claim that finds nothing says nothing of how many jobs come at once.
func TestBurstsAreLeasedInBlocks(t *testing.T) {
	l := open(t)
	s := session(t, l)
	for i := range 3 {
		insert(t, l, batch(500, "q", "k"))
		got := claim(t, l, s, "q", 1000, "k")
		if n := rowsIn(t, l, job.Running); len(got) != 500 || i > 0 && n != 0 {
			t.Fatalf("burst %d: %d jobs, %d of them by rows", i, len(got), n)
		}
		succeed(t, l, got)
		claim(t, l, s, "q", 1000, "k") // dry
	}
}

// A queue with some payloads that are too large for a block is not read by blocks in vain.
func TestSomeLargePayloads(t *testing.T) {
	l := open(t)
	s := session(t, l)
	for range 6 {
		items := batch(100, "q", "k")
		for i := 10; i < len(items); i += 20 {
			items[i].Job.Payload = make([]byte, plainPayload+1)
		}
		insert(t, l, items)
	}
	claim(t, l, s, "q", 100, "k")
	for range 5 {
		if l.blocksExpected([]ledger.Claim{{Session: s, Call: 1, Queue: "q", Kinds: []string{"k"}, Max: 100, MaxBytes: 4 << 20}}) {
			t.Fatal("a claim by blocks is tried")
		}
		claim(t, l, s, "q", 100, "k")
	}
}

// A Claim of which every part fails fails.
func TestEveryPartFails(t *testing.T) {
	l := openBlocks(t)
	s := session(t, l)
	var reqs []ledger.Claim
	for _, q := range []string{"a", "b"} {
		reqs = append(reqs, ledger.Claim{Session: s, Call: 1, Queue: q, Kinds: []string{"k"}, Max: 1, MaxBytes: 1 << 20})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if out, err := l.Claim(ctx, now(), reqs); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %+v", err, out)
	}
}

// What others settle is not remembered for ever.
func TestLeasesRememberedAreBounded(t *testing.T) {
	s := newLeases()
	jobs := make([]*job.Job, 1000)
	for range 3 * maxLeases / len(jobs) {
		for i := range jobs {
			jobs[i] = &job.Job{ID: newID(), Token: 1}
		}
		s.add(&block{left: len(jobs)}, jobs)
		if n := len(s.jobs); n > maxLeases || s.jobs[jobs[0].ID].token != 1 {
			t.Fatalf("%d are remembered", n)
		}
	}
}

// The numbers in blocks are hashed, however many they are and whatever memory the server allows by default.
func TestPlansWithManyBlocks(t *testing.T) {
	dsn := testenv.Postgres(t)
	c := connect(t, dsn)
	if _, err := c.Exec(t.Context(), "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 64', current_database()); END $$"); err != nil {
		t.Fatal(err)
	}
	l := openAt(t, dsn, Options{})
	insert(t, l, batch(1000, "q", "k"))
	for _, n := range []int{20, 100, 300, 2000} {
		if _, err := c.Exec(t.Context(), fmt.Sprintf(`TRUNCATE errand.lease_block;
			INSERT INTO errand.lease_block (queue, kind, lane, first_seq, last_seq, session, leased_at, seqs)
			SELECT 'q', 'k', 5, b * 1000 + 1, b * 1000 + 1000, gen_random_uuid(), 1, ARRAY (SELECT b * 1000 + i FROM generate_series(1, 1000) i)
			FROM generate_series(1000, %d) b; ANALYZE`, 999+n), pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
		for what, sql := range map[string]struct {
			text string
			n    int
		}{"claim": {claimSQL, 13}, "few": {claimFewSQL, 12}, "kind": {readKindSQL, 7}, "kinds": {readKindsSQL, 7}, "heads": {headsSQL, 7},
			"rescan": {firstReadySQL, 6}, "pulse of lanes": {anyReadySQL, 4}} {
			if plan := explain(t, l, sql.text, sql.n); strings.Contains(plan, "SubPlan") && !strings.Contains(plan, "hashed SubPlan") {
				i := strings.Index(plan, "SubPlan")
				t.Errorf("%d blocks: %s: %s", n, what, plan[max(0, i-300):min(len(plan), i+900)])
			} else if strings.Contains(plan, "NOT (SubPlan") || strings.Contains(plan, "(ANY") && !strings.Contains(plan, "hashed") {
				t.Errorf("%d blocks: %s: not hashed", n, what)
			}
		}
		rows, err := l.pool.Query(t.Context(), "EXPLAIN SELECT count(*) FROM errand.job_idle WHERE state = 2 AND lane = 5", pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if plan := strings.Join(lines, "\n"); !strings.Contains(plan, "hashed") {
			t.Errorf("%d blocks: idle: %s", n, plan)
		}
	}
}
