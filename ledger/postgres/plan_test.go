package postgres

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// explain returns the plan of a statement as the ledger's transactions get it:
// the generic one.
func explain(t *testing.T, l *Ledger, sql string, params int) string {
	t.Helper()
	nulls := strings.TrimSuffix(strings.Repeat("NULL, ", params), ", ")
	var b strings.Builder
	err := l.inTx(t.Context(), "explain", func(tx *tx) error {
		if err := tx.run(t.Context()); err != nil {
			return err
		}
		if _, err := tx.conn.Exec(t.Context(), "PREPARE hot AS "+sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		rows, err := tx.conn.Query(t.Context(), "EXPLAIN EXECUTE hot ("+nulls+")", pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return err
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		b.WriteString(strings.Join(lines, "\n"))
		_, err = tx.conn.Exec(t.Context(), "DEALLOCATE hot", pgx.QueryExecModeSimpleProtocol)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The hot statements use the index that they were written for, with no
// statistics, with those of an empty table, and with those of a full one.
func TestPlans(t *testing.T) {
	l := open(t)
	check := func(when string) {
		expect(t, when+": succeed", explain(t, l, succeedSQL, 6), "using job_pkey", "using unique_key_pkey", "Tid Scan")
		expect(t, when+": succeed alike", explain(t, l, succeedAlikeSQL, 5), "using job_pkey", "using unique_key_pkey", "Tid Scan")
		expect(t, when+": succeed in blocks", explain(t, l, succeedBlockSQL, 6), "using job_pkey", "using unique_key_pkey", "Tid Scan")
		expect(t, when+": claim", explain(t, l, claimSQL, 13), "using job_ready", "using job_suspect", "Tid Scan")
		expect(t, when+": claim of few", explain(t, l, claimFewSQL, 12), "using job_ready", "using job_suspect", "using unique_key_pkey", "Tid Scan")
		expect(t, when+": claim by name", explain(t, l, namedSQL, 10), "using job_pkey", "Tid Scan")
		expect(t, when+": read a kind for blocks", explain(t, l, readKindSQL, 7), "using job_ready", "using lease_block_lane")
		expect(t, when+": read kinds for blocks", explain(t, l, readKindsSQL, 7), "using job_ready", "using lease_block_lane", "Tid Scan")
		expect(t, when+": leases of others", explain(t, l, adoptSQL, 2), "using job_pkey", "using lease_block_lane")
		expect(t, when+": blocks of jobs", explain(t, l, blockOfSQL, 4), "using lease_block_lane")
		expect(t, when+": held", explain(t, l, heldSQL, 1), "using job_running", "using lease_block_session", "using job_ready")
		expect(t, when+": orphans in blocks", explain(t, l, pickHeldSQL("SELECT id FROM errand.session WHERE state = 3"), 2),
			"using lease_block_session", "using job_ready", "Tid Scan")
		expect(t, when+": heads", explain(t, l, headsSQL, 7), "using job_ready")
		expect(t, when+": rescan", explain(t, l, firstReadySQL, 6), "job_ready")
		expect(t, when+": update", explain(t, l, updateSQL, 22), "using job_pkey", "Tid Scan")
		expect(t, when+": lock by id",
			explain(t, l, "SELECT id FROM errand.job_row WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE SKIP LOCKED", 1), "using job_pkey")
		expect(t, when+": due",
			explain(t, l, "SELECT ctid FROM errand.job_row WHERE state = 1 AND run_at <= $1 ORDER BY run_at LIMIT $2 FOR UPDATE SKIP LOCKED", 2),
			"using job_due")
		expect(t, when+": dead letters among new ids", explain(t, l, nearSQL, 2), "using dead_pkey")
		expect(t, when+": pulse", explain(t, l, pulseSQL, 4), "using job_due", "using job_expires", "using job_running", "using job_cancel", "using session_pkey")
		expect(t, when+": pulse of lanes", explain(t, l, anyReadySQL, 4), "using job_ready")
		key := takeUniqueSteps(now(), nil, nil, nil, nil)[0].sql
		expect(t, when+": ended windows", explain(t, l, key, 3), "using unique_key_pkey", "Tid Scan")
	}
	check("no statistics")
	c := connect(t, l.listenDSN)
	for _, n := range []int{0, 20_000} {
		for done := 0; done < n; done += 1000 {
			insert(t, l, batch(1000, "q", "k"))
		}
		if _, err := c.Exec(t.Context(), "ANALYZE"); err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprintf("%d jobs", n))
	}
}

func expect(t *testing.T, what, plan string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(plan, part) {
			t.Errorf("%s: the plan has no %q:\n%s", what, part, plan)
		}
	}
	for _, bad := range []string{"Seq Scan on job_row", "Seq Scan on lease_block", "NOT (SubPlan", "Bitmap Heap Scan on job_row", "Seq Scan on archive"} {
		if strings.Contains(plan, bad) {
			t.Errorf("%s: the plan has %q:\n%s", what, bad, plan)
		}
	}
}
