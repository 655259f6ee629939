package main

import (
	"slices"
	"strings"
	"time"

	"github.com/errandhq/errand/internal/bench"
)

// system is something that is measured.
type system struct {
	name      string
	label     string
	group     string // what it stands on, and whom it is compared with
	module    string // whose version is shown; empty: none
	scenarios []string
	batch     int // jobs of a call in bulk; zero: 1000
	bulk      int // producers in bulk and to fill; zero: 16
	on        host
	settings  string // where they are from
}

// host is how a system is run.
type host int

const (
	onErrand       host = iota // errand bench
	onErrandServer             // errand serve, and errand bench --server
	onGo                       // this program
	onNode                     // a script in node/
)

// The groups: systems on the same servers are compared with each other.
const (
	onPostgres = "PostgreSQL"
	onSQLite   = "SQLite"
	onRedis    = "Redis"
	onCarrier  = "carriers"
)

var everything = []string{"bulk", "drain", "single16", "single64", "latency", "steady"}

// systems lists all, Errand first in its groups.
var systems = []system{
	{name: "errand", label: "Errand", group: onPostgres, scenarios: append(everything[:6:6], "pinned", "backlog")},
	{name: "errand-server", label: "Errand through a server", group: onPostgres, scenarios: everything, on: onErrandServer},
	{name: "errand-redis", label: "Errand, states in Redis", group: onPostgres, scenarios: everything},
	{name: "river", label: "River", group: onPostgres, module: "github.com/riverqueue/river", scenarios: everything, on: onGo,
		batch: 5000, bulk: 4, settings: "its own benchmark (`river bench`): 2000 workers, fetch cooldown 2 ms, poll 20 ms, batches of 5000; InsertManyFast (COPY)"},
	{name: "graphile", label: "graphile-worker", group: onPostgres, module: "graphile-worker", scenarios: everything[:5], on: onNode,
		bulk: 4, settings: "the performance page of its documentation: concurrentJobs 24, maxPoolSize 25, localQueue 500, completeJobBatchDelay 0"},
	{name: "raw-postgres", label: "raw: COPY 1000, claim + finish 1000", group: onPostgres, scenarios: []string{"bulk", "drain", "single16", "single64"}, on: onGo,
		bulk: 2, settings: "no queue: the statements alone, two connections"},

	{name: "errand", label: "Errand", group: onSQLite, scenarios: append(everything[:6:6], "backlog")},
	{name: "errand-server", label: "Errand through a server", group: onSQLite, scenarios: everything, on: onErrandServer},
	{name: "river-sqlite", label: "River on SQLite", group: onSQLite, module: "github.com/riverqueue/river", scenarios: everything, on: onGo,
		bulk: 4, settings: "as River; one connection, as its driver's documentation says"},
	{name: "goqite", label: "goqite", group: onSQLite, module: "maragu.dev/goqite", scenarios: everything, on: onGo,
		bulk: 4, settings: "its README: cgo driver, WAL, one connection, but with synchronous=FULL, which its driver leaves off; its job runner with a limit of 10, poll 1 ms; 1000 messages a transaction"},
	{name: "raw-sqlite", label: "raw: insert, claim + finish 500", group: onSQLite, scenarios: []string{"bulk", "drain", "single16", "single64"}, on: onGo,
		bulk: 1, settings: "no queue: the statements alone, one connection"},

	{name: "asynq", label: "Asynq", group: onRedis, module: "github.com/hibiken/asynq", scenarios: everything, on: onGo,
		batch: 1000, bulk: 4, settings: "concurrency 200, TaskCheckInterval 5 ms; no bulk call: 16 goroutines a batch"},
	{name: "bullmq", label: "BullMQ", group: onRedis, module: "bullmq", scenarios: everything[:5], on: onNode,
		bulk: 4, settings: "its guide on concurrency: 300; addBulk; removeOnComplete"},

	{name: "errand", label: "Errand on PostgreSQL", group: onCarrier, scenarios: everything},
	{name: "errand-rabbitmq", label: "Errand on PostgreSQL by RabbitMQ", group: onCarrier, scenarios: []string{"drain", "latency", "steady"}},
	{name: "errand-kafka", label: "Errand on PostgreSQL by Kafka", group: onCarrier, scenarios: []string{"drain", "latency", "steady"}},
	{name: "rabbitmq", label: "RabbitMQ", group: onCarrier, scenarios: everything, on: onGo,
		bulk: 4, settings: "quorum queue, confirms after each 1000, prefetch 2000, acknowledgements of 200"},
	{name: "kafka", label: "Kafka", group: onCarrier, scenarios: everything, on: onGo,
		bulk: 4, settings: "one broker, 4 partitions; idempotent producer, acks=all, linger 1 ms; a consumer group that commits after each poll"},
	{name: "nats", label: "NATS JetStream", group: onCarrier, scenarios: everything, on: onGo,
		bulk: 4, settings: "file storage at its default sync interval (an answer is not yet on disk), async publishing, pull consumer"},
}

// carrier is what brings the system's jobs, if it is in that group.
func (s system) carrier() string { return strings.TrimPrefix(s.name, "errand-") }

// systemNames lists what -peers may name: all but Errand, which always runs.
func systemNames() []string {
	var names []string
	for _, s := range systems {
		if s.name != "errand" && !slices.Contains(names, s.name) {
			names = append(names, s.name)
		}
	}
	return names
}

// scenario is a scenario of internal/bench with a number of callers.
type scenario struct {
	name    string
	of      string
	callers int // zero: the system's own
	title   string
}

var scenarios = []scenario{
	{name: "bulk", of: bench.Bulk, title: "bulk enqueue"},
	{name: "drain", of: bench.Drain, title: "drain"},
	{name: "single16", of: bench.Single, callers: 16, title: "one a call, 16 callers"},
	{name: "single64", of: bench.Single, callers: 64, title: "one a call, 64 callers"},
	{name: "latency", of: bench.Latency, callers: 16, title: "latency p50 / p99 ms"},
	{name: "steady", of: bench.Steady, title: "steady"},
	// Of Errand alone, when they are named: these are ratios of what it reaches by itself.
	{name: "pinned", of: bench.Pinned, title: "last part of steady, beside an open transaction / without"},
	{name: "backlog", of: bench.Backlog, title: "first tenth of ten times the jobs / as many alone"},
}

// isRate reports whether what is compared is jobs a second.
func (sc scenario) isRate() bool {
	return sc.of != bench.Latency && sc.of != bench.Pinned && sc.of != bench.Backlog
}

func scenarioNames() []string {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return names
}

func findScenario(name string) scenario {
	return scenarios[slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })]
}

// plan is the load of a scenario on a system.
func (o options) plan(sys system, sc scenario) bench.Plan {
	p := bench.DefaultPlan()
	p.Jobs, p.Payload, p.Duration, p.Batch = o.jobs, o.payload, o.duration, sys.batch
	if sys.bulk > 0 {
		p.Producers = sys.bulk
	}
	if sc.callers > 0 {
		p.Producers = sc.callers
	}
	if sc.of == bench.Single {
		p.Jobs = max(100, o.jobs/5)
	}
	if sc.of == bench.Latency {
		p.Rate = o.rate
	}
	if sc.of == bench.Backlog {
		p.Jobs = 10 * o.jobs
	}
	return p
}

// patience is how long one measurement may take: the slowest peers make a
// thousand calls a second.
func patience(p bench.Plan) time.Duration {
	return 2*time.Minute + p.Duration + time.Duration(p.Jobs)*5*time.Millisecond
}
