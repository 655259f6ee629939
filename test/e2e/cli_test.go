// Package e2e holds the command line, the SDK and the server, as processes of
// their own, against what the documentation says, on each ledger alike.
package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/test/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// field walks into decoded JSON.
func field(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch key := step.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("%v: %#v is no object", path, v)
			}
			if v, ok = m[key]; !ok {
				t.Fatalf("%v: no %q in %#v", path, key, m)
			}
		case int:
			list, ok := v.([]any)
			if !ok || key >= len(list) {
				t.Fatalf("%v: %#v has no element %d", path, v, key)
			}
			v = list[key]
		}
	}
	return v
}

func is(t *testing.T, what string, got, want any) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %#v, want %#v", what, got, want)
	}
}

// A job goes in by the command line, is worked by a command, and is looked at.
func TestCommandLineLifeOfAJob(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		id := c.Do("enqueue", "shout", `{"word":"hi"}`)
		got := c.JSON("jobs", "get", id)
		is(t, "state", field(t, got, "state"), "ready")
		is(t, "queue", field(t, got, "queue"), "default")
		is(t, "payload", field(t, got, "payload", "word"), "hi")
		is(t, "priority", field(t, got, "priority"), 5.0)

		c.Do("work", "--until-empty", "--exec", "sh", "-c", `test "$ERRAND_JOB_KIND" = shout && tr a-z A-Z`)
		got = c.JSON("jobs", "get", id)
		is(t, "state", field(t, got, "state"), "succeeded")
		is(t, "attempt", field(t, got, "attempt"), 1.0)
		is(t, "result", field(t, got, "result", "WORD"), "HI")
		c.Do("jobs", "wait", id)

		stats := c.JSON("stats")
		is(t, "succeeded", field(t, stats, "queues", 0, "succeeded"), 1.0)
		is(t, "list", field(t, c.JSON("jobs", "list", "--state", "succeeded"), "jobs", 0, "id"), id)
		is(t, "exit status for a job that is nowhere", c.CLI("", "jobs", "get", errand.NewID().String()).Status, 3)
	})
}

// What fails for good becomes a dead letter, is redriven, and is purged.
func TestCommandLineDeadLetters(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		id := c.Do("enqueue", "broken", "{}")
		c.Do("work", "--until-empty", "--exec", "sh", "-c", "echo no luck >&2; exit 65")
		got := c.JSON("jobs", "get", id)
		is(t, "state", field(t, got, "state"), "dead")
		if msg := field(t, got, "errors", 0, "message").(string); !strings.Contains(msg, "no luck") {
			t.Errorf("the error is %q; it should tell what the command said", msg)
		}
		is(t, "exit status of wait for a dead job", c.CLI("", "jobs", "wait", id).Status, 1)
		if list := c.Do("dead", "list"); !strings.Contains(list, id) {
			t.Errorf("dead list does not show %s:\n%s", id, list)
		}
		c.Do("dead", "redrive", "--error", "no luck", "--yes")
		c.Do("work", "--until-empty", "--exec", "true")
		is(t, "state after the redrive", field(t, c.JSON("jobs", "get", id), "state"), "succeeded")

		c.Do("enqueue", "broken", "{}")
		c.Do("work", "--until-empty", "--exec", "sh", "-c", "exit 65")
		c.Do("dead", "purge", "--all", "--yes")
		is(t, "dead", field(t, c.JSON("stats"), "queues", 0, "dead"), 0.0)
	})
}

