package postgres

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// headsSQL reads the refs of the first jobs in the order of a claim: see seenSQL.
var headsSQL = "WITH " + wantSQL + "), " + seenSQL("j.id, j.token, j.kind, j.lane, j.run_at") + " SELECT id, token, kind, lane, seq, run_at FROM seen"

// Heads implements ledger.Carried. Claims of this process and Heads share the
// marks and their rescans. Heads takes nothing and moves no mark: what it saw
// first may not be what is first, as commits come late. Where nobody claims, the
// rescans move the marks on behind the jobs that others take.
func (l *Ledger) Heads(ctx context.Context, now time.Time, reqs []ledger.Head) ([]ledger.Headed, error) {
	if len(reqs) == 0 {
		return nil, nil
	}
	if _, err := l.rescanLanes(ctx, now, l.markedLanes(reqs)); err != nil {
		return nil, err
	}
	var answers []ledger.Headed
	err := l.inTx(ctx, "heads", func(t *tx) (err error) {
		answers, err = t.heads(ctx, now, reqs)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

// heads is one try.
func (t *tx) heads(ctx context.Context, now time.Time, reqs []ledger.Head) ([]ledger.Headed, error) {
	seed := newQueueState()
	queues := make([]string, len(reqs))
	for i := range reqs {
		queues[i] = reqs[i].Queue
	}
	if err := t.run(ctx, append(seed.kindsSteps(reqs), seed.pausedStep(queues))...); err != nil {
		return nil, err
	}
	answers := make([]ledger.Headed, len(reqs))
	var steps []step
	for i := range reqs {
		r, a := &reqs[i], &answers[i]
		lanes := lanesIn(r.Queue, seed.kindsOf(r.Queue, r.Kinds))
		if a.Paused = seed.paused[r.Queue]; a.Paused || r.Max <= 0 || len(lanes) == 0 {
			continue
		}
		steps = append(steps, step{sql: headsSQL, args: t.l.readLanes(r.Queue, lanes).args(r.Max, now), scan: func(rows pgx.Rows) error {
			v := rowReader{vals: rows.RawValues()}
			a.Refs = append(a.Refs, ledger.Ref{ID: v.uuid(), Token: v.int8(), Kind: v.str(), Lane: job.Lane(v.int2()), Seq: v.int8(), RunAt: coldsql.Time(v.int8())})
			return v.err
		}})
	}
	if err := t.end(ctx, steps...); err != nil {
		return nil, err
	}
	for i := range answers {
		slices.SortFunc(answers[i].Refs, func(a, b ledger.Ref) int {
			return cmp.Or(cmp.Compare(a.Lane, b.Lane), cmp.Compare(a.Seq, b.Seq))
		})
	}
	return answers, nil
}
