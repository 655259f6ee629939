package postgres

import (
	"context"
	"fmt"
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
