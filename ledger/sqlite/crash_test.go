package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

const crashEnv = "ERRAND_SQLITE_CRASH_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		if err := crashChild(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// crashChild inserts, leases and ends jobs until it is killed, and prints what
// was acknowledged: "in ID" and "done ID".
func crashChild(path string) error {
	ctx := context.Background()
	l, err := Open(ctx, path, Options{})
	if err != nil {
		return err
	}
	session := newID()
	if err := l.OpenSession(ctx, ledger.Session{ID: session, OpenedAt: time.Now(), BeatAt: time.Now()}); err != nil {
		return err
	}
	for {
		items := []ledger.Item{newItem(2000), newItem(10), newItem(10)}
		if _, err := l.Insert(ctx, time.Now(), items); err != nil {
			return err
		}
		for i := range items {
			fmt.Println("in", items[i].Job.ID)
		}
		got, err := l.Claim(ctx, time.Now(), []ledger.Claim{{Session: session, Queue: "q", Max: 2, MaxBytes: 1 << 20}})
		if err != nil {
			return err
		}
		var ends []ledger.Success
		for _, j := range got[0].Jobs {
			ends = append(ends, ledger.Success{ID: j.ID, Token: j.Token})
		}
		if _, err := l.Succeed(ctx, time.Now(), ends); err != nil {
			return err
		}
		for _, e := range ends {
			fmt.Println("done", e.ID)
		}
	}
}

// What was acknowledged before kill -9 is there afterwards, and the counters
// agree with the jobs.
func TestKilledProcessLosesNothing(t *testing.T) {
	path := testPath(t)
	in, done := map[job.ID]bool{}, map[job.ID]bool{}
	for _, lines := range []int{50, 333, 1000} {
		runUntilKilled(t, path, lines, in, done)
		l := testOpen(t, path)
		for id := range in {
			jobs, err := l.Get(t.Context(), []job.ID{id})
			if err != nil || len(jobs) != 1 {
				t.Fatalf("accepted job %s: %d found, %v", id, len(jobs), err)
			}
			if done[id] && jobs[0].State != job.Succeeded {
				t.Fatalf("settled job %s is %s", id, jobs[0].State)
			}
		}
		checkCounters(t, l)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func runUntilKilled(t *testing.T, path string, lines int, in, done map[job.ID]bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scan := bufio.NewScanner(out)
	n := 0
	for ; scan.Scan(); n++ { // what it printed before it died counts too
		if n == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		what, text, _ := strings.Cut(scan.Text(), " ")
		id, err := job.ParseID(text)
		if err != nil {
			continue // a line cut short
		}
		if what == "in" {
			in[id] = true
		} else {
			done[id] = true
		}
	}
	if err := cmd.Wait(); err == nil || n < lines {
		t.Fatalf("the child ended by itself after %d lines: %v", n, err)
	}
}

func checkCounters(t *testing.T, l *Ledger) {
	t.Helper()
	counts, err := l.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		var n int64
		row := l.pool.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM job WHERE state = ?1 AND kind = ?2)
			+ (SELECT count(*) FROM dead WHERE state = ?1 AND kind = ?2)
			+ (SELECT count(*) FROM archive WHERE state = ?1 AND kind = ?2)`, int64(c.State), c.Kind)
		if err := row.Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n != c.N {
			t.Errorf("counter of %s %s says %d, there are %d", c.State, c.Kind, c.N, n)
		}
	}
}
