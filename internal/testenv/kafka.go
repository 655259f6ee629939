package testenv

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// KafkaEnv names the environment variable that holds the address of the run's
// Kafka broker, host:port.
const KafkaEnv = "ERRAND_TEST_KAFKA"

// KafkaAddress returns the address of the run's Kafka broker, host:port. Without one the
// test fails and says what to run.
func KafkaAddress(t testing.TB) string {
	t.Helper()
	address := os.Getenv(KafkaEnv)
	if address == "" {
		t.Fatalf(`this test needs a Kafka broker. Run "make test" (or scripts/test-services COMMAND), which `+
			`starts one, or set %s to host:port of a broker of 4.2 or later that asks for no user`, KafkaEnv)
	}
	return address
}

// KafkaOptions sets brokers made by StartKafka. The zero value is a broker that asks
// for no user, on free loopback ports.
type KafkaOptions struct {
	// Dir is where the files are made; a temporary directory if empty.
	Dir string
	// Settings are lines for server.properties. The listener for clients is
	// named CLIENT there.
	Settings map[string]string
	// Password, if set, is what the clients' listener asks the user errand for, by SASL/PLAIN
	// or SCRAM.
	Password string
	// TLS, if set, is for the clients' listener.
	TLS *Certificates
	// Advertised is the host:port where clients are told to connect, such as that of a
	// proxy; the listener itself if empty.
	Advertised string
}

// Kafka is a broker that belongs to one test, which may kill, freeze and restart it. It
// is stopped, and its files removed, when the test ends. Its methods are for
// one goroutine at a time.
type Kafka struct {
	t       testing.TB
	opts    KafkaOptions
	libs    string
	cluster string // its id
	base    string // holds the data, the log and the configuration
	id      int    // of the broker in the cluster, from 1
	client  int    // the port of the clients' listener,
	peer    int    // of that for other brokers,
	control int    // and for controllers
	peers   []*Kafka
	proc    *process
}

// StartKafka starts a broker. It fails the test if Kafka cannot be had.
func StartKafka(t testing.TB, opts KafkaOptions) *Kafka {
	t.Helper()
	return StartKafkaCluster(t, 1, opts)[0]
}

// StartKafkaCluster starts so many brokers that are one cluster.
func StartKafkaCluster(t testing.TB, size int, opts KafkaOptions) []*Kafka {
	t.Helper()
	libs := kafkaLibs(t)
	brokers := make([]*Kafka, size)
	cluster := uuid.New()
	for i := range brokers {
		k := &Kafka{
			t: t, opts: opts, libs: libs, cluster: base64.RawURLEncoding.EncodeToString(cluster[:]), base: home(t, opts.Dir, "errand-kafka-", nil), id: i + 1,
			client: FreePort(t), peer: FreePort(t), control: FreePort(t), peers: brokers,
		}
		brokers[i] = k
		t.Cleanup(func() {
			k.Kill()
			if t.Failed() {
				t.Logf("the end of Kafka's log:\n%s", tail(k.log()))
			}
		})
	}
	for _, k := range brokers {
		k.configure()
		k.format()
	}
	for _, k := range brokers {
		k.launch()
	}
	for _, k := range brokers {
		k.await()
	}
	return brokers
}

// kafkaLibs returns the directory of Kafka's jars, which the script fetches if need be.
func kafkaLibs(t testing.TB) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	script := filepath.Join(filepath.Dir(here), "..", "..", "scripts", "install-kafka")
	cmd := exec.Command(script)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("install Kafka: %v\n%s", err, said.String())
	}
	return strings.TrimSpace(string(out))
}

func (k *Kafka) log() string { return filepath.Join(k.base, "log") }

