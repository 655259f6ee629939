package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// The server is killed under load: every error says Unavailable or ErrUnknown,
// and what was acknowledged is there afterwards.
func TestServerKilled(t *testing.T) {
	srv := testenv.StartPostgres(t, testenv.Options{})
	l := openAt(t, srv.DSN("postgres"), Options{MaxConns: 4})
	var mu sync.Mutex
	accepted := map[job.ID]bool{}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				items := batch(50, "q", "k")
				_, err := l.Insert(t.Context(), now(), items)
				if err != nil {
					if job.CodeOf(err) != job.Unavailable && !errors.Is(err, job.ErrUnknown) {
						t.Errorf("an untyped error: %v", err)
					}
					<-time.After(10 * time.Millisecond)
					continue
				}
				mu.Lock()
				for i := range items {
					accepted[items[i].Job.ID] = true
				}
				mu.Unlock()
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(accepted)
	}
	until(t, 20*time.Second, "2,000 jobs are in", func() bool { return count() >= 2000 })
	srv.Kill()
	srv.Start()
	before := count()
	until(t, 20*time.Second, "work goes on after the restart", func() bool { return count() > before })
	stop()
	wg.Wait()
	var ids []job.ID
	for id := range accepted {
		ids = append(ids, id)
	}
	got, err := l.Get(t.Context(), ids)
	if err != nil || len(got) != len(accepted) {
		t.Fatalf("%d of %d acknowledged jobs are there: %v", len(got), len(accepted), err)
	}
}

// A row that a claim skipped, because another process held it in a transaction that
// was then rolled back, is behind the mark, and is found.
func TestRolledBackClaimIsFound(t *testing.T) {
	l := open(t)
	s := session(t, l)
	items := batch(20, "q", "k")
	insert(t, l, items)
	c := connect(t, l.listenDSN)
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT FROM errand.job_row ORDER BY seq LIMIT 5 FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	if n := len(claim(t, l, s, "q", 20, "k")); n != 15 {
		t.Fatalf("claimed %d beside the locks", n)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	found := 0
	until(t, 500*time.Millisecond, "the skipped jobs are found", func() bool {
		found += len(claim(t, l, s, "q", 20, "k"))
		return found == 5
	})
}

// Late commits under many hands and several processes: none stays behind.
func TestNothingStaysBehindTheMarks(t *testing.T) {
	dsn := testenv.Postgres(t)
	a, b := openAt(t, dsn, Options{MaxConns: 6}), openAt(t, dsn, Options{MaxConns: 6})
	const batches, size = 60, 40
	var wg sync.WaitGroup
	work := make(chan int, batches)
	for n := range batches {
		work <- n
	}
	close(work)
	for _, l := range []*Ledger{a, b, a, b} {
		wg.Go(func() {
			for n := range work {
				items := batch(size, "q", fmt.Sprintf("k%d", n%3))
				if _, err := l.Insert(t.Context(), now(), items); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var mu sync.Mutex
	seen := map[job.ID]bool{}
	total := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
	for _, l := range []*Ledger{a, b, b} {
		s := session(t, l)
		wg.Go(func() {
			deadline := time.Now().Add(30 * time.Second)
			for total() < batches*size && time.Now().Before(deadline) {
				out, err := l.Claim(t.Context(), now(), []ledger.Claim{{Session: s, Call: 1, Queue: "q", Max: 25}})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, j := range out[0].Jobs {
					if seen[j.ID] {
						t.Errorf("job %s was claimed twice", j.ID)
					}
					seen[j.ID] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if total() != batches*size {
		t.Errorf("%d of %d jobs were found", total(), batches*size)
	}
}

// TestPgBouncer drives a job through its life behind a real pooler in transaction mode,
// with fewer server connections than clients.
func TestPgBouncer(t *testing.T) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			t.Fatal("this test needs pgbouncer (Debian package pgbouncer): scripts/test-services installs it as root")
		}
	}
	srv := testenv.StartPostgres(t, testenv.Options{})
	dsn := startBouncer(t, program, srv)
	l := openAt(t, dsn, Options{MaxConns: 8, ListenDSN: srv.DSN("postgres")})
	var wg sync.WaitGroup
	for range 6 {
		s := session(t, l)
		wg.Go(func() {
			for range 10 {
				if _, err := l.Insert(t.Context(), now(), batch(20, "q", "k")); err != nil {
					t.Error(err)
					return
				}
				jobs := claim(t, l, s, "q", 20)
				for _, ok := range succeed(t, l, jobs) {
					if !ok {
						t.Error("a settle was refused")
					}
				}
			}
		})
	}
	wg.Wait()
	heard := make(chan string, 10)
	ctx, stop := context.WithCancel(t.Context())
	wg.Go(func() {
		if err := l.Listen(ctx, func(q string) { heard <- q }); err != nil {
			t.Error(err)
		}
	})
	if q := <-heard; q != "" {
		t.Errorf("first heard %q", q)
	}
	if err := l.Wake(t.Context(), []string{"q"}); err != nil {
		t.Error(err)
	}
	if q := <-heard; q != "q" {
		t.Errorf("heard %q", q)
	}
	stop()
	wg.Wait()
}

// startBouncer runs pgbouncer in transaction mode before srv and returns the address to use.
func startBouncer(t *testing.T, program string, srv *testenv.Server) string {
	t.Helper()
	host, port, _ := strings.Cut(srv.Address(), ":")
	dir, err := os.MkdirTemp("", "errand-bouncer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listen := testenv.FreePort(t)
	ini := fmt.Sprintf("[databases]\n* = host=%s port=%s user=postgres\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port=%d\nunix_socket_dir=\n"+
		"auth_type=any\npool_mode=transaction\ndefault_pool_size=3\nmax_client_conn=100\n", host, port, listen)
	file := filepath.Join(dir, "bouncer.ini")
	if err := os.WriteFile(file, []byte(ini), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, file)
	if os.Geteuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	dsn := fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable&pgbouncer=true", listen)
	until(t, 10*time.Second, "the pooler answers", func() bool {
		c, err := pgx.Connect(t.Context(), stripPoolerParam(dsn))
		if err != nil {
			return false
		}
		_ = c.Close(t.Context())
		return true
	})
	return dsn
}
