package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster"
)

// marker is in everything that no log may show.
const marker = "s3cr3t-m4rk3r"

// buffer is a log of this process.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestLogsHoldNoSecret: a busy run at level debug, with tokens, failures, bad
// calls and a database that goes away, leaves neither payloads nor results,
// notes, keys, tokens or passwords in the logs of server and worker.
func TestLogsHoldNoSecret(t *testing.T) {
	c := cluster.Postgres(t, testenv.Options{})
	c.Ledger = strings.Replace(c.Ledger, "postgres@", "postgres:"+marker+"@", 1)
	made := c.JSON("token", "new", "all", "--role", "operator")
	token, _ := made["token"].(string)
	line, _ := made["line"].(string)
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte(line+"\n"), 0o600); err != nil || token == "" {
		t.Fatalf("%v, token %q", err, token)
	}
	server := c.AddServer("--auth-token-file", file, "--log-level", "debug", "--log-format", "json")
	client, err := errand.Dial(server.URL(), errand.WithToken(token), errand.WithRetryFor(cluster.Patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })

	log := &buffer{}
	w := &errand.Worker{Client: client, Logger: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	errand.HandleAny(w, func(ctx context.Context, j *errand.RawJob) error { return disclose(ctx, j) })
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()

	busy(t, client, "before")
	c.Postgres.Kill()
	refused(t, server.URL(), token)
	c.Postgres.Start()
	busy(t, client, "after")
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for name, text := range map[string]string{"server": server.Log(), "worker": log.String()} {
		if !strings.Contains(text, "session opened") {
			t.Errorf("the %s logged next to nothing: %s", name, text)
		}
		for _, secret := range []string{marker, token} {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("the %s logged a secret: …%s…", name, text[max(0, at-300):min(len(text), at+100)])
			}
		}
	}
}

// disclose handles a job, with the marker in all that it says.
func disclose(ctx context.Context, j *errand.RawJob) error {
	if err := j.Progress(ctx, marker); err != nil {
		return err
	}
	switch {
	case j.Kind == "fails" && j.Attempt == 1:
		return errand.RetryIn(time.Millisecond, errors.New(marker))
	case j.Kind == "dies":
		return errand.Discard(errors.New(marker))
	}
	return j.SetResultBytes([]byte(marker))
}

// busy hands in jobs of every fate and waits for them.
func busy(t *testing.T, client *errand.Client, when string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), cluster.Patience)
	defer cancel()
	for _, kind := range []string{"works", "fails", "dies"} {
		var ids []errand.ID
		for i := range 20 {
			key := fmt.Sprint(marker, when, kind, i)
			r, err := client.Enqueue(ctx, errand.NewParams(kind, fmt.Appendf(nil, "%q", marker), errand.IdempotencyKey(key), errand.Unique(key)))
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, r.ID)
		}
		for _, id := range ids {
			if _, err := client.Wait(ctx, id); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// refused makes calls that fail, in every layer.
func refused(t *testing.T, url, token string) {
	t.Helper()
	for _, call := range []struct{ authorization, body string }{
		{"Bearer " + marker, `{}`},
		{marker, `{}`},
		{"Bearer " + token, `{"items":[{"kind":"k","payload":"` + marker},
		{"Bearer " + token, `{"items":[{"kind":"k","json":"` + marker + `","priority":77}]}`},
		{"Bearer " + token, `{"items":[{"kind":"k","json":"` + marker + `"}]}`},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/errand.v1.QueueService/Enqueue", strings.NewReader(call.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", call.authorization)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Errorf("%s was accepted", call.body)
		}
	}
}

// TestLogLevelAtRunTime: SIGUSR1 turns the line for each call on, with its
// request id, and off again.
func TestLogLevelAtRunTime(t *testing.T) {
	c := cluster.SQLite(t)
	server := c.AddServer("--log-format", "json")
	call := func(id string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL()+"/errand.v1.QueueService/ListQueues", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Request-Id", id)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := resp.Header.Get("X-Request-Id"); got != id {
			t.Errorf("the request id %s came back as %q", id, got)
		}
	}
	changes := 0
	toggle := func() {
		t.Helper()
		changes++
		server.Signal(syscall.SIGUSR1)
		c.Eventually("the level was changed", func() (bool, string) {
			return strings.Count(server.Log(), "log level changed") == changes, "no word of it"
		})
	}
	call("one")
	toggle()
	call("two")
	c.Eventually("the call is logged", func() (bool, string) { return strings.Contains(server.Log(), `"request_id":"two"`), "not" })
	toggle()
	call("three")
	text := server.Log()
	if strings.Contains(text, `"request_id":"one"`) || strings.Contains(text, `"request_id":"three"`) {
		t.Errorf("calls were logged at level info:\n%s", text)
	}
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if strings.HasPrefix(line, "errand ") {
			continue // the greeting, for people
		}
		if !json.Valid([]byte(line)) {
			t.Errorf("a line of the log is no JSON: %s", line)
		}
	}
}
