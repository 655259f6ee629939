package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/errandhq/errand/internal/bench"
	"github.com/errandhq/errand/internal/config"
)

const benchLong = `Put a ledger or a server under load, and say how fast it is.

Without flags a temporary SQLite file is measured, in this process. --ledger
measures a ledger of yours, in this process too; --server a server, with the
producers and workers here. With --broker the jobs of the ledger in this process
go by a carrier; --cache is its fast view of states, in memory by default. The
environment names none of them: load is put only where this command line says.

The jobs are of kind bench, in queues of their own, bench-…; no other job is
touched, and what a scenario leaves is worked off when it ends. So the archive
keeps its jobs for a while, as it keeps all that are done. After Ctrl-C the jobs
are worked off as well; a second one leaves them.

  bulk     batches of 1000 jobs, from all producers
  single   one job a call, from all producers, who share commits
  drain    workers empty a full queue; the clock stops when all is recorded
  latency  one job a call, --rate of them a second (200), to workers that wait
  steady   producers and workers together for --duration: as fast as it goes,
           or at --rate
  pinned   steady beside an open transaction that holds vacuum back
           (--ledger postgres://… only)
  backlog  a tenth of --jobs drained alone, then from the front of all of them

Latency is that of a call in bulk and single; else it goes from the moment the
job was to be enqueued to the start of its handler. At a rate it counts from the
schedule, however late the call was made.

With -o json: {"scenarios":[{"name","jobs","seconds","jobs_per_second","p50_ms",
"p90_ms","p99_ms","p999_ms","max_ms",…}],"environment":{…}}.`

// benchFlags set a run.
type benchFlags struct {
	plan      bench.Plan
	payload   config.Size
	duration  durationFlag
	scenarios []string
	ledger    string
	broker    string
	cache     string
	profile   string
	server    bool // one was named
}

func newBench(a *app) *cobra.Command {
	b := benchFlags{plan: bench.DefaultPlan()}
	b.payload, b.duration = config.Size(b.plan.Payload), durationFlag(b.plan.Duration)
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure a ledger or a server under load", Long: benchLong, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.server = cmd.Flags().Changed("server")
			if err := b.check(); err != nil {
				return err
			}
			return a.bench(cmd.Context(), &b)
		},
	}
	f := cmd.Flags()
	f.StringVar(&b.ledger, "ledger", "", "ledger to measure in this process: sqlite:PATH or postgres://… (default: a temporary SQLite file)")
	f.StringVar(&b.broker, "broker", "", "carrier of ready jobs, beside the ledger in this process: amqp://… or kafka://HOST,HOST…")
	f.StringVar(&b.cache, "cache", "", "fast view of job states in this process: memory, none, redis://… or rediss://… (default: memory)")
	f.StringSliceVar(&b.scenarios, "scenario", []string{bench.Bulk, bench.Single, bench.Drain, bench.Latency, bench.Steady},
		"what to measure, in this order: "+strings.Join(bench.Scenarios(), ", "))
	f.IntVar(&b.plan.Jobs, "jobs", b.plan.Jobs, "jobs of a scenario that counts them")
	f.Var(&b.payload, "payload", "size of a payload")
	f.IntVar(&b.plan.Producers, "producers", b.plan.Producers, "calls to enqueue at a time")
	f.IntVar(&b.plan.Workers, "workers", b.plan.Workers, "workers")
	f.IntVar(&b.plan.Concurrency, "concurrency", b.plan.Concurrency, "jobs at a time, of each worker")
	f.Float64Var(&b.plan.Rate, "rate", 0, "jobs a second in latency and steady (default: 200 in latency, as fast as it goes in steady)")
	f.Var(&b.duration, "duration", "how long latency, steady and pinned go on")
	f.StringVar(&b.profile, "cpu-profile", "", "file for a CPU profile of this process while the first scenario is measured, for go tool pprof")
	return cmd
}

