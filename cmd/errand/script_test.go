//go:build unix

package main

import (
	"bufio"
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/testenv"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"errand": main})
}

// TestScripts runs testdata/script, each script against a server of its own:
// on SQLite, and on PostgreSQL too where the run has one. Scripts whose name
// begins with "sqlite" are about the file, and need no second run.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	backends := []string{"sqlite"}
	if os.Getenv(testenv.Env) != "" {
		backends = append(backends, "postgres")
	}
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			for _, script := range scripts {
				name := strings.TrimSuffix(filepath.Base(script), ".txtar")
				if backend == "postgres" && strings.HasPrefix(name, "sqlite") {
					continue
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					ledger := ""
					if backend == "postgres" {
						ledger = testenv.Postgres(t)
					}
					runScript(t, script, ledger)
				})
			}
		})
	}
}

func runScript(t *testing.T, script, ledger string) {
	testscript.Run(t, testscript.Params{
		Files: []string{script},
		Setup: func(env *testscript.Env) error {
			env.Setenv("ERRAND_SERVER", "http://127.0.0.1:1") // until "server" has started one
			env.Setenv("ERRAND_LEDGER", ledger)
			env.Setenv("RABBITMQ", os.Getenv(testenv.RabbitMQEnv))
			env.Setenv("REDIS", os.Getenv(testenv.RedisEnv))
			env.Setenv("NO_COLOR", "1")
			// Without it every process under the race detector ends a second late.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Values[processesKey{}] = &processes{byName: map[string]*child{}}
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "postgres":
				return ledger != "", nil
			case "rabbitmq":
				return os.Getenv(testenv.RabbitMQEnv) != "", nil
			case "redis":
				return os.Getenv(testenv.RedisEnv) != "", nil
			}
			return false, fmt.Errorf("no such condition: %s", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"server": cmdServer, "exits": cmdExits, "json": cmdJSON, "id": cmdID, "repeat": cmdRepeat,
			"start": cmdStart, "signal": cmdSignal, "ended": cmdEnded, "until": cmdUntil, "while": cmdWhile, "newid": cmdNewID, "says": cmdSays, "newer": cmdNewer,
		},
	})
}

// passed are the variables that a background process gets of the script's.
var passed = []string{"PATH", "HOME", "TMPDIR", "WORK", "ERRAND_SERVER", "ERRAND_LEDGER", "ERRAND_TOKEN_FILE", "NO_COLOR", "GORACE"}

type processesKey struct{}

// processes are the children of a script that run in the background.
type processes struct {
	mu     sync.Mutex
	byName map[string]*child
}

type child struct {
	cmd    *exec.Cmd
	out    lockedBuffer
	done   chan struct{}
	status int
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// spawn starts errand in the background; it is killed, at the latest, when the
// script ends.
func spawn(ts *testscript.TestScript, name string, stdout io.Writer, args ...string) *child {
	path := filepath.Join(strings.Split(ts.Getenv("PATH"), string(os.PathListSeparator))[0], "errand")
	c := &child{cmd: exec.Command(path, args...), done: make(chan struct{})}
	c.cmd.Dir = ts.MkAbs(".")
	for _, v := range passed {
		c.cmd.Env = append(c.cmd.Env, v+"="+ts.Getenv(v))
	}
	c.cmd.Stderr, c.cmd.Stdout = &c.out, stdout
	if stdout == nil {
		c.cmd.Stdout = &c.out
	}
	ts.Check(c.cmd.Start())
	go func() {
		err := c.cmd.Wait()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			c.status = exit.ExitCode()
		} else if err != nil {
			c.status = -1
		}
		close(c.done)
	}()
	ps := ts.Value(processesKey{}).(*processes)
	ps.mu.Lock()
	ps.byName[name] = c
	ps.mu.Unlock()
	ts.Defer(func() {
		_ = c.cmd.Process.Kill()
		<-c.done
		ts.Logf("[%s]\n%s", name, c.out.String())
	})
	return c
}

func process(ts *testscript.TestScript, name string) *child {
	ps := ts.Value(processesKey{}).(*processes)
	ps.mu.Lock()
	defer ps.mu.Unlock()
	c := ps.byName[name]
	if c == nil {
		ts.Fatalf("no process %s", name)
	}
	return c
}

// cmdServer starts a server, "server [ARG...]", and sets ERRAND_SERVER.
func cmdServer(ts *testscript.TestScript, _ bool, args []string) {
	r, w, err := os.Pipe()
	ts.Check(err)
	defer func() { _ = r.Close() }()
	c := spawn(ts, "server", w, append([]string{"serve", "-o", "json", "--listen", "127.0.0.1:0", "--data", "data"}, args...)...)
	_ = w.Close()
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err != nil {
		<-c.done
		ts.Fatalf("the server did not start: %s", c.out.String())
	}
	var answer struct{ URL string }
	ts.Check(json.Unmarshal(line, &answer))
	ts.Setenv("ERRAND_SERVER", answer.URL)
}

