package postgres

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
)

func TestMigrationsAreNumberedWithoutGaps(t *testing.T) {
	for i, m := range migrations() {
		if m.number != i+1 {
			t.Errorf("migration %s stands at place %d", m.name, i+1)
		}
	}
}

func TestMigrateTwiceAndAtOnce(t *testing.T) {
	dsn := testenv.Postgres(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	applied := 0
	for range 6 {
		wg.Go(func() {
			names, err := Migrate(t.Context(), dsn)
			mu.Lock()
			defer mu.Unlock()
			applied += len(names)
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if applied != len(migrations()) {
		t.Errorf("%d migrations were applied, %d exist", applied, len(migrations()))
	}
	if names, err := Migrate(t.Context(), dsn); err != nil || len(names) != 0 {
		t.Errorf("once more: %v %v", names, err)
	}
	all, err := Status(t.Context(), dsn)
	if err != nil || len(all) != len(migrations()) {
		t.Fatalf("status: %v %v", all, err)
	}
	for _, m := range all {
		if m.AppliedAt.IsZero() {
			t.Errorf("%s is pending", m.Name)
		}
	}
}

func TestMigrateCheckRefusesPending(t *testing.T) {
	dsn := testenv.Postgres(t)
	_, err := Open(t.Context(), dsn, Options{Migrate: MigrateCheck})
	if job.ReasonOf(err) != job.ReasonSchemaTooOld {
		t.Errorf("an empty database: %v", err)
	}
	all, err := Status(t.Context(), dsn)
	if err != nil || !all[0].AppliedAt.IsZero() {
		t.Errorf("status of an empty database: %v %v", all, err)
	}
	openAt(t, dsn, Options{})
	openAt(t, dsn, Options{Migrate: MigrateCheck})
}

func TestSchemaThatIsNotOurs(t *testing.T) {
	for name, change := range map[string]string{
		"newer":   "INSERT INTO errand.migration (number, name, checksum) VALUES (9999, '9999_future', 'x')",
		"changed": "UPDATE errand.migration SET checksum = 'x' WHERE number = 1",
	} {
		t.Run(name, func(t *testing.T) {
			dsn := testenv.Postgres(t)
			if _, err := Migrate(t.Context(), dsn); err != nil {
				t.Fatal(err)
			}
			if _, err := connect(t, dsn).Exec(t.Context(), change); err != nil {
				t.Fatal(err)
			}
			_, err := Open(t.Context(), dsn, Options{})
			if job.ReasonOf(err) != job.ReasonSchemaTooNew || job.CodeOf(err) != job.FailedPrecondition {
				t.Errorf("open: %v", err)
			}
			if _, err := Migrate(t.Context(), dsn); job.ReasonOf(err) != job.ReasonSchemaTooNew {
				t.Errorf("migrate: %v", err)
			}
			if _, err := Status(t.Context(), dsn); job.ReasonOf(err) != job.ReasonSchemaTooNew {
				t.Errorf("status: %v", err)
			}
		})
	}
}

// What Print says, run by hand, is what Open wants to find.
func TestPrintIsWhatOpenWants(t *testing.T) {
	dsn := testenv.Postgres(t)
	c := connect(t, dsn)
	if _, err := c.Exec(t.Context(), Print(), pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	openAt(t, dsn, Options{Migrate: MigrateCheck})
}

func TestOpenErrors(t *testing.T) {
	ctx := context.Background()
	if _, err := Open(ctx, "postgres://[::broken", Options{}); job.CodeOf(err) != job.InvalidArgument {
		t.Errorf("a broken address: %v", err)
	}
	closed := "postgres://postgres@127.0.0.1:1/x?sslmode=disable"
	if _, err := Open(ctx, closed, Options{}); job.CodeOf(err) != job.Unavailable || job.ReasonOf(err) != job.ReasonLedgerDown {
		t.Errorf("a closed port: %v", err)
	}
}

// A role whose default is synchronous_commit = off still gets durable commits.
func TestSynchronousCommitIsTurnedOn(t *testing.T) {
	dsn := testenv.Postgres(t)
	c := connect(t, dsn)
	var db string
	if err := c.QueryRow(t.Context(), "SELECT current_database()").Scan(&db); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "ALTER DATABASE "+db+" SET synchronous_commit = off"); err != nil {
		t.Fatal(err)
	}
	for _, pooler := range []bool{false, true} {
		l := openAt(t, dsn, Options{Pooler: pooler})
		got := ""
		err := l.inTx(t.Context(), "ask", func(tx *tx) error {
			return tx.commit(t.Context(), step{sql: "SHOW synchronous_commit", scan: func(r pgx.Rows) error { return r.Scan(&got) }})
		})
		if err != nil || got != "on" {
			t.Errorf("pooler %v: synchronous_commit is %q, %v", pooler, got, err)
		}
	}
}

func TestFenceRaisesTokens(t *testing.T) {
	l := open(t)
	insert(t, l, fresh(ready("q", "k"), ready("q", "k")))
	held := claim(t, l, session(t, l), "q", 1, "k")
	n, err := l.Fence(t.Context())
	if err != nil || n != 2 {
		t.Fatalf("fence: %d %v", n, err)
	}
	if ok := succeed(t, l, held); ok[0] {
		t.Error("a token from before the fence was taken")
	}
}

func TestPoolerParameter(t *testing.T) {
	for dsn, want := range map[string]bool{
		"postgres://u@h/db?pgbouncer=true&sslmode=disable": true,
		"postgres://u@h/db?sslmode=disable":                false,
		"host=h user=u pgbouncer=true":                     true,
		"host=h user=u":                                    false,
	} {
		_, pooler, err := poolConfig(dsn, Options{})
		if err != nil || pooler != want || strings.Contains(stripPoolerParam(dsn), "pgbouncer") {
			t.Errorf("%s: %v %v", dsn, pooler, err)
		}
	}
}

// A ledger of before the blocks is brought up to date with jobs waiting and running, and roles keep their rights.
func TestUpgradeToBlocks(t *testing.T) {
	dsn := testenv.Postgres(t)
	c := connect(t, dsn)
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := c.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(ensureHistory)
	for _, m := range migrations()[:5] {
		exec(m.text)
		exec("INSERT INTO errand.migration (number, name, checksum) VALUES ($1, $2, $3)", m.number, m.name, m.sum)
	}
	role := strings.ReplaceAll("role_"+newID().String(), "-", "")
	exec("CREATE ROLE " + role)
	t.Cleanup(func() { // the role is the server's, not the database's
		own, err := pgx.Connect(context.Background(), dsn)
		if err == nil {
			_, err = own.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role)
			_ = own.Close(context.Background())
		}
		if err != nil {
			t.Error(err)
		}
	})
	exec("GRANT USAGE ON SCHEMA errand TO " + role)
	exec("GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA errand TO " + role)
	s := newID()
	exec("INSERT INTO errand.session (id, worker, version, concurrency, ttl_us, state, beat, opened_at, beat_at) VALUES ($1, 'w', '', 1, 1, 1, 1, 1, 1)", uuidArg(s))
	exec(`INSERT INTO errand.job (id, queue, kind, state, priority, lane, seq, run_at, created_at, max_attempts, digest, token, attempt, session, leased_at)
		SELECT gen_random_uuid(), 'q', 'k', CASE WHEN g <= 10 THEN 3 ELSE 2 END, 5, 5, g, 1, 1, 25, 7, (g <= 10)::int, (g <= 10)::int,
			CASE WHEN g <= 10 THEN $1::uuid END, CASE WHEN g <= 10 THEN 5 END FROM generate_series(1, 30) g`, uuidArg(s))
	l := blocksAt(t, dsn)
	jobs := claim(t, l, s, "q", 100, "k")
	if len(jobs) != 20 || blocksIn(t, l) != 1 {
		t.Fatalf("%d jobs in %d blocks", len(jobs), blocksIn(t, l))
	}
	held, err := l.Held(t.Context(), []job.ID{s})
	if err != nil || len(held) != 30 {
		t.Fatalf("%d are held, %v", len(held), err)
	}
	for _, h := range held {
		if ok := succeed(t, l, []job.Job{{ID: h.ID, Token: h.Token}}); !ok[0] {
			t.Fatalf("job %s under token %d", h.ID, h.Token)
		}
	}
	exec("SET ROLE " + role)
	id, _, err := enqueue(t, c, "k", `{"queue":"q"}`)
	if err != nil {
		t.Fatalf("the role may not enqueue: %v", err)
	}
	promote(t, l)
	got := claim(t, l, s, "q", 10, "k")
	if len(got) != 1 || got[0].ID != id {
		t.Fatalf("%d jobs", len(got))
	}
	exec("SELECT errand.complete_v1($1, $2)", uuidArg(id), got[0].Token)
}
