package sqlite

import (
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// lease is what a settle needs of a job that this process leased, so that it need
// not be looked up. Memory holds one for each running job at the most; there is
// none of a job that was leased before a restart or changed since its lease,
// and that is then read from its row.
type lease struct {
	rid, token int64
	was        ledger.Succeeded // what its success will answer
	key        string
	mode       job.UniqueMode
}

// remember keeps leases in memory, for as long as the op's transaction stands.
func (t *tx) remember(rows []candidate) {
	for i := range rows {
		j := &rows[i].job
		t.mem.leases[j.ID] = lease{
			rid: rows[i].rid, token: j.Token, key: j.UniqueKey, mode: j.UniqueMode,
			was: ledger.Succeeded{
				OK: true, Queue: j.Queue, Kind: j.Kind, Priority: j.Priority, Attempt: j.Attempt, MaxAttempts: j.MaxAttempts,
				Crashes: j.Crashes, Version: j.Version + 1, CreatedAt: j.CreatedAt, RunAt: j.RunAt, LeasedAt: j.LeasedAt,
			},
		}
	}
	t.undo = append(t.undo, func() {
		for i := range rows {
			delete(t.mem.leases, rows[i].job.ID)
		}
	})
}
