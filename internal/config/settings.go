package config

import (
	"strings"

	"github.com/spf13/pflag"
)

// setting ties a field to its flag.
type setting struct {
	flag   string
	usage  string
	value  pflag.Value
	secret bool // an address that may hold a password
}

// shown is the value as it may be printed.
func (s setting) shown() string {
	if s.secret {
		var shown []string
		for one := range strings.FieldsSeq(s.value.String()) {
			shown = append(shown, redact(one))
		}
		return strings.Join(shown, " ")
	}
	return s.value.String()
}

// settings lists every setting once: flags, environment and file are the same
// names in three spellings, which a test holds.
func (c *Server) settings() []setting {
	f := pflag.NewFlagSet("", pflag.ContinueOnError) // makes pflag.Values of the fields
	f.StringVar(&c.Ledger, "ledger", c.Ledger, "where jobs are kept: sqlite:PATH or postgres://… (default: errand.db in the data directory)")
	f.IntVar(&c.LedgerConns, "ledger-conns", c.LedgerConns, "connections to PostgreSQL at most")
	f.StringVar(&c.LedgerListen, "ledger-listen", c.LedgerListen, "behind a pooler: PostgreSQL's own address, to hear of new work at once")
	f.StringVar(&c.Data, "data", c.Data, "directory of the SQLite file, made if it is not there")
	f.StringVar(&c.Migrate, "migrate", c.Migrate, "auto: bring the schema up to date; check: refuse to start if it is not")
	f.Var(&c.Broker, "broker", "carrier of ready jobs: amqp://… or kafka://HOST,HOST…; may be repeated, one of each kind")
	f.StringVar(&c.DefaultRoute, "default-route", c.DefaultRoute, "route of queues without one of their own: direct, rabbitmq or kafka (default: the broker, if there is one)")
	f.Var(&c.Roles, "roles", "what this process does: api (answers calls), relay (feeds the brokers), keeper (rescues, promotes, keeps house)")
	f.StringVar(&c.Cache, "cache", c.Cache, "fast view of job states: memory, none, or one that servers share, redis://… or rediss://…")
	f.DurationVar(&c.CacheTTL, "cache-ttl", c.CacheTTL, "how long the cache keeps final states")
	f.StringVar(&c.Listen, "listen", c.Listen, "address to serve on; others than loopback need tokens and TLS")
	f.StringVar(&c.AuthTokenFile, "auth-token-file", c.AuthTokenFile, "file of the callers' token hashes (errand token new)")
	f.StringVar(&c.TLSCert, "tls-cert", c.TLSCert, "certificate chain, PEM")
	f.StringVar(&c.TLSKey, "tls-key", c.TLSKey, "key of the certificate, PEM")
	f.BoolVar(&c.TLSInFront, "tls-in-front", c.TLSInFront, "a proxy in front ends TLS: take tokens in the clear")
	f.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error")
	f.StringVar(&c.LogFormat, "log-format", c.LogFormat, "text or json")
	f.BoolVar(&c.Metrics, "metrics", c.Metrics, "serve /metrics for Prometheus")
	f.StringVar(&c.MetricsListen, "metrics-listen", c.MetricsListen, "serve /metrics on an address of its own, without tokens or TLS")
	f.StringVar(&c.ScalerListen, "scaler-listen", c.ScalerListen, "serve KEDA's external scaler on an address of its own, without tokens")
	f.StringVar(&c.ScalerClientCA, "scaler-client-ca", c.ScalerClientCA, "authorities whose certificates callers there must show, PEM")
	f.IntVar(&c.MetricsNames, "metrics-names", c.MetricsNames, "queues, and kinds, with labels of their own; the others are one, other")
	f.Var(&c.Canary, "canary", "send a job that does nothing through a queue every so often, as mail=30s, and measure it")
	f.DurationVar(&c.DrainDelay, "drain-delay", c.DrainDelay, "when stopping: how long to be not ready before calls are turned away")
	f.DurationVar(&c.Grace, "grace", c.Grace, "when stopping: how long to wait for calls under way")
	f.DurationVar(&c.SessionTTL, "session-ttl", c.SessionTTL, "a worker that was not heard of for so long is dead")
	f.DurationVar(&c.PollInterval, "poll-interval", c.PollInterval, "how late, at worst, new work of other processes is noticed")
	f.BoolVar(&c.Insights, "insights", c.Insights, "add up by the hour what becomes of jobs, for errand insights")
	f.DurationVar(&c.InsightsKeep, "insights-keep", c.InsightsKeep, "how long those sums are kept")
	f.DurationVar(&c.ArchiveKeep, "archive-keep", c.ArchiveKeep, "how long succeeded and cancelled jobs are kept")
	f.DurationVar(&c.DeadKeep, "dead-keep", c.DeadKeep, "how long dead letters are kept; 0: until a person removes them")
	f.DurationVar(&c.IdempotencyKeep, "idempotency-keep", c.IdempotencyKeep, "how long idempotency keys are kept")
	f.Var(&c.MaxDepth, "max-depth", "jobs that may wait in a queue, as mail=1000; * stands for all others")
	f.Var(&c.MaxPayload, "max-payload", "largest payload of a job")
	f.IntVar(&c.CrashLimit, "crash-limit", c.CrashLimit, "a job that took its worker down so often is dead")
	f.DurationVar(&c.BackoffBase, "backoff-base", c.BackoffBase, "ceiling of the delay before the second attempt; it doubles")
	f.DurationVar(&c.BackoffCap, "backoff-cap", c.BackoffCap, "no retry waits longer")
	var out []setting
	f.SortFlags = false
	f.VisitAll(func(g *pflag.Flag) {
		out = append(out, setting{
			flag: g.Name, usage: g.Usage, value: g.Value,
			secret: g.Name == "ledger" || g.Name == "ledger-listen" || g.Name == "broker" || g.Name == "cache",
		})
	})
	return out
}
