package observe

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/internal/testenv"
)

// statementsVar set makes each run of the benchmark print what PostgreSQL spent by
// statement: by pg_stat_statements, which costs both sides of a pair something. The log
// of a benchmark has not room for it.
const statementsVar = "ERRAND_COST_STATEMENTS"

// costSettings are those of the benchmark's PostgreSQL.
func costSettings() map[string]string {
	s := map[string]string{"max_wal_size": "8GB", "checkpoint_timeout": "1h", "autovacuum": "off"} // their time is nobody's run's
	if os.Getenv(statementsVar) != "" {
		s["shared_preload_libraries"] = "pg_stat_statements"
	}
	return s
}

// countStatements begins to count, and returns what prints the counts, for each of jobs.
func countStatements(b *testing.B, pg *testenv.Server, title string, jobs int) func() {
	b.Helper()
	if os.Getenv(statementsVar) == "" {
		return func() {}
	}
	pg.Exec("postgres", "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
	pg.Exec("postgres", "SELECT pg_stat_statements_reset(), pg_stat_reset_shared('wal')")
	return func() {
		conn, err := pgx.Connect(b.Context(), pg.DSN("postgres"))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close(b.Context())
		text := &strings.Builder{}
		var records, bytes, writes, syncs float64
		if err := conn.QueryRow(b.Context(), "SELECT wal_records, wal_bytes::float8, wal_write, wal_sync FROM pg_stat_wal").Scan(
			&records, &bytes, &writes, &syncs); err != nil {
			b.Fatal(err)
		}
		n := float64(jobs)
		fmt.Fprintf(text, "%s: WAL %.2f records, %.0f B a job; %.0f writes, %.0f syncs\n", title, records/n, bytes/n, writes, syncs)
		rows, err := conn.Query(b.Context(), `SELECT calls::float8, total_exec_time, rows::float8, wal_records::float8, wal_bytes::float8,
			shared_blks_hit::float8, regexp_replace(left(query, 150), '\s+', ' ', 'g')
			FROM pg_stat_statements WHERE total_exec_time > 0.5 ORDER BY total_exec_time DESC LIMIT 30`)
		if err != nil {
			b.Fatal(err)
		}
		for rows.Next() {
			var calls, ms, got, records, bytes, hit float64
			var query string
			if err := rows.Scan(&calls, &ms, &got, &records, &bytes, &hit, &query); err != nil {
				b.Fatal(err)
			}
			fmt.Fprintf(text, "%7.0f calls %6.2f µs/job %7.0f rows %6.2f rec/job %6.0f B/job %6.1f hits/job  %s\n", calls, ms*1e3/n, got, records/n, bytes/n, hit/n, query)
		}
		if err := rows.Err(); err != nil {
			b.Fatal(err)
		}
		fmt.Fprintln(os.Stderr, text)
	}
}