// Many jobs come from a file; a bad line stops it, or is left out if asked.
func TestCommandLineFromFile(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		lines := `{"kind":"a","payload":1}` + "\n" + `{"kind":"a","payload":2,"queue":"q"}` + "\n"
		a := c.CLI(lines, "enqueue", "--from", "-", "-o", "json")
		is(t, "exit status", a.Status, 0)
		var sum map[string]float64
		if err := json.Unmarshal([]byte(a.Stdout), &sum); err != nil {
			t.Fatalf("%v: %s", err, a.Stdout)
		}
		is(t, "accepted", sum["accepted"], 2.0)

		a = c.CLI(lines+"not json\n", "enqueue", "--from", "-")
		if a.Status == 0 || !strings.Contains(a.Stderr, "3") {
			t.Errorf("a bad third line: exit status %d, %q", a.Status, a.Stderr)
		}
		a = c.CLI("one\ntwo\n", "enqueue", "word", "--lines", "--from", "-", "-o", "json")
		is(t, "exit status of --lines", a.Status, 0)
		page := c.JSON("jobs", "list", "--kind", "word", "--limit", "1")
		if field(t, page, "next_page_token") == "" {
			t.Error("a page of one of two jobs has no next page")
		}
	})
}

// Queues are paused and resumed; unique keys and delays are kept.
func TestCommandLineQueuesAndOptions(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		c.AddServer()
		c.Do("queues", "pause", "default")
		id := c.Do("enqueue", "k", "{}", "--unique-key", "u", "--unique", "until_done")
		again := c.JSON("enqueue", "k", "{}", "--unique-key", "u", "--unique", "until_done")
		is(t, "duplicate", field(t, again, "duplicate"), true)
		is(t, "id", field(t, again, "id"), id)
		is(t, "exit status of a paused queue", c.CLI("", "work", "--until-empty", "--exec", "true").Status, 4)
		c.Do("queues", "resume", "default")
		c.Do("work", "--until-empty", "--exec", "true")
		is(t, "state", field(t, c.JSON("jobs", "get", id), "state"), "succeeded")

		later := c.Do("enqueue", "k", "{}", "--in", "1h")
		is(t, "state of a delayed job", field(t, c.JSON("jobs", "get", later), "state"), "scheduled")
		c.Do("jobs", "cancel", later)
		is(t, "state", field(t, c.JSON("jobs", "get", later), "state"), "cancelled")
		c.Do("jobs", "delete", later)
		is(t, "exit status for a deleted job", c.CLI("", "jobs", "get", later).Status, 3)
	})
}

// Bad input is answered precisely, and with the documented exit status.
func TestCommandLineRefusals(t *testing.T) {
	c := cluster.SQLite(t)
	c.AddServer()
	for name, tc := range map[string]struct {
		args   []string
		status int
	}{
		"unknown flag":       {[]string{"enqueue", "k", "{}", "--nonsense"}, 2},
		"unknown verb":       {[]string{"frobnicate"}, 2},
		"broken JSON":        {[]string{"enqueue", "k", "{"}, 2},
		"priority":           {[]string{"enqueue", "k", "{}", "--priority", "99"}, 2},
		"negative delay":     {[]string{"enqueue", "k", "{}", "--in", "-5s"}, 2},
		"not an id":          {[]string{"jobs", "get", "seven"}, 2},
		"server unreachable": {[]string{"--server", "http://127.0.0.1:1", "stats"}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			a := c.CLI("", tc.args...)
			if a.Status != tc.status || a.Stderr == "" {
				t.Errorf("exit status %d, want %d; stderr %q", a.Status, tc.status, a.Stderr)
			}
		})
	}
	if got := c.JSON("stats"); len(field(t, got, "queues").([]any)) != 0 {
		t.Errorf("what was refused left something behind: %v", got)
	}
}

// Anyone can speak to a server with curl.
func TestPlainHTTP(t *testing.T) {
	cluster.Backends(t, func(t *testing.T, c *cluster.Cluster) {
		s := c.AddServer()
		body := `{"items":[{"kind":"curl","json":{"n":7}}]}`
		resp, err := http.Post(s.URL()+"/errand.v1.QueueService/Enqueue", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer map[string]any
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		id := field(t, answer, "results", 0, "id").(string)
		is(t, "payload", field(t, c.JSON("jobs", "get", id), "payload", "n"), 7.0)
		is(t, "healthz", cluster.Status(s.URL()+"/healthz"), http.StatusOK)
	})
}

// waitFor is how long a thing that should be quick may take on a busy machine.
const waitFor = 20 * time.Second
