package sqlite

import (
	"cmp"
	"context"
	"database/sql/driver"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
	"github.com/errandhq/errand/ledger/coldsql"
)

// Claim implements ledger.Jobs.
func (l *Ledger) Claim(ctx context.Context, now time.Time, reqs []ledger.Claim) ([]ledger.Claimed, error) {
	if len(reqs) == 0 {
		return nil, nil
	}
	var answers []ledger.Claimed
	err := l.w.do(ctx, "claim", func(t *tx) error {
		answers = make([]ledger.Claimed, len(reqs))
		for i := range reqs {
			jobs, err := t.claim(now, &reqs[i])
			if job.ReasonOf(err) == job.ReasonSessionLost {
				answers[i].Err = job.ErrSessionLost
				continue
			}
			if err != nil {
				return err
			}
			answers[i].Jobs = jobs
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answers, nil
}

// candidate is a ready job that a claim may take.
type candidate struct{ rid, seq, size int64 }

func (t *tx) claim(now time.Time, r *ledger.Claim) ([]job.Job, error) {
	var state, one int64
	if _, err := t.c.get("SELECT state FROM session WHERE id = ?", []any{r.Session[:]}, &state); err != nil {
		return nil, err
	}
	if ledger.SessionState(state) != ledger.SessionLive {
		return nil, job.ErrSessionLost
	}
	paused, err := t.c.get("SELECT 1 FROM queue WHERE name = ? AND paused", []any{r.Queue}, &one)
	if paused || err != nil {
		return nil, err
	}
	// Earlier requests of this call have changed the counters.
	if err := t.flush(); err != nil {
		return nil, err
	}
	clear(t.deltas)
	lanes, err := t.readyLanes(r)
	if err != nil {
		return nil, err
	}
	var jobs []job.Job
	bytes := 0
	for lane := job.LaneSuspect; lane <= job.LaneLast && len(jobs) < r.Max; lane++ {
		most := r.Max - len(jobs)
		if lane == job.LaneSuspect && len(lanes[lane]) > 0 {
			holds, err := t.c.get("SELECT 1 FROM job WHERE session = ? AND state = 3 AND crashes > 0 LIMIT 1", []any{r.Session[:]}, &one)
			if err != nil {
				return nil, err
			}
			if holds {
				continue
			}
			most = min(most, 1)
		}
		for _, c := range t.heads(now, r, lanes[lane], lane, most, &err) {
			if len(jobs) > 0 && r.MaxBytes > 0 && bytes+int(c.size) > r.MaxBytes {
				return jobs, nil
			}
			j, err := t.lease(now, r, c.rid)
			if err != nil {
				return nil, err
			}
			bytes += len(j.Payload)
			jobs = append(jobs, j)
		}
		if err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

// readyLanes returns the kinds asked for that have ready jobs, by lane.
func (t *tx) readyLanes(r *ledger.Claim) (map[job.Lane][]string, error) {
	lanes := map[job.Lane][]string{}
	err := t.c.query("SELECT kind, lane FROM counter WHERE queue = ? AND state = 2 AND n > 0", []any{r.Queue},
		func(row []driver.Value) error {
			var kind string
			var lane job.Lane
			err := assign(row, []any{&kind, &lane})
			if len(r.Kinds) == 0 || slices.Contains(r.Kinds, kind) {
				lanes[lane] = append(lanes[lane], kind)
			}
			return err
		})
	return lanes, err
}

// headsSQL reads the first jobs of a lane; job_ready is in its order.
const headsSQL = `SELECT rid, seq, coalesce(length(payload), 0) FROM job INDEXED BY job_ready
	WHERE queue = ? AND kind = ? AND state = 2 AND lane = ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY seq LIMIT ?`

// heads merges the first jobs of the kinds by seq.
func (t *tx) heads(now time.Time, r *ledger.Claim, kinds []string, lane job.Lane, most int, fault *error) []candidate {
	var all []candidate
	for _, kind := range kinds {
		err := t.c.query(headsSQL, []any{r.Queue, kind, int64(lane), coldsql.Micros(now), int64(most)}, func(row []driver.Value) error {
			var c candidate
			err := assign(row, []any{&c.rid, &c.seq, &c.size})
			all = append(all, c)
			return err
		})
		if err != nil {
			*fault = err
			return nil
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(a.seq, b.seq) })
	return all[:min(most, len(all))]
}

// lease does to a row what job.Rules.Step does for Lease.
func (t *tx) lease(now time.Time, r *ledger.Claim, rid int64) (job.Job, error) {
	var call any
	if r.Call != 0 {
		call = r.Call
	}
	got, err := t.jobs(`UPDATE job SET state = 3, token = token + 1, version = version + 1, attempt = attempt + 1,
		session = ?, call = ?, leased_at = ? WHERE rid = ? RETURNING `+coldsql.ColumnList,
		r.Session[:], call, coldsql.Micros(now), rid)
	if err != nil {
		return job.Job{}, err
	}
	j := got[0]
	was := j
	was.State = job.Ready
	t.count(&was, -1)
	t.count(&j, 1)
	if j.UniqueMode == job.WhileQueued {
		err = t.freeKey(&j)
	}
	return j, err
}

// Succeed implements ledger.Jobs.
func (l *Ledger) Succeed(ctx context.Context, now time.Time, items []ledger.Success) ([]bool, error) {
	if len(items) == 0 {
		return nil, nil
	}
	var done []bool
	err := l.w.do(ctx, "succeed", func(t *tx) error {
		done = make([]bool, len(items))
		for i := range items {
			ok, err := t.succeed(now, &items[i])
			if err != nil {
				return err
			}
			done[i] = ok
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return done, nil
}

func (t *tx) succeed(now time.Time, s *ledger.Success) (bool, error) {
	got, err := t.jobs("DELETE FROM job WHERE id = ? AND token = ? AND state = 3 RETURNING "+coldsql.ColumnList, s.ID[:], s.Token)
	if err != nil || len(got) == 0 {
		return false, err
	}
	j := got[0]
	t.count(&j, -1)
	if j.UniqueMode == job.UntilDone {
		if err := t.freeKey(&j); err != nil {
			return false, err
		}
	}
	// The rules need no random numbers for a success.
	if _, err := (job.Rules{}).Settle(&j, s.Token, job.Move{Event: job.Succeed, Now: now, Result: s.Result}); err != nil {
		return false, err
	}
	return true, t.put(&j)
}
