package testenv

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// RabbitMQEnv names the environment variable that holds the address of the
// run's RabbitMQ node.
const RabbitMQEnv = "ERRAND_TEST_RABBITMQ"

// RabbitMQAddress returns the address of the run's RabbitMQ node, amqp://….
// Without one the test fails and says what to run.
func RabbitMQAddress(t testing.TB) string {
	t.Helper()
	address := os.Getenv(RabbitMQEnv)
	if address == "" {
		t.Fatalf(`this test needs a RabbitMQ node. Run "make test" (or scripts/test-services COMMAND), which `+
			`starts one, or set %s to the address of a node, as a user that may do everything in its virtual host`, RabbitMQEnv)
	}
	return address
}

// RabbitMQOptions sets nodes made by StartRabbitMQ. The zero value is a node as
// RabbitMQ comes, on a free loopback port.
type RabbitMQOptions struct {
	// Dir is where the files are made; a temporary directory if empty.
	Dir string
	// Config are lines for rabbitmq.conf, such as "consumer_timeout = 5000".
	Config []string
	// Password is that of the user errand; random if empty.
	Password string
}

// RabbitMQ is a node that belongs to one test, which may kill, freeze and restart it. It
// is stopped, and its files removed, when the test ends. Its methods are for
// one goroutine at a time.
type RabbitMQ struct {
	t        testing.TB
	group    *rabbitGroup
	name     string // of the node: errand1@localhost
	base     string // holds the data, the log and the configuration
	port     int
	distPort int
	proc     *process
}

// rabbitGroup is what the nodes of a cluster share: the daemon by which they find each
// other, the owner and the home with their cookie.
type rabbitGroup struct {
	home     string
	owner    *syscall.Credential
	epmdPort int
	epmd     *process
	password string
}

// rabbitPrograms is where Debian keeps the programs that do not ask for its own user.
const rabbitPrograms = "/usr/lib/rabbitmq/bin"

// StartRabbitMQ starts a node. It fails the test if RabbitMQ is not installed.
func StartRabbitMQ(t testing.TB, opts RabbitMQOptions) *RabbitMQ {
	t.Helper()
	return StartRabbitMQCluster(t, 1, opts)[0]
}

// StartRabbitMQCluster starts so many nodes that are one cluster.
func StartRabbitMQCluster(t testing.TB, size int, opts RabbitMQOptions) []*RabbitMQ {
	t.Helper()
	if _, err := os.Stat(rabbitPrograms); err != nil {
		t.Fatalf(`RabbitMQ is not installed (Debian: rabbitmq-server): %v. Run "make test", which installs it`, err)
	}
	g := newRabbitGroup(t, opts)
	nodes := make([]*RabbitMQ, size)
	names := make([]string, size)
	for i := range nodes {
		names[i] = fmt.Sprintf("errand%d@localhost", i+1)
		nodes[i] = newRabbitMQ(t, g, names[i], opts.Dir)
	}
	deadline := time.Now().Add(2 * patience) // an Erlang machine starts slowly on a busy one
	for _, n := range nodes {
		n.configure(names, opts.Config)
		n.launch()
	}
	for _, n := range nodes {
		if err := n.proc.await(n.ping, deadline); err != nil {
			t.Fatalf("start RabbitMQ: %v\n%s", err, tail(n.log()))
		}
	}
	if size > 1 {
		nodes[0].awaitMembers(size, deadline)
	}
	return nodes
}

func newRabbitGroup(t testing.TB, opts RabbitMQOptions) *rabbitGroup {
	t.Helper()
	owner := unprivileged(t)
	g := &rabbitGroup{home: home(t, opts.Dir, "errand-rabbit-home-", owner), owner: owner, epmdPort: FreePort(t), password: opts.Password}
	if g.password == "" {
		g.password = randomHex(t)
	}
	cookie := filepath.Join(g.home, ".erlang.cookie")
	if err := os.WriteFile(cookie, []byte(randomHex(t)), 0o400); err != nil {
		t.Fatal(err)
	}
	give(t, cookie, owner)
	// The nodes would start this daemon by themselves, and leave it behind.
	cmd := exec.Command("epmd", "-address", "127.0.0.1", "-port", fmt.Sprint(g.epmdPort))
	cmd.SysProcAttr = attributes(owner, syscall.SIGKILL)
	var err error
	if g.epmd, err = launch(cmd, filepath.Join(g.home, "epmd.log")); err != nil {
		t.Fatalf("start epmd, which RabbitMQ needs: %v", err)
	}
	t.Cleanup(g.epmd.kill)
	err = g.epmd.await(func() error {
		conn, err := net.Dial("tcp", local(g.epmdPort))
		if err == nil {
			_ = conn.Close()
		}
		return err
	}, time.Now().Add(patience))
	if err != nil {
		t.Fatalf("start epmd, which RabbitMQ needs: %v", err)
	}
	return g
}

func newRabbitMQ(t testing.TB, g *rabbitGroup, name, dir string) *RabbitMQ {
	t.Helper()
	r := &RabbitMQ{t: t, group: g, name: name, base: home(t, dir, "errand-rabbit-", g.owner), port: FreePort(t), distPort: FreePort(t)}
	t.Cleanup(func() {
		r.Kill()
		if t.Failed() {
			t.Logf("the end of RabbitMQ's log:\n%s", tail(r.log()))
		}
	})
	return r
}

