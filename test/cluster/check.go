package cluster

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/test/cluster/order"
)

// AwaitIdle waits until nothing is scheduled, ready or running.
func (c *Cluster) AwaitIdle() {
	c.T.Helper()
	c.Eventually("all jobs have ended", func() (bool, string) {
		queues, err := c.Client().Queues(c.T.Context())
		if err != nil {
			return false, err.Error()
		}
		var live int64
		for _, q := range queues {
			live += q.Scheduled + q.Ready + q.Running
		}
		return live == 0, fmt.Sprintf("%d are live: %+v", live, queues)
	})
}

// jobs are all jobs of the ledger by id. One that is listed twice is an error.
func (c *Cluster) jobs() map[errand.ID]*errand.JobInfo {
	c.T.Helper()
	found := map[errand.ID]*errand.JobInfo{}
	for j, err := range c.Client().List(c.T.Context(), errand.ListQuery{PageSize: 1000}) {
		if err != nil {
			c.T.Fatalf("list: %v", err)
		}
		if twice := found[j.ID]; twice != nil {
			c.T.Errorf("job %s is in the ledger twice: %s and %s", j.ID, twice.State, j.State)
		}
		found[j.ID] = j
	}
	return found
}

// Check holds the ledger and the workers' logs against the promises, after
// AwaitIdle: every accepted job has ended, exactly once; the ledger holds no
// other jobs; its counters agree with what it holds; no token was given twice
// and none out of order; two hands never held a job at once; no result under an
// old token was taken. Overlapping runs are allowed where a worker was frozen
// past its lease (frozen): there the token alone protects.
func (c *Cluster) Check(l *Load, frozen bool) {
	c.T.Helper()
	jobs := c.jobs()
	c.checkEnds(l, jobs)
	c.checkCounters(jobs)
	c.checkRuns(jobs, frozen)
	c.checkTables()
}

func (c *Cluster) checkEnds(l *Load, jobs map[errand.ID]*errand.JobInfo) {
	c.T.Helper()
	ends := map[string]int{}
	for id := range l.accepted {
		j := jobs[id]
		switch {
		case j == nil:
			c.T.Errorf("accepted job %s is lost", id)
		case j.State == errand.Succeeded, j.State == errand.Dead && j.Reason == "crashed":
			ends[string(j.State)]++
		default:
			c.T.Errorf("job %s ended %s (%s), crashes %d, attempt %d of %d", id, j.State, j.Reason, j.Crashes, j.Attempt, j.MaxAttempts)
		}
	}
	for id, j := range jobs {
		if _, ok := l.accepted[id]; !ok {
			c.T.Errorf("job %s (%s) is in the ledger, and nobody enqueued it", id, j.State)
		}
	}
	c.T.Logf("%d accepted: %v", len(l.accepted), ends)
}

func (c *Cluster) checkCounters(jobs map[errand.ID]*errand.JobInfo) {
	c.T.Helper()
	type key struct {
		queue string
		state errand.State
	}
	held := map[key]int64{}
	for _, j := range jobs {
		held[key{j.Queue, j.State}]++
	}
	queues, err := c.Client().Queues(c.T.Context())
	if err != nil {
		c.T.Fatal(err)
	}
	for _, q := range queues {
		for state, n := range map[errand.State]int64{
			errand.Scheduled: q.Scheduled, errand.Ready: q.Ready, errand.Running: q.Running,
			errand.Succeeded: q.Succeeded, errand.Dead: q.Dead, errand.Cancelled: q.Cancelled,
		} {
			if want := held[key{q.Queue, state}]; n != want {
				c.T.Errorf("the counter of %s in queue %s says %d; the ledger holds %d", state, q.Queue, n, want)
			}
		}
	}
}

// span is one run of a handler. A run whose worker died has no end.
type span struct {
	worker     int
	token      int64
	start, end int64
}

// spans are the runs of each job, by token.
func spans(c *Cluster, runs []order.Run) map[string][]span {
	c.T.Helper()
	byJob := map[string][]span{}
	for _, r := range runs {
		list := byJob[r.Job]
		at := slices.IndexFunc(list, func(s span) bool { return s.token == r.Token })
		switch {
		case r.Event == "start" && at >= 0:
			c.T.Errorf("job %s was begun twice under token %d, by processes %d and %d", r.Job, r.Token, list[at].worker, r.Worker)
		case r.Event == "start":
			list = append(list, span{worker: r.Worker, token: r.Token, start: r.At})
		case at < 0:
			c.T.Errorf("job %s ended under token %d without a beginning", r.Job, r.Token)
		default:
			list[at].end = r.At
		}
		byJob[r.Job] = list
	}
	for _, list := range byJob {
		slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.token, b.token) })
	}
	return byJob
}

func (c *Cluster) checkRuns(jobs map[errand.ID]*errand.JobInfo, frozen bool) {
	c.T.Helper()
	for name, list := range spans(c, c.Runs()) {
		id, err := errand.ParseID(name)
		if err != nil || jobs[id] == nil {
			c.T.Errorf("job %s was run and is not in the ledger", name)
			continue
		}
		if last := list[len(list)-1]; jobs[id].Token < last.token {
			c.T.Errorf("job %s has token %d in the ledger; it was run under %d", name, jobs[id].Token, last.token)
		}
		for i := 1; i < len(list); i++ {
			before, after := list[i-1], list[i]
			if after.start < before.start {
				c.T.Errorf("job %s: token %d was begun before token %d", name, after.token, before.token)
			}
			if before.end > after.start && !frozen {
				c.T.Errorf("job %s ran twice at once: under %d in process %d and under %d in process %d",
					name, before.token, before.worker, after.token, after.worker)
			}
		}
	}
}

// checkTables asks the database itself what no API shows.
func (c *Cluster) checkTables() {
	c.T.Helper()
	for _, q := range []struct{ what, sql string }{
		{"jobs still live", "SELECT count(*) FROM {job}"},
		{"results taken under an old token", "SELECT count(*) FROM {archive} WHERE state = 4 AND settled_token <> token"},
		{"successes nobody settled", "SELECT count(*) FROM {archive} WHERE state = 4 AND settled_token IS NULL"},
		{"ends without a time", "SELECT count(*) FROM {archive} WHERE done_at IS NULL"},
	} {
		if n := c.Count(q.sql); n != 0 {
			c.T.Errorf("%d %s", n, q.what)
		}
	}
}

// Count runs a counting query against the ledger's own tables, which it names
// in braces.
func (c *Cluster) Count(query string) int {
	c.T.Helper()
	driver, dsn, prefix := "pgx", c.Ledger, "errand."
	if path, ok := strings.CutPrefix(c.Ledger, "sqlite:"); ok {
		driver, dsn, prefix = "sqlite", "file:"+path+"?mode=ro&_pragma=busy_timeout(5000)", ""
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		c.T.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(c.T.Context(), Patience)
	defer cancel()
	query = strings.NewReplacer("{", prefix, "}", "").Replace(query)
	var n int
	if err := db.QueryRowContext(ctx, query).Scan(&n); err != nil {
		c.T.Fatalf("%s: %v", query, err)
	}
	return n
}
