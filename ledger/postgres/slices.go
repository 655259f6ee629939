package postgres

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Advisory locks of the class lockClass, all of them held for a transaction
// only. The number is Errand's own: "errd" in ASCII.
const (
	lockClass   = 0x65727264
	lockWriting = 1 // shared: draws order numbers and has not ended
	lockPausing = 2 // shared by claims, exclusive for SetPaused
	lockFolding = 3
	lockSlices  = 4
	lockMigrate = 5
	lockStats   = 6
	// lockSuspects is the class of locks whose second key is a session's hash.
	lockSuspects = lockClass + 1
	// lockLeasing is the class of locks whose second key is a queue's hash: see blocks.go.
	lockLeasing = lockClass + 2
)

// sliceSet remembers which archive slices exist. Not knowing one costs a look.
type sliceSet struct {
	mu    sync.Mutex
	known map[int64]bool
}

func (s *sliceSet) has(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[n]
}

func (s *sliceSet) add(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil || len(s.known) > 10000 {
		s.known = map[int64]bool{}
	}
	s.known[n] = true
}

// forget is for a slice that was dropped, or found missing.
func (s *sliceSet) forget(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, n)
}

// sliceAhead is how many slices beyond the present one Upkeep makes.
const sliceAhead = 3

// makeSlices makes the slices that will be needed soon.
func (l *Ledger) makeSlices(ctx context.Context, now time.Time) (made int, err error) {
	for n := sliceOf(now); n <= sliceOf(now)+sliceAhead; n++ {
		ok, err := l.ensureSlice(ctx, n)
		if err != nil {
			return made, err
		}
		if ok {
			made++
		}
	}
	return made, nil
}

// ensureSlice makes one archive slice if it is missing, and reports whether it did. The
// table is made on its own and then attached, which unlike CREATE … PARTITION
// OF shuts nobody out of the archive.
func (l *Ledger) ensureSlice(ctx context.Context, n int64) (made bool, err error) {
	if l.slices.has(n) {
		return false, nil
	}
	err = l.inTx(ctx, "make an archive slice", func(t *tx) error {
		made = false
		exists := false
		name := sliceName(n)
		err := t.run(ctx,
			step{sql: "SELECT pg_advisory_xact_lock($1, $2)", args: []any{lockClass, lockSlices}},
			step{sql: "SELECT to_regclass($1) IS NOT NULL", args: []any{name},
				scan: func(r pgx.Rows) error { return r.Scan(&exists) }})
		if err != nil {
			return err
		}
		if exists {
			return t.commit(ctx)
		}
		// The simple protocol: statements that depend on each other.
		from, to := n*sliceLen.Microseconds(), (n+1)*sliceLen.Microseconds()
		_, err = t.conn.Exec(ctx, fmt.Sprintf(`CREATE TABLE %[1]s (LIKE errand.archive INCLUDING DEFAULTS);
			ALTER TABLE errand.archive ATTACH PARTITION %[1]s FOR VALUES FROM (%[2]d) TO (%[3]d)`, name, from, to),
			pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return err
		}
		made = true
		return t.commit(ctx)
	})
	if err == nil {
		l.slices.add(n)
	}
	return made, err
}

// dropSlices drops every slice whose last moment lies at or before limit, each
// in a transaction of its own that waits for its lock only a moment: a
// reader in its way is asked again at the next call, and nobody queues behind.
func (l *Ledger) dropSlices(ctx context.Context, limit time.Time) (dropped int, err error) {
	names, err := l.sliceNames(ctx)
	if err != nil {
		return 0, err
	}
	for _, n := range names {
		if n >= sliceOf(limit) {
			continue
		}
		err := l.inTx(ctx, "drop an archive slice", func(t *tx) error {
			err := t.run(ctx,
				step{sql: "SELECT set_config('lock_timeout', '100ms', true)"},
				step{sql: "SELECT pg_advisory_xact_lock($1, $2)", args: []any{lockClass, lockSlices}},
				step{sql: "DROP TABLE IF EXISTS " + sliceName(n)},
				step{sql: "DELETE FROM errand.counter_total WHERE slice = $1", args: []any{n}},
				step{sql: "DELETE FROM errand.counter_delta WHERE slice = $1", args: []any{n}})
			if err != nil {
				return err
			}
			return t.commit(ctx)
		})
		switch {
		case sqlState(err) == stateLockTimeout:
			l.log.Info("an archive slice is in use and is dropped later", "slice", sliceName(n))
			return dropped, nil
		case err != nil:
			return dropped, err
		}
		l.slices.forget(n)
		dropped++
	}
	return dropped, nil
}

func sliceName(n int64) string { return fmt.Sprintf("errand.archive_%d", n) }

// sliceNames returns the numbers of the slices that exist, oldest first.
func (l *Ledger) sliceNames(ctx context.Context) ([]int64, error) {
	rows, err := l.pool.Query(ctx, `SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'errand.archive'::regclass ORDER BY 1`)
	if err != nil {
		return nil, wrap("list archive slices", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, wrap("list archive slices", err)
	}
	var out []int64
	for _, name := range names {
		var n int64
		if _, err := fmt.Sscanf(strings.TrimPrefix(name, "archive_"), "%d", &n); err == nil {
			out = append(out, n)
		}
	}
	return out, nil
}