// cmdExits runs errand and expects an exit status: "exits STATUS ARG...".
func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	status := 0
	var exit *exec.ExitError
	if err := ts.Exec("errand", args[1:]...); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if status != want {
		ts.Fatalf("exit status %d, want %d\nstdout: %sstderr: %s", status, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// cmdJSON looks into the JSON that the last command printed: "json a.b.0 VALUE"
// compares with VALUE as JSON, "json a.b" only wants it to be there, and
// "! json a.b" not.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		ts.Fatalf("stdout is no JSON: %v", err)
	}
	if dec.More() {
		ts.Fatalf("stdout holds more than one JSON document")
	}
	for step := range strings.SplitSeq(args[0], ".") {
		var ok bool
		switch at := v.(type) {
		case map[string]any:
			v, ok = at[step]
		case []any:
			i, err := strconv.Atoi(step)
			if ok = err == nil && i < len(at); ok {
				v = at[i]
			}
		}
		if !ok {
			if !neg {
				ts.Fatalf("%s: there is no %q", args[0], step)
			}
			return
		}
	}
	if neg {
		ts.Fatalf("%s is there", args[0])
	}
	if len(args) < 2 {
		return
	}
	got, err := json.Marshal(v)
	ts.Check(err)
	if string(got) != args[1] {
		ts.Fatalf("%s is %s, want %s", args[0], got, args[1])
	}
}

// cmdID keeps what the last command printed, an id, in a variable.
func cmdID(ts *testscript.TestScript, _ bool, args []string) {
	id, err := errand.ParseID(strings.TrimSpace(ts.ReadFile("stdout")))
	if err != nil {
		ts.Fatalf("stdout is no id: %v", err)
	}
	ts.Setenv(args[0], id.String())
}

// cmdNewID makes an id: "newid VAR".
func cmdNewID(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], errand.NewID().String())
}

// cmdRepeat writes a file of a repeated text: "repeat FILE TIMES TEXT", where
// %d in the text is the count, and \n and \xff are what they are in Go.
func cmdRepeat(ts *testscript.TestScript, _ bool, args []string) {
	times, err := strconv.Atoi(args[1])
	ts.Check(err)
	text, err := strconv.Unquote(`"` + strings.ReplaceAll(args[2], `"`, `\"`) + `"`)
	ts.Check(err)
	var b bytes.Buffer
	for i := range times {
		b.WriteString(strings.ReplaceAll(text, "%d", fmt.Sprint(i)))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.Bytes(), 0o600))
}

// cmdStart starts errand in the background: "start NAME ARG...".
func cmdStart(ts *testscript.TestScript, _ bool, args []string) { spawn(ts, args[0], nil, args[1:]...) }

// cmdSignal sends INT or TERM: "signal NAME SIGNAL".
func cmdSignal(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "KILL": os.Kill}
	ts.Check(process(ts, args[0]).cmd.Process.Signal(signals[args[1]]))
}

// cmdEnded waits for the end of a process, which is to have this exit status
// and output: "ended NAME STATUS [TEXT...]".
func cmdEnded(ts *testscript.TestScript, _ bool, args []string) {
	c := process(ts, args[0])
	select {
	case <-c.done:
	case <-time.After(60 * time.Second):
		ts.Fatalf("%s has not ended", args[0])
	}
	if fmt.Sprint(c.status) != args[1] {
		ts.Fatalf("%s has ended with %d, not %s", args[0], c.status, args[1])
	}
	for _, text := range args[2:] {
		if !strings.Contains(c.out.String(), text) {
			ts.Fatalf("%s did not say %q", args[0], text)
		}
	}
}

// cmdNewer makes the script's ledger one that a newer Errand has migrated.
func cmdNewer(ts *testscript.TestScript, _ bool, _ []string) {
	driver, address := "pgx", ts.Getenv("ERRAND_LEDGER")
	insert := "INSERT INTO errand.migration (number, name, checksum) VALUES (999, '0999_later', 'x')"
	if address == "" {
		driver, address = "sqlite", ts.MkAbs("data/errand.db")
		insert = "INSERT INTO schema_migration (version, name, checksum, applied_at) VALUES (999, '0999_later', 'x', 0)"
	}
	db, err := sql.Open(driver, address)
	ts.Check(err)
	_, err = db.Exec(insert)
	ts.Check(errors.Join(err, db.Close()))
}

// cmdSays waits until a process has said something: "says NAME TEXT".
func cmdSays(ts *testscript.TestScript, _ bool, args []string) {
	c := process(ts, args[0])
	for deadline := time.Now().Add(60 * time.Second); !strings.Contains(c.out.String(), args[1]); {
		if time.Now().After(deadline) {
			ts.Fatalf("%s did not say %q", args[0], args[1])
		}
		time.Sleep(10 * time.Millisecond) // the pace of looking, no synchronisation
	}
}

// cmdWhile repeats a command until a process has said a text: "while NAME TEXT
// ARG...".
func cmdWhile(ts *testscript.TestScript, _ bool, args []string) {
	c := process(ts, args[0])
	for deadline := time.Now().Add(60 * time.Second); !strings.Contains(c.out.String(), args[1]); {
		if time.Now().After(deadline) {
			ts.Fatalf("%s did not say %q", args[0], args[1])
		}
		ts.Check(ts.Exec(args[2], args[3:]...))
	}
}

// cmdUntil repeats a command until its output holds a text: "until TEXT ARG...".
func cmdUntil(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(60 * time.Second); ; {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && strings.Contains(ts.ReadFile("stdout"), args[0]) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no %q came", args[0])
		}
		time.Sleep(50 * time.Millisecond) // the pace of looking, no synchronisation
	}
}
