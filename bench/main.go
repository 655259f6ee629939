// Command bench measures Errand and its peers side by side: in one run, on the
// same servers, with the same work, in interleaved rounds. It writes a table, a
// plot and the raw figures.
//
//	make bench                                                    everything
//	make bench PEERS=river,graphile SCENARIOS=drain ROUNDS=3 JOBS=20000
//	make bench-footprint                                          what a server needs: see footprint.go
//
// Each measurement is a process of its own on an empty database: `errand bench`
// for Errand, as users run it, and this program or a script on Node for a peer.
// All take their figures by the same load: internal/bench, or node/load.mjs,
// which is its twin.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options is what one run is to do.
type options struct {
	errand    string // the binary
	peers     []string
	scenarios []string
	rounds    int
	jobs      int
	payload   int
	rate      float64
	duration  time.Duration
	out       string // directory of the outcome
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "peer":
		err = runPeer(ctx, os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "footprint":
		err = runFootprint(ctx, os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "plot":
		err = runPlot(os.Args[2:])
	default:
		err = runAll(ctx, os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func runAll(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	r := &runner{options: o, started: time.Now(), load: loadAverage()}
	err = r.run(ctx)
	if len(r.figures) == 0 {
		return err
	}
	// Also after an interruption: what was measured is true.
	return errors.Join(err, r.write())
}

func parse(args []string) (options, error) {
	var o options
	var peerList, scenarioList string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.errand, "errand", "", "the errand binary")
	f.StringVar(&peerList, "peers", "all", "systems to measure beside Errand, with commas between: "+strings.Join(systemNames(), ", "))
	f.StringVar(&scenarioList, "scenarios", "bulk,drain,single16,single64,latency,steady", "scenarios, with commas between: "+strings.Join(scenarioNames(), ", "))
	f.IntVar(&o.rounds, "rounds", 9, "rounds")
	f.IntVar(&o.jobs, "jobs", 100_000, "jobs of bulk and drain; a fifth of them in single")
	f.IntVar(&o.payload, "payload", 100, "bytes of a payload")
	f.Float64Var(&o.rate, "rate", 200, "jobs a second in latency")
	f.DurationVar(&o.duration, "duration", 10*time.Second, "of latency and steady")
	f.StringVar(&o.out, "out", "", "directory for results.md, results.svg and results.json (default: print the table only)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.scenarios = strings.Split(scenarioList, ",")
	o.peers = strings.Split(peerList, ",")
	if peerList == "all" {
		o.peers = systemNames()
	}
	return o, o.check()
}

func (o options) check() error {
	if o.errand == "" {
		return errors.New("-errand is missing: the binary to measure")
	}
	if o.rounds < 1 || o.jobs < 100 || o.payload < 32 || o.rate < 1 || o.duration < time.Second {
		return errors.New("at least one round, 100 jobs, 32 bytes, 1 job a second and 1s are needed")
	}
	for _, s := range o.scenarios {
		if !slices.Contains(scenarioNames(), s) {
			return fmt.Errorf("-scenarios: %q is not one of %s", s, strings.Join(scenarioNames(), ", "))
		}
	}
	for _, p := range o.peers {
		if !slices.Contains(systemNames(), p) {
			return fmt.Errorf("-peers: %q is not one of %s", p, strings.Join(systemNames(), ", "))
		}
	}
	return nil
}

// loadAverage says how busy the machine was beforehand, as far as it tells.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}
