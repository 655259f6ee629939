package postgres

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/job"
)

// explain returns the plan of a statement as the ledger's transactions get it.
func explain(t *testing.T, l *Ledger, sql string, args ...any) string {
	t.Helper()
	var b strings.Builder
	err := l.inTx(t.Context(), "explain", func(tx *tx) error {
		return tx.run(t.Context(), step{sql: "EXPLAIN " + sql, args: args, scan: func(r pgx.Rows) error {
			var line string
			err := r.Scan(&line)
			b.WriteString(line + "\n")
			return err
		}})
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
		ids, tokens := make([]job.ID, 100), make([]int64, 100)
		for i := range ids {
			ids[i], tokens[i] = newID(), 1
		}
		plan := explain(t, l, succeedSQL, uuids(ids), tokens, make([][]byte, 100), int64(1), int64(0))
		expect(t, when+": succeed", plan, "using job_pkey", "Tid Scan")
		plan = explain(t, l, claimSQL, "q", []string{"k"}, []int16{5}, []int64{0}, []int16{5}, 100, int64(1), uuidArg(newID()), int64(1), int64(1<<40), true)
		expect(t, when+": claim", plan, "using job_ready", "Tid Scan")
		plan = explain(t, l, firstReadySQL, []string{"q"}, []string{"k"}, []int16{5}, []int64{0}, []int64{9}, int64(1))
		expect(t, when+": rescan", plan, "job_ready")
		plan = explain(t, l, updateSQL, updateSteps([]*job.Job{{ID: ids[0]}})[0].args...)
		expect(t, when+": update", plan, "using job_pkey")
		plan = explain(t, l, "SELECT id FROM errand.job WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE SKIP LOCKED", uuids(ids))
		expect(t, when+": lock by id", plan, "using job_pkey")
		plan = explain(t, l, "SELECT ctid FROM errand.job WHERE state = 1 AND run_at <= $1 ORDER BY run_at LIMIT $2 FOR UPDATE SKIP LOCKED", int64(1), 10)
		expect(t, when+": due", plan, "using job_due")
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
	for _, bad := range []string{"Seq Scan on job", "Bitmap Heap Scan on job", "Seq Scan on archive"} {
		if strings.Contains(plan, bad) {
			t.Errorf("%s: the plan has %q:\n%s", what, bad, plan)
		}
	}
}