// check puts the plan together and says what is wrong with the flags.
func (b *benchFlags) check() error {
	b.plan.Payload, b.plan.Duration = int(b.payload), time.Duration(b.duration)
	if err := b.plan.Check(); err != nil {
		return usageError("--%w", err)
	}
	if b.server && b.ledger != "" {
		return usageError("--server and --ledger are both given: the load goes to one of them")
	}
	if len(b.scenarios) == 0 {
		return usageError("--scenario is empty; it may name %s", strings.Join(bench.Scenarios(), ", "))
	}
	for _, s := range b.scenarios {
		if !slices.Contains(bench.Scenarios(), s) {
			return usageError("--scenario: %q is not one of %s", clip(s), strings.Join(bench.Scenarios(), ", "))
		}
	}
	if b.server && b.broker != "" {
		return usageError("--server and --broker are both given: a server has brokers of its own")
	}
	if b.server && b.cache != "" {
		return usageError("--server and --cache are both given: a server has a cache of its own")
	}
	_, addr, err := b.settings()
	if err != nil {
		return usageError("--%w", err)
	}
	if slices.Contains(b.scenarios, bench.Pinned) && (b.server || addr.Engine != config.Postgres) {
		return usageError("--scenario pinned holds a transaction open in PostgreSQL: it needs --ledger postgres://…")
	}
	return nil
}

// settings are those of a server, for the parts that run in this process.
func (b *benchFlags) settings() (config.Server, config.Ledger, error) {
	conf := config.Default()
	conf.Ledger = b.ledger
	if b.broker != "" {
		conf.Broker = config.Addresses{b.broker}
	}
	if b.cache != "" {
		conf.Cache = b.cache
	}
	if err := conf.Check(); err != nil {
		return conf, config.Ledger{}, err
	}
	addr, err := conf.LedgerAddress()
	return conf, addr, err
}

// benchReport is the answer.
type benchReport struct {
	Scenarios   []bench.Result   `json:"scenarios"`
	Environment benchEnvironment `json:"environment"`
}

func (a *app) bench(ctx context.Context, b *benchFlags) error {
	target, err := a.newBenchTarget(ctx, b)
	if err != nil {
		return err
	}
	profile, err := newCPUProfile(b.profile)
	if err != nil {
		return err
	}
	giveUp, done := secondSignal(ctx)
	defer done()
	if !target.throwaway {
		defer context.AfterFunc(ctx, func() { a.warnf("stopping: working off what is left; Ctrl-C again leaves it") })()
	}
	bar := &benchProgress{w: a.stderr, shown: isTerminal(a.stderr)}
	r := &bench.Runner{
		Plan: b.plan, Open: target.open, Throwaway: target.throwaway, Pin: target.pin, GiveUp: giveUp,
		Measuring: profile.measuring, Progress: bar.show,
	}
	if !bar.shown {
		r.Progress = nil
	}
	results, err := r.Run(ctx, b.scenarios)
	bar.finish()
	err = errors.Join(err, profile.close())
	report := benchReport{Scenarios: results, Environment: target.environment}
	return errors.Join(err, a.out.value(report, func() { a.printBench(report) }))
}

// cpuProfile is a profile of the first piece of work that is measured, and of
// nothing else.
type cpuProfile struct {
	file *os.File // nil: none
	over bool
	err  error
}

func newCPUProfile(path string) (p *cpuProfile, err error) {
	p = &cpuProfile{over: path == ""}
	if path != "" {
		if p.file, err = os.Create(path); err != nil {
			return nil, usageError("--cpu-profile: %w", err)
		}
	}
	return p, nil
}

func (p *cpuProfile) measuring(on bool) {
	switch {
	case p.over:
	case on:
		p.err = pprof.StartCPUProfile(p.file)
	default:
		p.over = true
		pprof.StopCPUProfile()
	}
}

func (p *cpuProfile) close() error {
	if p.file == nil {
		return nil
	}
	return errors.Join(p.err, p.file.Close())
}

// secondSignal returns a context that the second SIGINT or SIGTERM ends: the
// first has ended ctx by then.
func secondSignal(ctx context.Context) (giveUp context.Context, done func()) {
	giveUp, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		var sig os.Signal
		for range 2 {
			select {
			case sig = <-signals:
			case <-giveUp.Done():
				return
			}
		}
		cancel(interrupted{sig})
	}()
	return giveUp, func() { signal.Stop(signals); cancel(nil) }
}
