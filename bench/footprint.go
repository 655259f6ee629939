package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/bench/services"
)

// footprint measures what a server needs rather than what it reaches: memory
// while it works on a long backlog, and processor time and transactions while
// workers wait and there is nothing to do.
type footprint struct {
	errand  string // the binary
	jobs    int
	workers int
	idle    time.Duration
	dir     string
}

func runFootprint(ctx context.Context, args []string) (err error) {
	var f footprint
	fs := flag.NewFlagSet("bench footprint", flag.ContinueOnError)
	fs.StringVar(&f.errand, "errand", "", "the errand binary")
	fs.IntVar(&f.jobs, "jobs", 1_000_000, "jobs of the backlog")
	only := fs.String("ledger", "", "sqlite or postgres alone")
	fs.IntVar(&f.workers, "workers", 100, "workers that wait")
	fs.DurationVar(&f.idle, "idle", 30*time.Second, "how long they wait")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if f.errand == "" || f.jobs < 1000 || f.workers < 1 || f.idle < time.Second {
		return errors.New("-errand, at least 1000 jobs, one worker and one second are needed")
	}
	if f.dir, err = os.MkdirTemp("", "errand-footprint-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(f.dir)) }()
	if err := os.Chmod(f.dir, 0o755); err != nil { // PostgreSQL refuses root
		return err
	}
	fmt.Printf("| ledger | idle: %d workers, %% of a core | transactions/s | memory idle, MiB | at most, backlog of %d, MiB | after it, MiB | a tenth from its front / alone |\n| --- | --- | --- | --- | --- | --- | --- |\n",
		f.workers, f.jobs)
	if *only != "postgres" {
		if err := f.measure(ctx, onSQLite, filepath.Join(f.dir, "errand.db")); err != nil {
			return fmt.Errorf("SQLite: %w", err)
		}
	}
	if *only == "sqlite" {
		return nil
	}
	pg, err := services.Postgres(ctx, f.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.Stop()) }()
	address, drop, err := services.Database(ctx, pg, "footprint")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	if err := f.measure(ctx, onPostgres, address); err != nil {
		return fmt.Errorf("PostgreSQL: %w", err)
	}
	return nil
}

// measure takes the figures of a server on one ledger and prints their row.
func (f *footprint) measure(ctx context.Context, group, address string) error {
	s, err := errandServe(ctx, f.errand, ledgerURL(group, address))
	if err != nil {
		return err
	}
	defer s.stop()
	count := func(context.Context) (int64, error) { return 0, nil }
	if group == onPostgres {
		count = func(ctx context.Context) (int64, error) { return transactions(ctx, address) }
	}
	busy, rate, err := f.wait(ctx, s, count)
	if err != nil {
		return fmt.Errorf("idle: %w", err)
	}
	idle, err := memory(s, "VmRSS")
	if err != nil {
		return err
	}
	worked, err := output(exec.CommandContext(ctx, f.errand, "bench", "-o", "json", "--server", s.url, "--scenario", "backlog", "--jobs", strconv.Itoa(f.jobs)))
	if err != nil {
		return fmt.Errorf("backlog: %w", err)
	}
	most, err1 := memory(s, "VmHWM")
	after, err2 := memory(s, "VmRSS")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	fmt.Printf("| %s | %.2f | %.1f | %d | %d | %d | %.2f |\n", group, 100*busy, rate, idle, most, after, worked.Scenarios[0].Ratio)
	return nil
}

// wait lets workers wait for jobs that do not come, and returns which part of a core
// the server spent meanwhile, and how many transactions a second there were.
func (f *footprint) wait(ctx context.Context, s *served, count func(context.Context) (int64, error)) (busy, rate float64, err error) {
	working, stop := context.WithCancel(ctx)
	defer stop()
	var crew errgroup.Group
	for i := range f.workers {
		c, err := errand.Dial(s.url) // each as if it were a process of its own
		if err != nil {
			return 0, 0, err
		}
		defer func() { _ = c.Close() }() // its worker has ended
		w := &errand.Worker{Client: c, Queues: []string{"idle"}, Name: fmt.Sprint("idle-", i), Concurrency: 10, Logger: slog.New(slog.DiscardHandler)}
		errand.HandleKind(w, "idle", func(context.Context, *errand.RawJob) error { return nil })
		crew.Go(func() error { return w.Run(working) })
	}
	// Until all have come, and PostgreSQL's idle connections have told its statistics of it,
	// which they do ten seconds later.
	if err := sleep(ctx, 13*time.Second); err != nil {
		return 0, 0, err
	}
	began, cpu, err := time.Now(), time.Duration(0), error(nil)
	if cpu, err = processorTime(s); err != nil {
		return 0, 0, err
	}
	before, err := count(ctx)
	if err != nil {
		return 0, 0, err
	}
	if err := sleep(ctx, f.idle); err != nil {
		return 0, 0, err
	}
	spent, err1 := processorTime(s)
	after, err2 := count(ctx)
	took := time.Since(began).Seconds()
	stop()
	err = errors.Join(err1, err2, crew.Wait())
	return (spent - cpu).Seconds() / took, float64(after-before) / took, err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// transactions counts those of a database since it was made, from a connection to it that
// is closed before the next count.
func transactions(ctx context.Context, address string) (n int64, err error) {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()").Scan(&n)
	return n, err
}

// memory is a line of /proc/PID/status, in MiB.
func memory(s *served, name string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := bytes.Cut(b, []byte(name+":"))
	fields := bytes.Fields(rest)
	if !ok || len(fields) == 0 {
		return 0, fmt.Errorf("the process has no %s", name)
	}
	kib, err := strconv.ParseInt(string(fields[0]), 10, 64)
	return kib / 1024, err
}

// processorTime is what the server has spent, in the clock's ticks of 10 ms.
func processorTime(s *served) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // from the third on
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