// configure writes the files that a broker reads at its start.
func (k *Kafka) configure() {
	k.t.Helper()
	size := len(k.peers)
	voters := make([]string, size)
	for i, p := range k.peers {
		voters[i] = fmt.Sprintf("%d@%s", p.id, local(p.control))
	}
	replicas := fmt.Sprint(min(size, 3))
	advertised := cmp.Or(k.opts.Advertised, local(k.client))
	all := map[string]string{
		"process.roles": "broker,controller", "node.id": fmt.Sprint(k.id),
		"controller.quorum.voters": strings.Join(voters, ","), "controller.listener.names": "CONTROLLER",
		"listeners":                                        fmt.Sprintf("CLIENT://%s,PEER://%s,CONTROLLER://%s", local(k.client), local(k.peer), local(k.control)),
		"advertised.listeners":                             fmt.Sprintf("CLIENT://%s,PEER://%s", advertised, local(k.peer)),
		"inter.broker.listener.name":                       "PEER",
		"listener.security.protocol.map":                   "CLIENT:" + k.security() + ",PEER:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs":                                         filepath.Join(k.base, "data"),
		"auto.create.topics.enable":                        "false",
		"offsets.topic.replication.factor":                 replicas,
		"offsets.topic.num.partitions":                     "3",
		"transaction.state.log.replication.factor":         replicas,
		"transaction.state.log.min.isr":                    "1",
		"transaction.state.log.num.partitions":             "1",
		"share.coordinator.state.topic.replication.factor": replicas,
		"share.coordinator.state.topic.min.isr":            "1",
		"share.coordinator.state.topic.num.partitions":     "3",
		"group.initial.rebalance.delay.ms":                 "0",
		// A share group gives a message up after so many deliveries, those included that a cut connection ended: by
		// default five, and tests cut more often. More than ten it does not allow.
		"group.share.delivery.count.limit": "10",
	}
	if k.opts.Password != "" {
		all["sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
		const jaas, module = "listener.name.client.%s.sasl.jaas.config", "org.apache.kafka.common.security.%sLoginModule required%s;"
		all[fmt.Sprintf(jaas, "plain")] = fmt.Sprintf(module, "plain.Plain", fmt.Sprintf(" user_errand=%q", k.opts.Password))
		all[fmt.Sprintf(jaas, "scram-sha-256")] = fmt.Sprintf(module, "scram.Scram", "")
		all[fmt.Sprintf(jaas, "scram-sha-512")] = fmt.Sprintf(module, "scram.Scram", "")
	}
	if k.opts.TLS != nil {
		all["listener.name.client.ssl.keystore.type"] = "PEM"
		all["listener.name.client.ssl.keystore.location"] = k.keystore()
	}
	for name, value := range k.opts.Settings {
		all[name] = value
	}
	var lines []string
	for name, value := range all {
		lines = append(lines, name+"="+value)
	}
	slices.Sort(lines)
	k.write("server.properties", lines...)
	k.write("log4j2.properties", "rootLogger.level=WARN", "rootLogger.appenderRefs=out", "rootLogger.appenderRef.out.ref=out",
		"appender.out.type=Console", "appender.out.name=out",
		"appender.out.layout.type=PatternLayout", "appender.out.layout.pattern=%d %p %c: %m%n")
}

// keystore writes key and certificate into one file, as Kafka wants them.
func (k *Kafka) keystore() string {
	k.t.Helper()
	key, err1 := os.ReadFile(k.opts.TLS.Key)
	cert, err2 := os.ReadFile(k.opts.TLS.Cert)
	if err := errors.Join(err1, err2); err != nil {
		k.t.Fatal(err)
	}
	k.write("keystore.pem", string(key)+string(cert))
	return filepath.Join(k.base, "keystore.pem")
}

// security is the protocol of the clients' listener.
func (k *Kafka) security() string {
	switch {
	case k.opts.Password != "" && k.opts.TLS != nil:
		return "SASL_SSL"
	case k.opts.Password != "":
		return "SASL_PLAINTEXT"
	case k.opts.TLS != nil:
		return "SSL"
	}
	return "PLAINTEXT"
}

func (k *Kafka) write(name string, lines ...string) {
	k.t.Helper()
	if err := os.WriteFile(filepath.Join(k.base, name), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// java makes one of Kafka's programs ready to run. The flags have it start fast and
// leave the machine's cores to the tests.
func (k *Kafka) java(main string, args ...string) *exec.Cmd {
	flags := []string{
		"-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true",
		"-Dlog4j2.configurationFile=" + filepath.Join(k.base, "log4j2.properties"),
		"-cp", filepath.Join(k.libs, "*"), main,
	}
	cmd := exec.Command("java", append(flags, args...)...)
	cmd.Dir = k.base
	cmd.SysProcAttr = attributes(nil, syscall.SIGKILL)
	return cmd
}

// format makes the data directory, with the user's secrets for SCRAM.
func (k *Kafka) format() {
	k.t.Helper()
	args := []string{"format", "--cluster-id=" + k.cluster, "-c", filepath.Join(k.base, "server.properties")}
	if k.opts.Password != "" {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			args = append(args, "--add-scram", fmt.Sprintf("%s=[name=errand,password=%s]", mechanism, k.opts.Password))
		}
	}
	if out, err := k.java("kafka.tools.StorageTool", args...).CombinedOutput(); err != nil {
		k.t.Fatalf("format Kafka's data directory: %v\n%s", err, out)
	}
}

func (k *Kafka) launch() {
	k.t.Helper()
	var err error
	if k.proc, err = launch(k.java("kafka.Kafka", filepath.Join(k.base, "server.properties")), k.log()); err != nil {
		k.t.Fatalf("start Kafka: %v", err)
	}
}

func (k *Kafka) await() {
	k.t.Helper()
	if err := k.proc.await(k.ping, time.Now().Add(2*patience)); err != nil {
		k.t.Fatalf("start Kafka: %v\n%s", err, tail(k.log()))
	}
}

// ping asks whether all brokers that run have joined the cluster.
func (k *Kafka) ping() error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(local(k.peer)), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	there, err := kadm.NewClient(cl).ListBrokers(ctx)
	if err != nil {
		return err
	}
	for _, p := range k.peers {
		if p.proc != nil && !slices.Contains(there.NodeIDs(), int32(p.id)) {
			return fmt.Errorf("broker %d has not joined the cluster", p.id)
		}
	}
	return nil
}

// Start starts the broker again after Kill and waits until it takes connections.
func (k *Kafka) Start() {
	k.t.Helper()
	k.launch()
	k.await()
}

// Kill ends the broker as kill -9 would and waits until the process is gone. It
// does nothing to a broker that is not running.
func (k *Kafka) Kill() {
	k.proc.kill()
	k.proc = nil
}

// Signal sends a signal to the broker: SIGSTOP freezes it, SIGCONT thaws it.
func (k *Kafka) Signal(sig syscall.Signal) { k.proc.signal(sig) }

// Address returns host:port of the clients' listener.
func (k *Kafka) Address() string { return local(k.client) }

// PeerAddress returns host:port of the other brokers' listener, which asks for no user, whatever
// that of the clients asks for.
func (k *Kafka) PeerAddress() string { return local(k.peer) }

// ServeKafka starts the broker of a whole run.
func ServeKafka(dir string) (*Service, error) {
	return Serve(KafkaEnv, func(t testing.TB) string {
		return StartKafka(t, KafkaOptions{Dir: dir}).Address()
	})
}
