package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/errandhq/errand/bench/peers"
	"github.com/errandhq/errand/internal/bench"
)

// report is what every measuring process prints.
type report struct {
	Scenarios   []bench.Result  `json:"scenarios"`
	Environment json.RawMessage `json:"environment,omitempty"`
}

// measure runs one scenario on one system, which finds nothing at address.
func (r *runner) measure(ctx context.Context, sys system, sc scenario, address string) (bench.Result, error) {
	p := r.plan(sys, sc)
	ctx, cancel := context.WithTimeout(ctx, patience(p))
	defer cancel()
	var cmd *exec.Cmd
	switch sys.on {
	case onErrand:
		cmd = r.errandBench(ctx, sc, p, r.ledgerFlags(sys, address)...)
	case onErrandServer:
		s, err := errandServe(ctx, r.errand, ledgerURL(sys.group, address))
		if err != nil {
			return bench.Result{}, err
		}
		defer s.stop()
		cmd = r.errandBench(ctx, sc, p, "--server", s.url)
	case onGo:
		text, err := json.Marshal(p)
		if err != nil {
			return bench.Result{}, err
		}
		cmd = exec.CommandContext(ctx, r.self, "peer", sys.name, sc.of, address, string(text))
	case onNode:
		text, err := nodeArgument(address, sc, p)
		if err != nil {
			return bench.Result{}, err
		}
		cmd = exec.CommandContext(ctx, "node", filepath.Join("node", sys.module+".mjs"), text)
	}
	rep, err := output(cmd)
	if err != nil {
		return bench.Result{}, err
	}
	if rep.Environment != nil {
		r.environment = rep.Environment
	}
	return rep.Scenarios[0], nil
}

// output runs a measuring process to its end.
func output(cmd *exec.Cmd) (report, error) {
	var rep report
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Run(); err != nil {
		return rep, fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, stderr.String())
	}
	if err := json.Unmarshal(stdout.Bytes(), &rep); err != nil {
		return rep, fmt.Errorf("its answer: %w", err)
	}
	if len(rep.Scenarios) != 1 || rep.Scenarios[0].Interrupted {
		return rep, errors.New("its answer has no finished scenario")
	}
	return rep, nil
}

func (r *runner) errandBench(ctx context.Context, sc scenario, p bench.Plan, target ...string) *exec.Cmd {
	args := append([]string{"bench", "-o", "json", "--scenario", sc.of, "--jobs", strconv.Itoa(p.Jobs),
		"--payload", strconv.Itoa(p.Payload), "--producers", strconv.Itoa(p.Producers), "--duration", p.Duration.String()}, target...)
	if p.Rate > 0 {
		args = append(args, "--rate", fmt.Sprint(p.Rate))
	}
	return exec.CommandContext(ctx, r.errand, args...)
}

// ledgerFlags name what the jobs are kept in, what carries them, and where their
// states are: on SQLite the bench makes a file of its own.
func (r *runner) ledgerFlags(sys system, address string) []string {
	switch {
	case sys.group == onSQLite:
		return nil
	case sys.name == "errand-redis":
		return []string{"--ledger", address, "--cache", "redis://" + r.cache}
	case sys.carrier() != sys.name:
		return []string{"--ledger", address, "--broker", r.brokers[sys.carrier()]}
	}
	return []string{"--ledger", address}
}

// ledgerURL names what a server keeps its jobs in.
func ledgerURL(group, address string) string {
	if group == onSQLite {
		return "sqlite:" + address
	}
	return address
}

// served is a server of Errand that was started here.
type served struct {
	url string
	cmd *exec.Cmd
}

// errandServe starts a server on a ledger.
func errandServe(ctx context.Context, errand, ledger string) (*served, error) {
	cmd := exec.Command(errand, "serve", "-o", "json", "--listen", "127.0.0.1:0", "--log-level", "error", "--ledger", ledger)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it is stopped here, not by the terminal
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &served{cmd: cmd}
	var answer struct{ URL string }
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &answer)
	}
	if err != nil || ctx.Err() != nil {
		s.stop()
		return nil, fmt.Errorf("errand serve: %w", errors.Join(err, ctx.Err()))
	}
	s.url = answer.URL
	return s, nil
}

func (s *served) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	_ = s.cmd.Wait()
}

// nodeArgument is what the scripts in node/ take.
func nodeArgument(address string, sc scenario, p bench.Plan) (string, error) {
	type plan struct {
		Jobs      int     `json:"jobs"`
		Payload   int     `json:"payload"`
		Batch     int     `json:"batch"`
		Producers int     `json:"producers"`
		Rate      float64 `json:"rate"`
		Seconds   float64 `json:"seconds"`
	}
	batch := p.Batch
	if batch == 0 {
		batch = 1000
	}
	b, err := json.Marshal(struct {
		Address  string `json:"address"`
		Scenario string `json:"scenario"`
		Plan     plan   `json:"plan"`
	}{address, sc.of, plan{p.Jobs, p.Payload, batch, p.Producers, p.Rate, p.Duration.Seconds()}})
	return string(b), err
}

// runPeer is the measuring process of a peer: "peer NAME SCENARIO ADDRESS PLAN".
func runPeer(ctx context.Context, args []string) error {
	if len(args) != 4 {
		return errors.New("usage: bench peer NAME SCENARIO ADDRESS PLAN")
	}
	open, err := peers.Find(args[0])
	if err != nil {
		return err
	}
	var p bench.Plan
	if err := json.Unmarshal([]byte(args[3]), &p); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	if err := p.Check(); err != nil {
		return err
	}
	load := &bench.Runner{Plan: p, Throwaway: true, Open: func(ctx context.Context, _ string) (bench.System, error) {
		return open(ctx, args[2], p)
	}}
	results, err := load.Run(ctx, strings.Fields(args[1]))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(report{Scenarios: results})
}
