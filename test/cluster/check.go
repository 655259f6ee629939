package cluster

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/history"
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

// jobs are all jobs of the ledger, as it lists them, with their results.
func (c *Cluster) jobs() []*errand.JobInfo {
	c.T.Helper()
	var found []*errand.JobInfo
	for j, err := range c.Client().List(c.T.Context(), errand.ListQuery{PageSize: 1000}) {
		if err != nil {
			c.T.Fatalf("list: %v", err)
		}
		found = append(found, j)
	}
	for page := range slices.Chunk(found, 1000) {
		ids := make([]errand.ID, len(page))
		for i, j := range page {
			ids[i] = j.ID
		}
		full, err := c.Client().Jobs(c.T.Context(), ids...)
		if err != nil {
			c.T.Fatalf("get the jobs listed: %v", err)
		}
		results := map[errand.ID][]byte{}
		for _, j := range full {
			results[j.ID] = j.Result
		}
		for _, j := range page {
			j.Result = results[j.ID]
		}
	}
	return found
}

// Check holds the ledger and the workers' logs against the promises, after
// AwaitIdle: what history.Judge says of them, that the ledger's counters agree with what it
// holds, and its tables with both. Overlapping runs are allowed where a worker was frozen
// past its lease (frozen): there the token alone protects.
func (c *Cluster) Check(l *Load, frozen bool) {
	c.T.Helper()
	c.Judge(&history.History{Accepted: l.Promises(), Frozen: frozen})
}

// Judge is Check of a history that has more to tell; jobs and runs are added to it.
func (c *Cluster) Judge(h *history.History) history.Verdict {
	c.T.Helper()
	h.Jobs, h.Runs = c.jobs(), joined(c.T, c.Runs())
	v := h.Judge()
	for i, found := range v.Violations {
		if i == 50 {
			c.T.Errorf("and %d more", len(v.Violations)-i)
			break
		}
		c.T.Error(found)
	}
	c.T.Logf("%d accepted: %v", len(h.Accepted), v.Ends)
	c.checkCounters(h.Jobs)
	c.checkTables()
	return v
}

// joined makes runs of their beginnings and ends.
func joined(t testing.TB, log []order.Run) []history.Run {
	t.Helper()
	type key struct {
		worker int
		job    string
		token  int64
	}
	at := map[key]int{}
	var out []history.Run
	for _, r := range log {
		k := key{r.Worker, r.Job, r.Token}
		if r.Event == "end" {
			if i, ok := at[k]; ok {
				out[i].End, out[i].Failed = r.At, r.Error != ""
			} else {
				t.Errorf("job %s ended under token %d without a beginning", r.Job, r.Token)
			}
			continue
		}
		id, err := errand.ParseID(r.Job)
		if err != nil {
			t.Errorf("worker's log: %v", err)
		}
		at[k] = len(out)
		out = append(out, history.Run{Job: id, Token: r.Token, Worker: fmt.Sprintf("process %d", r.Worker), Start: r.At})
	}
	return out
}

func (c *Cluster) checkCounters(jobs []*errand.JobInfo) {
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
