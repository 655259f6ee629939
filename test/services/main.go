// Command services runs a command with the servers that the tests need, each
// started once for the whole run:
//
//	services [--only NAME,NAME] COMMAND [ARG...]
//
// It starts them side by side on loopback, with their files in a temporary
// directory, tells the command of them by environment variables, and stops
// them when the command ends, however it ends. A variable that is set already means "use
// that server". A server that does not start fails the run. Signals go to the
// command, whose exit status is ours. scripts/test-services installs what is missing and calls this.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/errandhq/errand/internal/testenv"
)

// part is a server that may be wanted.
type part struct {
	name  string
	env   string
	serve func(dir string) (*testenv.Service, error)
}

var parts = []part{
	{"postgres", testenv.Env, testenv.ServePostgres},
	{"rabbitmq", testenv.RabbitMQEnv, testenv.ServeRabbitMQ},
	{"kafka", testenv.KafkaEnv, testenv.ServeKafka},
	{"redis", testenv.RedisEnv, testenv.ServeRedis},
}

func main() {
	only := flag.String("only", "", "names of the servers that are wanted, with commas between them (default: all)")
	flag.Parse()
	chosen, err := choose(*only)
	if err == nil && flag.NArg() == 0 {
		err = errors.New("no command is given")
	}
	if err != nil {
		say("%v", err)
		os.Exit(2)
	}
	status, err := run(chosen, flag.Args())
	if err != nil {
		say("%v", err)
	}
	os.Exit(status)
}

// say tells the person who waits: the command's own output stays apart.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "test-services: "+format+"\n", args...) }

// choose returns the parts named in a list, or all.
func choose(only string) ([]part, error) {
	if only == "" {
		return parts, nil
	}
	var out []part
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no server is named %q", name)
		}
		out = append(out, parts[i])
	}
	return out, nil
}

// run starts the parts, runs the command and stops the parts. It returns the exit status.
func run(chosen []part, command []string) (status int, err error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	dir, err := os.MkdirTemp("", "errand-services-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { // servers run as other users
		return 1, err
	}
	services, err := start(chosen, dir)
	defer func() { err = errors.Join(err, stop(services)) }()
	if err != nil {
		return 1, err
	}
	select {
	case s := <-signals:
		return 128 + int(s.(syscall.Signal)), nil
	default:
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = os.Environ()
	for _, s := range services {
		cmd.Env = append(cmd.Env, s.Env+"="+s.Address)
	}
	return follow(cmd, signals)
}

// start starts all parts at once, but for those that are up elsewhere. With the error it
// returns those that did start.
func start(chosen []part, dir string) ([]*testenv.Service, error) {
	services, errs := make([]*testenv.Service, len(chosen)), make([]error, len(chosen))
	var group sync.WaitGroup
	for i, p := range chosen {
		if os.Getenv(p.env) != "" {
			say("%s: the one that %s names", p.name, p.env)
			continue
		}
		group.Go(func() {
			begin := time.Now()
			if services[i], errs[i] = p.serve(dir); errs[i] != nil {
				errs[i] = fmt.Errorf("%s does not start: %w", p.name, errs[i])
				return
			}
			say("%s is up after %s", p.name, time.Since(begin).Round(time.Millisecond))
		})
	}
	group.Wait()
	return slices.DeleteFunc(services, func(s *testenv.Service) bool { return s == nil }), errors.Join(errs...)
}

func stop(services []*testenv.Service) error {
	var errs []error
	for _, s := range services {
		errs = append(errs, s.Stop())
	}
	return errors.Join(errs...)
}

// follow runs the command, hands signals on to it, and returns its status.
func follow(cmd *exec.Cmd, signals <-chan os.Signal) (int, error) {
	if err := cmd.Start(); err != nil {
		return 127, err
	}
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				_ = cmd.Process.Signal(s) // it may just have ended
			case <-ended:
				return
			}
		}
	}()
	err := cmd.Wait()
	close(ended)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 1, err
	}
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}
