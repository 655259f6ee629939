// Package cluster runs Errand as its users do, as processes of their own:
// servers, workers and a PostgreSQL server, under one test that may kill,
// freeze and restart each, put load on them, and check afterwards that every
// promise was kept.
package cluster

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster/order"
)

// TTL is the time-to-live of sessions in these tests: short, so that a death
// is noticed within the test, yet long for a busy machine.
const TTL = 4 * time.Second

// Patience bounds every wait of these tests.
const Patience = 90 * time.Second

// Cluster is an Errand of one test.
type Cluster struct {
	T       testing.TB
	Dir     string // logs
	Ledger  string // what --ledger gets
	Servers []*Server
	Workers []*Worker
	// Postgres is the database server, where the ledger is on one.
	Postgres *testenv.Server
	// Carriers are nodes of a broker that the test may kill and start again.
	Carriers []Node
	// ServerProgram and WorkerProgram are paths of programs other than the usual ones.
	ServerProgram, WorkerProgram string
	// Env is added to the environment of servers.
	Env []string
	// NoRetries keeps jobs that fail at first out of the load.
	NoRetries bool
	// Queues are those over which the load is spread; the queue "default" if empty.
	Queues []string
	// Repeats hands some of the load's jobs in twice, under the same ids.
	Repeats bool

	client *errand.Client
}

// Node is a process of a part that Errand stands on.
type Node interface {
	Kill()
	Start()
}

// Backends runs f once on each ledger, each time on a new cluster without
// servers. On PostgreSQL it has a database server of its own, with full
// durability.
func Backends(t *testing.T, f func(t *testing.T, c *Cluster)) {
	t.Run("sqlite", func(t *testing.T) { f(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, Postgres(t, testenv.Options{})) })
}

// SQLite makes a cluster on a new SQLite file: it can have one server.
func SQLite(t testing.TB) *Cluster {
	dir := t.TempDir()
	return &Cluster{T: t, Dir: dir, Ledger: "sqlite:" + filepath.Join(dir, "errand.db")}
}

// Postgres makes a cluster on a database server of its own.
func Postgres(t testing.TB, opts testenv.Options) *Cluster {
	t.Helper()
	pg := testenv.StartPostgres(t, opts)
	pg.Exec("postgres", "CREATE DATABASE errand")
	return &Cluster{T: t, Dir: t.TempDir(), Ledger: pg.DSN("errand"), Postgres: pg}
}

// Steady lets the sessions of servers added from now on live so long that no
// stall of the machine ends one: for tests that count every charge.
func (c *Cluster) Steady() { c.Env = append(c.Env, "ERRAND_SESSION_TTL=20s") }

// Server is one `errand serve`.
type Server struct {
	*Process
	c    *Cluster
	port int
	args []string
	runs int
}

// AddServer starts a server on a free port and waits until it is ready. args
// are added to its command line.
func (c *Cluster) AddServer(args ...string) *Server {
	c.T.Helper()
	s := &Server{c: c, port: testenv.FreePort(c.T), args: args}
	c.Servers = append(c.Servers, s)
	s.Start()
	s.AwaitReady()
	return s
}

// URL is the server's address.
func (s *Server) URL() string { return "http://127.0.0.1:" + strconv.Itoa(s.port) }

// Args is what was added to its command line.
func (s *Server) Args() []string { return slices.Clone(s.args) }

// SetArgs replaces what AddServer was given, for the next start.
func (s *Server) SetArgs(args ...string) { s.args = args }

// Start starts the server, on the same port as before, and does not wait.
func (s *Server) Start() {
	s.c.T.Helper()
	program := s.c.ServerProgram
	if program == "" {
		program = Errand(s.c.T)
	}
	s.runs++
	name := fmt.Sprintf("server-%d-%d", s.port, s.runs)
	args := append([]string{"serve", "--ledger", s.c.Ledger, "--listen", fmt.Sprintf("127.0.0.1:%d", s.port)}, s.args...)
	env := append([]string{"ERRAND_SESSION_TTL=" + TTL.String()}, s.c.Env...)
	s.Process = start(s.c.T, s.c.Dir, name, env, program, args...)
}

// AwaitReady waits until the server says that it can serve.
func (s *Server) AwaitReady() {
	s.c.T.Helper()
	s.c.Eventually("server "+s.URL()+" is ready", func() (bool, string) {
		if s.Ended() {
			s.c.T.Fatalf("the server ended:\n%s", tail(s.log))
		}
		return Status(s.URL()+"/readyz") == http.StatusOK, "not ready"
	})
}

