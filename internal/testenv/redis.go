package testenv

import (
	"bufio"
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
)

// RedisEnv names the environment variable that holds the address of the run's Redis.
const RedisEnv = "ERRAND_TEST_REDIS"

// RedisAddress returns the address of the run's Redis, redis://…, which tests
// share: each uses keys of its own. Without one the test fails and says what to run.
func RedisAddress(t testing.TB) string {
	t.Helper()
	address := os.Getenv(RedisEnv)
	if address == "" {
		t.Fatalf(`this test needs a Redis server. Run "make test" (or scripts/test-services COMMAND), which `+
			`starts one, or set %s to the address of a server`, RedisEnv)
	}
	return address
}

// RedisOptions sets a server made by StartRedis. The zero value is a server as
// Redis comes, without persistence, on a free loopback port.
type RedisOptions struct {
	// Dir is where the files are made; a temporary directory if empty.
	Dir string
	// Config are lines for redis.conf, such as "maxmemory 2mb".
	Config []string
	// Password is that of the default user; none if empty.
	Password string
}

// Redis is a server that belongs to one test, which may kill, freeze and
// restart it: it comes back empty. It is stopped, and its files removed, when the test
// ends. Its methods are for one goroutine at a time.
type Redis struct {
	t        testing.TB
	base     string
	port     int
	password string
	owner    *syscall.Credential
	proc     *process
}

// StartRedis starts a server. It fails the test if Redis is not installed.
func StartRedis(t testing.TB, opts RedisOptions) *Redis {
	t.Helper()
	owner := unprivileged(t)
	r := &Redis{t: t, base: home(t, opts.Dir, "errand-redis-", owner), port: FreePort(t), password: opts.Password, owner: owner}
	t.Cleanup(func() {
		r.Kill()
		if t.Failed() {
			t.Logf("the end of Redis's log:\n%s", tail(r.log()))
		}
	})
	lines := []string{"bind 127.0.0.1", fmt.Sprintf("port %d", r.port), "save \"\"", "appendonly no", "dir " + r.base}
	if opts.Password != "" {
		lines = append(lines, "requirepass "+opts.Password)
	}
	text := strings.Join(append(lines, opts.Config...), "\n") + "\n"
	if err := os.WriteFile(r.conf(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	give(t, r.conf(), owner)
	r.Start()
	return r
}

func (r *Redis) conf() string { return filepath.Join(r.base, "redis.conf") }
func (r *Redis) log() string  { return filepath.Join(r.base, "log") }

// Start starts the server and waits until it takes connections.
func (r *Redis) Start() {
	r.t.Helper()
	cmd := exec.Command("redis-server", r.conf())
	cmd.SysProcAttr = attributes(r.owner, syscall.SIGKILL)
	cmd.Dir = r.base
	p, err := launch(cmd, r.log())
	if err != nil {
		r.t.Fatalf(`start Redis (Debian: redis-server): %v. Run "make test", which installs it`, err)
	}
	r.proc = p
	ready := func() error {
		_, err := r.Do("PING")
		return err
	}
	if err := p.await(ready, time.Now().Add(patience)); err != nil {
		r.t.Fatalf("start Redis: %v\n%s", err, tail(r.log()))
	}
}

// Kill ends the server as kill -9 would and waits until the process is gone.
// It does nothing to a server that is not running.
func (r *Redis) Kill() {
	r.proc.kill()
	r.proc = nil
}

// Freeze stops the server where it stands, with its connections open, until Thaw.
func (r *Redis) Freeze() { r.proc.signal(syscall.SIGSTOP) }

// Thaw ends what Freeze began.
func (r *Redis) Thaw() { r.proc.signal(syscall.SIGCONT) }

// URL returns the address, redis://….
func (r *Redis) URL() string {
	u := url.URL{Scheme: "redis", Host: r.Address()}
	if r.password != "" {
		u.User = url.UserPassword("default", r.password)
	}
	return u.String()
}

// Address returns host:port.
func (r *Redis) Address() string { return local(r.port) }

// Run runs a command of words without spaces, such as FLUSHALL or CONFIG SET, and returns
// the first line of the answer. An error fails the test.
func (r *Redis) Run(words ...string) string {
	r.t.Helper()
	answer, err := r.Do(words...)
	if err != nil {
		r.t.Fatalf("redis %s: %v", words[0], err)
	}
	return answer
}

// Do is Run that returns the error.
func (r *Redis) Do(words ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", r.Address(), 2*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(conn)
	commands := []string{strings.Join(words, " ")}
	if r.password != "" {
		commands = append([]string{"AUTH " + r.password}, commands...)
	}
	answer := ""
	for _, c := range commands {
		if _, err := fmt.Fprintf(conn, "%s\r\n", c); err != nil {
			return "", err
		}
		if answer, err = in.ReadString('\n'); err != nil {
			return "", err
		}
		if strings.HasPrefix(answer, "-") {
			return "", fmt.Errorf("%s", strings.TrimSpace(answer[1:]))
		}
	}
	return strings.TrimSpace(answer), nil
}

// ServeRedis starts the server of a whole run.
func ServeRedis(dir string) (*Service, error) {
	return Serve(RedisEnv, func(t testing.TB) string { return StartRedis(t, RedisOptions{Dir: dir}).URL() })
}
