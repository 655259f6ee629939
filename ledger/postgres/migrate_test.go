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
