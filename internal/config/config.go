// Package config is what a server can be told, and how: by flags, which win
// over environment variables (ERRAND_ and the flag's name in capitals), which
// win over one TOML file, which wins over the defaults. It checks every setting
// and names the one that is wrong; what it prints holds no secret.
package config

import (
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// Server is every setting of "errand serve". Durations are written as 30s, 5m
// or 24h. A setting's flag is its TOML name with dashes for underscores.
type Server struct {
	Ledger          string        `toml:"ledger" env:"LEDGER"`               // see ParseLedger; empty: a file in Data
	LedgerConns     int           `toml:"ledger_conns" env:"LEDGER_CONNS"`   // connections to PostgreSQL
	LedgerListen    string        `toml:"ledger_listen" env:"LEDGER_LISTEN"` // PostgreSQL's own address, behind a pooler
	Data            string        `toml:"data" env:"DATA"`                   // directory of the SQLite file
	Migrate         string        `toml:"migrate" env:"MIGRATE"`             // auto or check
	Broker          Addresses     `toml:"broker" env:"BROKER"`               // see ParseBroker; none: every queue is leased directly
	DefaultRoute    string        `toml:"default_route" env:"DEFAULT_ROUTE"` // direct, rabbitmq or kafka; empty: see defaultRoute
	Roles           Roles         `toml:"roles" env:"ROLES"`
	Cache           string        `toml:"cache" env:"CACHE"`                     // see ParseCache
	CacheTTL        time.Duration `toml:"cache_ttl" env:"CACHE_TTL"`             // of final states in it
	Listen          string        `toml:"listen" env:"LISTEN"`                   // host:port
	AuthTokenFile   string        `toml:"auth_token_file" env:"AUTH_TOKEN_FILE"` // empty: no authentication
	TLSCert         string        `toml:"tls_cert" env:"TLS_CERT"`
	TLSKey          string        `toml:"tls_key" env:"TLS_KEY"`
	TLSInFront      bool          `toml:"tls_in_front" env:"TLS_IN_FRONT"` // a proxy ends TLS
	LogLevel        string        `toml:"log_level" env:"LOG_LEVEL"`       // debug, info, warn or error
	LogFormat       string        `toml:"log_format" env:"LOG_FORMAT"`     // text or json
	Metrics         bool          `toml:"metrics" env:"METRICS"`
	MetricsListen   string        `toml:"metrics_listen" env:"METRICS_LISTEN"`     // host:port of their own; empty: on Listen
	ScalerListen    string        `toml:"scaler_listen" env:"SCALER_LISTEN"`       // host:port for KEDA, without tokens; empty: with everything else only
	ScalerClientCA  string        `toml:"scaler_client_ca" env:"SCALER_CLIENT_CA"` // PEM
	MetricsNames    int           `toml:"metrics_names" env:"METRICS_NAMES"`       // queues, and kinds, with labels of their own
	Canary          Intervals     `toml:"canary" env:"CANARY"`
	DrainDelay      time.Duration `toml:"drain_delay" env:"DRAIN_DELAY"`
	Grace           time.Duration `toml:"grace" env:"GRACE"`
	SessionTTL      time.Duration `toml:"session_ttl" env:"SESSION_TTL"`
	PollInterval    time.Duration `toml:"poll_interval" env:"POLL_INTERVAL"`
	Insights        bool          `toml:"insights" env:"INSIGHTS"` // add up what became of jobs
	InsightsKeep    time.Duration `toml:"insights_keep" env:"INSIGHTS_KEEP"`
	ArchiveKeep     time.Duration `toml:"archive_keep" env:"ARCHIVE_KEEP"`
	DeadKeep        time.Duration `toml:"dead_keep" env:"DEAD_KEEP"` // zero: until a person removes them
	IdempotencyKeep time.Duration `toml:"idempotency_keep" env:"IDEMPOTENCY_KEEP"`
	MaxDepth        Depths        `toml:"max_depth" env:"MAX_DEPTH"`
	MaxPayload      Size          `toml:"max_payload" env:"MAX_PAYLOAD"`
	CrashLimit      int           `toml:"crash_limit" env:"CRASH_LIMIT"`
	BackoffBase     time.Duration `toml:"backoff_base" env:"BACKOFF_BASE"`
	BackoffCap      time.Duration `toml:"backoff_cap" env:"BACKOFF_CAP"`
}

// Default returns the defaults of design §3.6.
func Default() Server {
	return Server{
		Data: "errand-data", Migrate: "auto", Listen: "127.0.0.1:7420",
		LedgerConns: 16, Roles: Roles(engine.RoleAPI | engine.RoleRelay | engine.RoleKeeper),
		LogLevel: "info", LogFormat: "text", Metrics: true, MetricsNames: 100,
		Insights: true, InsightsKeep: ledger.DefaultKeep.Stats,
		Cache: CacheMemory, CacheTTL: 5 * time.Minute,
		Grace: 30 * time.Second, SessionTTL: 30 * time.Second, PollInterval: 500 * time.Millisecond,
		ArchiveKeep: ledger.DefaultKeep.Archive, DeadKeep: ledger.DefaultKeep.Dead,
		IdempotencyKeep: ledger.DefaultKeep.Idempotency,
		MaxPayload:      job.MaxPayload, CrashLimit: 3, BackoffBase: time.Second, BackoffCap: time.Hour,
	}
}

// LedgerAddress returns the ledger to open: the one named, or the file
// errand.db in the data directory. A checked configuration has a valid one.
func (c Server) LedgerAddress() (Ledger, error) {
	if c.Ledger == "" {
		return Ledger{Engine: SQLite, Path: filepath.Join(c.Data, "errand.db")}, nil
	}
	return ParseLedger(c.Ledger)
}

// Engine returns the engine's part.
func (c Server) Engine(log *slog.Logger) engine.Config {
	return engine.Config{
		SessionTTL: c.SessionTTL, PollInterval: c.PollInterval,
		MaxPayload: int(c.MaxPayload), MaxDepth: c.MaxDepth, CrashLimit: c.CrashLimit,
		BackoffBase: c.BackoffBase, BackoffCap: c.BackoffCap,
		Keep:     ledger.Keep{Archive: c.ArchiveKeep, Dead: c.DeadKeep, Idempotency: c.IdempotencyKeep, Stats: c.InsightsKeep},
		Insights: c.Insights,
		Logger:   log, DefaultRoute: c.defaultRoute(), Roles: engine.Role(c.Roles),
		CacheTTL: c.CacheTTL,
	}
}

// String shows every setting that is not at its default, and no secret.
func (c Server) String() string {
	out := ""
	d := Default()
	theirs := d.settings()
	for i, s := range c.settings() {
		if s.value.String() == theirs[i].value.String() {
			continue
		}
		if out != "" {
			out += " "
		}
		out += fmt.Sprintf("%s=%s", s.flag, s.shown())
	}
	return out
}

// GoString implements fmt.GoStringer: %#v shows no secret either.
func (c Server) GoString() string { return "config.Server{" + c.String() + "}" }

// LogValue implements slog.LogValuer.
func (c Server) LogValue() slog.Value { return slog.StringValue(c.String()) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