// Status is the status code of a GET, or 0.
func Status(url string) int {
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// URLs are the addresses of all servers, as Dial takes them.
func (c *Cluster) URLs() string {
	urls := make([]string, len(c.Servers))
	for i, s := range c.Servers {
		urls[i] = s.URL()
	}
	return strings.Join(urls, ",")
}

// Client is a client of all servers, closed at the end of the test.
func (c *Cluster) Client() *errand.Client {
	c.T.Helper()
	if c.client == nil {
		c.client = c.NewClient()
	}
	return c.client
}

// NewClient makes another client.
func (c *Cluster) NewClient() *errand.Client {
	c.T.Helper()
	client, err := errand.Dial(c.URLs(), errand.WithRetryFor(Patience))
	if err != nil {
		c.T.Fatal(err)
	}
	c.T.Cleanup(func() { _ = client.Close() })
	return client
}

// Worker is one worker process.
type Worker struct {
	*Process
	c      *Cluster
	name   string
	server string
	island *Island // nil: it is where the test is
	args   []string
	runs   int
}

// AddWorker starts a test worker of all servers. args are added to its command line.
func (c *Cluster) AddWorker(args ...string) *Worker { return c.AddWorkerOf(c.URLs(), args...) }

// AddWorkerOf starts a test worker of the addresses given.
func (c *Cluster) AddWorkerOf(server string, args ...string) *Worker {
	c.T.Helper()
	return c.AddWorkerOn(nil, server, args...)
}

// AddWorkerOn is AddWorkerOf on an island, from which it must reach the addresses.
func (c *Cluster) AddWorkerOn(i *Island, server string, args ...string) *Worker {
	c.T.Helper()
	w := &Worker{c: c, name: fmt.Sprintf("worker-%d", len(c.Workers)), server: server, island: i, args: args}
	c.Workers = append(c.Workers, w)
	w.Start()
	return w
}

// Start starts the worker, again with the same log of runs.
func (w *Worker) Start() {
	w.c.T.Helper()
	program := w.c.WorkerProgram
	if program == "" {
		program = Binary(w.c.T, "test/cluster/worker", "worker")
	}
	w.runs++
	args := append([]string{"-server", w.server, "-log", w.runLog()}, w.args...)
	if w.island != nil {
		program, args = "ip", append([]string{"netns", "exec", w.island.name, program}, args...)
	}
	w.Process = start(w.c.T, w.c.Dir, fmt.Sprintf("%s-%d", w.name, w.runs), nil, program, args...)
}

func (w *Worker) runLog() string { return filepath.Join(w.c.Dir, w.name+".runs") }

// Stop asks the worker to drain and waits for its end.
func (w *Worker) Stop() {
	w.c.T.Helper()
	w.Signal(syscall.SIGTERM)
	if code := w.Wait(Patience); code != 0 {
		w.c.T.Errorf("the worker's exit status is %d:\n%s", code, tail(w.log))
	}
}

// Runs are the logs of all workers, each in its order.
func (c *Cluster) Runs() []order.Run {
	c.T.Helper()
	var out []order.Run
	for _, w := range c.Workers {
		out = append(out, readRuns(c.T, w.runLog())...)
	}
	return out
}

// Started waits until some worker has begun the job, and returns the run.
func (c *Cluster) Started(id errand.ID) order.Run {
	c.T.Helper()
	var found order.Run
	c.Eventually("job "+id.String()+" is begun", func() (bool, string) {
		for _, r := range c.Runs() {
			if r.Event == "start" && r.Job == id.String() && r.Token > found.Token {
				found = r
			}
		}
		return found.Token > 0, "not begun"
	})
	return found
}

// AwaitState waits until the job is in the state.
func (c *Cluster) AwaitState(id errand.ID, want errand.State) *errand.JobInfo {
	c.T.Helper()
	var info *errand.JobInfo
	c.Eventually(fmt.Sprintf("job %s is %s", id, want), func() (bool, string) {
		var err error
		if info, err = c.Client().Job(c.T.Context(), id); err != nil {
			return false, err.Error()
		}
		return info.State == want, "it is " + string(info.State)
	})
	return info
}

// Eventually asks until the answer is yes; the text says what stood instead.
func (c *Cluster) Eventually(what string, yes func() (bool, string)) {
	c.T.Helper()
	deadline := time.Now().Add(Patience)
	for {
		ok, instead := yes()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			c.T.Fatalf("after %s it is still not so that %s: %s", Patience, what, instead)
		}
		c.pause(50 * time.Millisecond)
	}
}

// pause is the interval of polls, and of load and faults that are spread over time.
func (c *Cluster) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.T.Context().Done():
	}
}

// Stalls watches how the machine holds this process up, until the function it
// returns is called, which tells by how much a short pause was late at worst. A
// promise in seconds is held against a measurement less what stalls explain.
func (c *Cluster) Stalls() (longest func() time.Duration) {
	const beat = 10 * time.Millisecond
	stop, worst := make(chan struct{}), make(chan time.Duration)
	go func() {
		var most time.Duration
		for last := time.Now(); ; last = time.Now() {
			select {
			case <-stop:
				worst <- most
				return
			case <-time.After(beat):
				most = max(most, time.Since(last)-beat)
			}
		}
	}()
	return func() time.Duration { close(stop); return <-worst }
}

// Enqueue hands in one order, on the queue "default".
func (c *Cluster) Enqueue(o Order, opts ...errand.EnqueueOption) errand.ID {
	c.T.Helper()
	ctx, cancel := context.WithTimeout(c.T.Context(), Patience)
	defer cancel()
	id, err := errand.NewTask[Order](Kind).Enqueue(ctx, c.Client(), o, opts...)
	if err != nil {
		c.T.Fatalf("enqueue: %v", err)
	}
	return id
}

// LeasedByRef is how many jobs the servers leased because a carrier brought their refs.
func (c *Cluster) LeasedByRef() (n int64) {
	c.T.Helper()
	for _, s := range c.Servers {
		client, err := errand.Dial(s.URL())
		if err != nil {
			c.T.Fatal(err)
		}
		info, err := client.ServerInfo(c.T.Context())
		if err != nil {
			c.T.Fatal(err)
		}
		n += info.LeasedByRef
		if err := client.Close(); err != nil {
			c.T.Fatal(err)
		}
	}
	return n
}
