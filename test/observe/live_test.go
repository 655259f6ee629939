package observe

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster"
)

// scene is an Errand under watch.
type scene struct {
	*cluster.Cluster
	t      *testing.T
	server *cluster.Server
	prom   *prometheus
	fired  map[string]bool
	held   *pgx.Conn      // a transaction that is left open
	wire   *testenv.Proxy // to the carrier
	redis  *testenv.Redis
}

// newScene starts a server with a canary, a carrier for queues that are routed
// there and a Redis, two workers for queue default, one with a single slot for
// queue slow, and a Prometheus with rules in a hurry.
func newScene(t *testing.T) *scene {
	c := cluster.Postgres(t, testenv.Options{})
	c.NoRetries = true
	s := &scene{Cluster: c, t: t, fired: map[string]bool{}}
	carrier, err := url.Parse(testenv.RabbitMQAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	s.wire = testenv.StartProxy(t, carrier.Host)
	carrier.Host = s.wire.Address()
	s.redis = testenv.StartRedis(t, testenv.RedisOptions{})
	s.server = c.AddServer("--canary", "default=2s", "--ledger-conns", "4",
		"--broker", carrier.String(), "--default-route", "direct", "--cache", s.redis.URL())
	var workers []string
	work := func(args ...string) {
		address := "127.0.0.1:" + strconv.Itoa(testenv.FreePort(t))
		workers = append(workers, address)
		c.AddWorker(append(args, "-metrics", address)...)
	}
	work("-queues", "default,bad")
	work("-queues", "default,bad")
	work("-queues", "slow", "-concurrency", "1")
	s.prom = startPrometheus(t, c, hurried(t), map[string][]string{"errand": {s.server.URL()}, "workers": workers})
	s.vacuumOften()
	s.load()
	return s
}

// vacuumOften has PostgreSQL clean up after so few dead rows as the hurried rules allow.
func (s *scene) vacuumOften() {
	s.Postgres.Exec("errand", "ALTER TABLE errand.job_row SET (autovacuum_vacuum_threshold = 20, autovacuum_vacuum_scale_factor = 0)")
	s.Postgres.Exec("errand", "ALTER SYSTEM SET autovacuum_naptime = '1s'")
	s.Postgres.Exec("errand", "SELECT pg_reload_conf()")
}

// load hands in a few quick jobs, again and again, to the end of the test, some
// of which fail once. It does not mind outages.
func (s *scene) load() {
	client, task, done := s.NewClient(), errand.NewTask[cluster.Order](cluster.Kind), make(chan struct{})
	ctx := s.t.Context()
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil; n++ {
			order := cluster.Order{N: n, Millis: 5}
			if n%10 == 0 {
				order.Fails = 1
			}
			_, _ = task.Enqueue(ctx, client, order) // what matters here is what the server tells of it
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	s.t.Cleanup(func() { <-done })
}

// hurried writes the rules with short times, so that what takes minutes is seen
// in seconds; thresholds that are times are shortened alert by alert. The real
// times are promtool's to test.
func hurried(t *testing.T) string {
	t.Helper()
	text := read(t, rulesFile)
	for _, r := range []struct{ from, to string }{
		{`for: \d+[mh]`, "for: 1s"},
		{`\[(1h|6h)\]`, "[30s]"},
		{`\[(5m|10m|15m|30m)\]`, "[15s]"},
		{`offset 10m`, "offset 30s"},
		{`le=~"60\(\\\\.0\)\?"`, `le=~"1(\\.0)?"`},
		{`oldest_claimable_seconds\) > (300|60)`, "oldest_claimable_seconds) > 4"},
		{`interval_seconds\) \+ 30`, "interval_seconds) + 2"},
		{`oldest_transaction_seconds\) > 900`, "oldest_transaction_seconds) > 4"},
		{`lag_seconds\) > 60`, "lag_seconds) > 4"},
		{`\[1m\]`, "[2s]"},
		{`7 \* 86400`, "4"},
		{`rows\) > 1000000`, "rows) > 50"},
		{`wait_seconds_total\[15s\]\)\) > 1`, "wait_seconds_total[15s])) > 0.5"},
		{`gave_up_total\[15s\]\)\) > 0.2`, "gave_up_total[15s])) > 0.05"},
	} {
		re := regexp.MustCompile(r.from)
		if !re.MatchString(text) {
			t.Fatalf("the rules have nothing like %s", r.from)
		}
		text = re.ReplaceAllString(text, r.to)
	}
	path := filepath.Join(t.TempDir(), "hurried.yml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// silence waits until none of the alerts fires.
func (s *scene) silence(names ...string) {
	s.t.Helper()
	s.Eventually(fmt.Sprintf("%v are silent", names), func() (bool, string) {
		firing := s.prom.firing()
		for _, n := range names {
			if firing[n] {
				return false, fmt.Sprintf("firing: %v", slices.Sorted(maps.Keys(firing)))
			}
		}
		return true, ""
	})
}

// fire waits until each of the alerts has fired.
func (s *scene) fire(names ...string) {
	s.t.Helper()
	left := map[string]bool{}
	for _, n := range names {
		left[n] = true
	}
	s.Eventually(fmt.Sprintf("%v fire", names), func() (bool, string) {
		for n := range s.prom.firing() {
			delete(left, n)
		}
		return len(left) == 0, fmt.Sprintf("silent: %v", slices.Sorted(maps.Keys(left)))
	})
	for _, n := range names {
		s.fired[n] = true
	}
}

// act is one scenario: what is silent before fires while inject lasts, and is
// silent again when heal has mended it.
func (s *scene) act(name string, alerts []string, inject, heal func()) {
	s.t.Helper()
	began := time.Now()
	s.silence(alerts...)
	inject()
	s.fire(alerts...)
	heal()
	s.silence(alerts...)
	s.t.Logf("%s: %v, %s", name, alerts, time.Since(began).Round(time.Second))
}

func nothing() {}

// TestAlertsFireAndFallSilent plays a scenario for each alert: what goes wrong with the
// work before one Errand, what goes wrong with its parts before another, at the same time.
func TestAlertsFireAndFallSilent(t *testing.T) {
	all := []string{}
	for _, a := range alerts(t) {
		all = append(all, a.Alert)
	}
	var mu sync.Mutex
	fired := map[string]bool{}
	play := func(name string, acts func(*scene)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.Eventually("work is seen", func() (bool, string) {
				ok, err := s.prom.hasValue(`rate(errand_jobs_finished_total{outcome="succeeded"}[15s]) > 0`)
				return ok, fmt.Sprint(err)
			})
			s.silence(all...)
			acts(s)
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(fired, s.fired)
		})
	}
	t.Cleanup(func() { // when both have ended
		for _, name := range all {
			if !fired[name] {
				t.Errorf("there is no scenario for %s", name)
			}
		}
	})
	play("work", func(s *scene) { s.expressions(); s.queues(); s.workers() })
	play("parts", func(s *scene) { s.database(); s.carriers(); s.servers() })
}

// expressions runs every expression of dashboards and rules, with something of
// everything there.
func (s *scene) expressions() {
	s.t.Helper()
	s.enqueue("lost", "nobody.takes.it", cluster.Order{})
	s.enqueue("bad", cluster.Kind, cluster.Order{Discard: true})
	if a := s.CLI("", "enqueue", "errand.reserved", "{}"); a.Status == 0 {
		s.t.Error("a reserved kind was accepted")
	}
	waitFor := expressions(s.t)
	for _, r := range rules(s.t) {
		if _, err := s.prom.query(r.Expr); err != nil {
			s.t.Errorf("%s%s: %v", r.Alert, r.Record, err)
		}
	}
	s.Eventually("every panel has a value", func() (bool, string) {
		waitFor = slices.DeleteFunc(waitFor, func(e expression) bool {
			ok, err := s.prom.hasValue(e.expr)
			if err != nil {
				s.t.Errorf("%s: %s: %v", e.board, e.panel, err)
			}
			return ok || err != nil
		})
		return len(waitFor) == 0, fmt.Sprintf("empty: %q", waitFor)
	})
	s.exposed()
	s.Do("dead", "purge", "--queue", "bad", "--yes")
	s.cancel("lost")
}

// enqueue hands in one job and returns its id.
func (s *scene) enqueue(queue, kind string, o cluster.Order) errand.ID {
	s.t.Helper()
	id, err := errand.NewTask[cluster.Order](kind).Enqueue(s.t.Context(), s.Client(), o, errand.Queue(queue))
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// cancel cancels what waits in a queue.
func (s *scene) cancel(queue string) {
	s.t.Helper()
	page, err := s.Client().ListPage(s.t.Context(), errand.ListQuery{Queue: queue, State: errand.Ready})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, j := range page.Jobs {
		if _, err := s.Client().Cancel(s.t.Context(), j.ID); err != nil {
			s.t.Error(err)
		}
	}
}

func (s *scene) queues() {
	s.act("a kind that nobody takes", []string{"ErrandNoWorker"},
		func() { s.enqueue("lost", "nobody.takes.it", cluster.Order{}) },
		func() { s.cancel("lost") })
	s.act("a paused queue", []string{"ErrandQueuePaused"},
		func() { s.Do("queues", "pause", "held"); s.enqueue("held", cluster.Kind, cluster.Order{}) },
		func() { s.cancel("held"); s.Do("queues", "resume", "held") })
	s.act("jobs die", []string{"ErrandDeadLetters", "ErrandDeadLetterSurge", "ErrandDeadLettersOld", "ErrandAttemptsFail"},
		func() {
			for range 30 {
				s.enqueue("bad", cluster.Kind, cluster.Order{Discard: true})
			}
		},
		func() { s.Do("dead", "purge", "--all", "--yes") })
	s.act("more work than slots", []string{"ErrandQueueLate", "ErrandSaturated", "ErrandWaitBudgetBurnsFast", "ErrandWaitBudgetBurnsSlowly"},
		func() {
			for range 8 {
				s.enqueue("slow", cluster.Kind, cluster.Order{Millis: 3000})
			}
		}, func() { s.cancel("slow") })
	deaf := newHand(s, "deaf")
	s.act("a worker that is alive, and deaf", []string{"ErrandQueueStalled"},
		func() { s.enqueue("deaf", "k", cluster.Order{}); deaf.renew() },
		func() { s.cancel("deaf"); deaf.close() })
}

func (s *scene) workers() {
	s.act("a worker is killed", []string{"ErrandWorkersDied"},
		func() {
			id := s.enqueue("slow", cluster.Kind, cluster.Order{Millis: 60_000})
			s.Started(id)
			s.Workers[2].Kill()
		},
		func() { s.cancel("slow"); s.Workers[2].Start() })
	s.act("a worker freezes, and comes back", []string{"ErrandStaleResults"},
		func() {
			frozen := newHand(s, "cold")
			id := s.enqueue("cold", "k", cluster.Order{})
			j := frozen.lease()
			s.Eventually("the session is dead, and its job free", func() (bool, string) {
				job, err := s.Client().Job(s.t.Context(), id)
				return err == nil && frozen.lost() && job.State != errand.Running, "it lives, or holds the job"
			})
			frozen.settle(j)
		}, func() { s.cancel("cold") })
	s.act("most workers fall silent at once", []string{"ErrandBrake"},
		func() {
			for range 12 {
				newHand(s, "gone")
			}
		}, nothing)
}

func (s *scene) database() {
	s.act("a transaction is left open", []string{"ErrandXminHeld", "ErrandDeadRows"},
		func() { s.hold("SELECT count(*) FROM errand.job_row") },
		func() { s.letGo(); s.Postgres.Exec("errand", "VACUUM errand.job_row") })
	s.act("somebody locks the table of jobs", []string{"ErrandLedgerUnreachable", "ErrandScrapeIncomplete", "ErrandCanaryLate", "ErrandPoolWaits"},
		func() { s.hold("LOCK TABLE errand.job_row, errand.dead IN ACCESS EXCLUSIVE MODE") },
		func() {
			s.letGo()
			s.fire("ErrandLedgerSlow") // what took so long is counted when it has ended
		})
	s.act("the database is down", []string{"ErrandLedgerErrors", "ErrandCallsFail"},
		func() { s.Postgres.Kill() },
		func() { s.Postgres.Start() })
	s.silence("ErrandLedgerSlow")
}

func (s *scene) carriers() {
	s.Do("queues", "route", "carried", "rabbitmq")
	deaf := newHand(s, "carried")
	deaf.renew()
	s.act("a worker is alive, and leases no refs", []string{"ErrandRefsNotLeased"},
		func() {
			for range 20 {
				s.enqueue("carried", "k", cluster.Order{})
			}
		},
		func() { s.cancel("carried") })
	s.act("the carrier is cut off, and no hand takes a job", []string{"ErrandRelayLag"},
		func() { s.wire.Away(); s.enqueue("carried", "k", cluster.Order{}) },
		func() { s.wire.Back() })
	s.cancel("carried")
	deaf.close()
	s.act("Redis is gone", []string{"ErrandCacheAway"},
		func() { s.redis.Kill() },
		func() { s.redis.Start() })
	s.act("a server comes back without the relay's role", []string{"ErrandRelayLeaderless"},
		func() { s.restart(append(s.server.Args(), "--roles", "api,keeper")...) },
		func() { s.restart(s.server.Args()[:len(s.server.Args())-2]...) })
}

// restart stops the server as a deploy does, and starts it with other arguments.
func (s *scene) restart(args ...string) {
	s.t.Helper()
	s.server.Signal(syscall.SIGTERM)
	s.server.Wait(cluster.Patience)
	s.server.SetArgs(args...)
	s.server.Start()
	s.server.AwaitReady()
}

func (s *scene) servers() {
	s.act("a server comes back without its canary", []string{"ErrandCanaryAbsent"},
		func() { s.restart() }, nothing)
	s.act("the server is gone", []string{"ErrandServerDown", "ErrandAbsent"},
		func() { s.server.Kill() },
		func() { s.server.Start(); s.server.AwaitReady() })
}

// exposed holds docs/observability.md against what the server tells.
func (s *scene) exposed() {
	s.t.Helper()
	page := read(s.t, filepath.Join(root, "docs/observability.md"))
	seen := map[string]bool{} // by what the page lists
	for _, m := range regexp.MustCompile("(?m)^\\| `(errand_[a-z_]+)`").FindAllStringSubmatch(page, -1) {
		seen[m[1]] = false
	}
	var names []string
	if err := s.prom.get("/api/v1/label/__name__/values", &names); err != nil {
		s.t.Fatal(err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "errand_") {
			continue
		}
		base := regexp.MustCompile(`(_seconds)_(bucket|count|sum|created)$|_created$`).ReplaceAllString(name, "$1")
		if _, listed := seen[base]; !listed {
			s.t.Errorf("docs/observability.md does not list %s", base)
		}
		seen[base] = true
	}
	for name, exposed := range seen {
		if !exposed {
			s.t.Errorf("docs/observability.md lists %s, which nobody exposes", name)
		}
	}
}

// TestNativeHistograms: a Prometheus that asks for them gets native
// histograms, and computes quantiles of them.
func TestNativeHistograms(t *testing.T) {
	c := cluster.SQLite(t)
	server := c.AddServer("--canary", "default=1s")
	p := startPrometheus(t, c, "", map[string][]string{"errand": {server.URL()}}, "--enable-feature=native-histograms")
	c.Eventually("a native histogram has a quantile", func() (bool, string) {
		ok, err := p.hasValue(`histogram_quantile(0.9, sum(rate(errand_canary_round_trip_seconds[15s]))) > 0`)
		return ok, fmt.Sprint(err)
	})
}