func (r *RabbitMQ) log() string { return filepath.Join(r.base, "log") }

// configure writes the files that a node reads at its start.
func (r *RabbitMQ) configure(cluster, more []string) {
	r.t.Helper()
	lines := []string{
		"default_user = errand",
		"default_pass = " + r.group.password,
		"disk_free_limit.absolute = 50MB",
	}
	if len(cluster) > 1 {
		lines = append(lines, "cluster_formation.peer_discovery_backend = classic_config")
		for i, name := range cluster {
			lines = append(lines, fmt.Sprintf("cluster_formation.classic_config.nodes.%d = %s", i+1, name))
		}
	}
	r.write("rabbitmq.conf", strings.Join(append(lines, more...), "\n")+"\n")
	r.write("enabled_plugins", "[].\n")
}

func (r *RabbitMQ) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.base, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	give(r.t, path, r.group.owner)
}

// command makes one of RabbitMQ's programs ready to run as this node, or upon it.
func (r *RabbitMQ) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(rabbitPrograms, program), args...)
	cmd.Dir = r.base
	cmd.SysProcAttr = attributes(r.group.owner, syscall.SIGKILL)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + r.group.home, "LC_ALL=C.UTF-8",
		fmt.Sprintf("ERL_EPMD_PORT=%d", r.group.epmdPort), "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME=" + r.name,
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", fmt.Sprintf("RABBITMQ_NODE_PORT=%d", r.port),
		fmt.Sprintf("RABBITMQ_DIST_PORT=%d", r.distPort),
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(r.base, "data"), "RABBITMQ_LOG_BASE=" + filepath.Join(r.base, "logs"),
		"RABBITMQ_LOGS=-", // to our file
		"RABBITMQ_CONFIG_FILE=" + filepath.Join(r.base, "rabbitmq.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(r.base, "enabled_plugins"),
		"RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RUNNING_UNDER_SYSTEMD=true", // the script becomes the server instead of waiting for it
		// Idle schedulers sleep, for the machine is shared; other nodes are on loopback only.
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}",
	}
	return cmd
}

func (r *RabbitMQ) launch() {
	r.t.Helper()
	var err error
	if r.proc, err = launch(r.command("rabbitmq-server"), r.log()); err != nil {
		r.t.Fatalf("start RabbitMQ: %v", err)
	}
}

// Start starts the node again after Kill and waits until it takes connections.
func (r *RabbitMQ) Start() {
	r.t.Helper()
	r.launch()
	if err := r.proc.await(r.ping, time.Now().Add(2*patience)); err != nil {
		r.t.Fatalf("start RabbitMQ: %v\n%s", err, tail(r.log()))
	}
}

// ping opens a connection as a client does. Before the node listens that is
// refused at once.
func (r *RabbitMQ) ping() error {
	conn, err := amqp.DialConfig(r.URL(), amqp.Config{Dial: amqp.DefaultDial(5 * time.Second)})
	if err != nil {
		return err
	}
	return conn.Close()
}

// Kill ends the node as kill -9 would and waits until the process is gone. It
// does nothing to a node that is not running.
func (r *RabbitMQ) Kill() {
	r.proc.kill()
	r.proc = nil
}

// Signal sends a signal to all of the node's processes: SIGSTOP freezes it, SIGCONT thaws it.
func (r *RabbitMQ) Signal(sig syscall.Signal) { r.proc.signal(sig) }

// Address returns host:port.
func (r *RabbitMQ) Address() string { return local(r.port) }

// Password returns the password of the user errand, who may do everything.
func (r *RabbitMQ) Password() string { return r.group.password }

// URL returns the node's address as clients take it, with the password.
func (r *RabbitMQ) URL() string { return RabbitMQURL(r) }

// RabbitMQURL returns the address of several nodes of one cluster.
func RabbitMQURL(nodes ...*RabbitMQ) string {
	hosts := make([]string, len(nodes))
	for i, n := range nodes {
		hosts[i] = n.Address()
	}
	return fmt.Sprintf("amqp://%s@%s/", url.UserPassword("errand", nodes[0].Password()), strings.Join(hosts, ","))
}

// Ctl runs rabbitmqctl upon the node and returns what it says.
func (r *RabbitMQ) Ctl(args ...string) string {
	r.t.Helper()
	out, err := r.ctl(args...)
	if err != nil {
		r.t.Fatalf("rabbitmqctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (r *RabbitMQ) ctl(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := r.command("rabbitmqctl", append([]string{"-n", r.name, "-q"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// awaitMembers waits until so many nodes are one running cluster.
func (r *RabbitMQ) awaitMembers(size int, deadline time.Time) {
	r.t.Helper()
	for {
		out, err := r.ctl("eval", "length(rabbit_nodes:all_running()).")
		if err == nil && strings.TrimSpace(out) == fmt.Sprint(size) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("the nodes did not become a cluster of %d: %v\n%s\n%s", size, err, out, tail(r.log()))
		}
	}
}

// ServeRabbitMQ starts the node of a whole run.
func ServeRabbitMQ(dir string) (*Service, error) {
	return Serve(RabbitMQEnv, func(t testing.TB) string {
		return StartRabbitMQ(t, RabbitMQOptions{Dir: dir}).URL()
	})
}
