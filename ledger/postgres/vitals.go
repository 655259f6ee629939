package postgres

import (
	"context"
	"time"

	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

var (
	_ ledger.Examined = (*Ledger)(nil)
	_ ledger.Pooled   = (*Ledger)(nil)
)

// vitalsSQL looks at catalogues and statistics only. What holds dead rows in
// place is a snapshot of this database's own connections, or a replication slot
// or a prepared transaction, which hold them everywhere. When another role's
// transaction began is seen only by members of pg_read_all_stats; the
// age in transactions is seen by everybody.
const vitalsSQL = `SELECT
	(SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
		WHERE c.relnamespace = 'errand'::regnamespace AND c.relkind = 'r'),
	(SELECT coalesce(max(age(held.xmin)), 0)::bigint FROM (
		SELECT backend_xmin AS xmin FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
		UNION ALL SELECT xmin FROM pg_replication_slots
		UNION ALL SELECT transaction FROM pg_prepared_xacts WHERE database = current_database()) AS held),
	(SELECT coalesce(extract(epoch FROM clock_timestamp() - min(open.since)) * 1000000, 0)::bigint FROM (
		SELECT xact_start AS since FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
		UNION ALL SELECT prepared FROM pg_prepared_xacts WHERE database = current_database()) AS open),
	coalesce(s.n_dead_tup, 0), coalesce(s.n_live_tup, 0),
	coalesce((extract(epoch FROM greatest(s.last_vacuum, s.last_autovacuum)) * 1000000)::bigint, 0)
	FROM (SELECT 1) AS one LEFT JOIN pg_stat_user_tables s ON s.relid = 'errand.job_row'::regclass`

// Vitals implements ledger.Examined.
func (l *Ledger) Vitals(ctx context.Context) (ledger.Vitals, error) {
	var v ledger.Vitals
	var w ledger.Vacuum
	var open, cleaned int64
	err := l.pool.QueryRow(ctx, vitalsSQL).Scan(&v.Bytes, &w.XminAge, &open, &w.DeadRows, &w.LiveRows, &cleaned)
	if err != nil {
		return v, wrap("examine the database", err)
	}
	w.OldestOpen = max(time.Duration(open)*time.Microsecond, 0)
	w.LastCleaned = coldsql.Time(cleaned)
	if v.OldestDead, err = l.cold.OldestDead(ctx); err != nil {
		return v, err
	}
	v.Vacuum = &w
	return v, nil
}

// Pool implements ledger.Pooled.
func (l *Ledger) Pool() ledger.Pool {
	s := l.pool.Stat()
	return ledger.Pool{
		Max: int(s.MaxConns()), Open: int(s.TotalConns()), Busy: int(s.AcquiredConns()),
		Waits: s.EmptyAcquireCount(), Waited: s.EmptyAcquireWaitTime(), GaveUp: s.CanceledAcquireCount(),
	}
}
