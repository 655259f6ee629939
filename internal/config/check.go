package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"time"

	"github.com/errandhq/errand/job"
)

// Check holds every setting against what is allowed and returns all that is
// wrong, each naming its setting.
func (c Server) Check() error {
	_, ledgerErr := c.LedgerAddress()
	_, cacheErr := ParseCache(c.Cache)
	_, _, listenErr := net.SplitHostPort(c.Listen)
	errs := []error{
		ledgerErr,
		cacheErr,
		c.checkDepths(),
		c.checkRoutes(),
		c.checkCanaries(),
		c.checkMetrics(),
		c.checkScaler(),
		between("metrics-names", c.MetricsNames, 1, 10_000),
		oneOf("migrate", c.Migrate, "auto", "check"),
		oneOf("log-level", c.LogLevel, "debug", "info", "warn", "error"),
		oneOf("log-format", c.LogFormat, "text", "json"),
		between("ledger-conns", c.LedgerConns, 2, 1000),
		between("session-ttl", c.SessionTTL, time.Second, time.Hour),
		between("poll-interval", c.PollInterval, 10*time.Millisecond, time.Minute),
		between("grace", c.Grace, time.Second, time.Hour),
		between("drain-delay", c.DrainDelay, 0, max(c.Grace-time.Second, 0)),
		between("archive-keep", c.ArchiveKeep, time.Minute, job.MaxDelay),
		between("dead-keep", c.DeadKeep, 0, job.MaxDelay),
		between("insights-keep", c.InsightsKeep, time.Hour, job.MaxDelay),
		between("idempotency-keep", c.IdempotencyKeep, time.Minute, job.MaxDelay),
		between("cache-ttl", c.CacheTTL, time.Second, 24*time.Hour),
		between("max-payload", c.MaxPayload, 1, 64<<20),
		between("crash-limit", c.CrashLimit, 1, 1000),
		between("backoff-base", c.BackoffBase, time.Millisecond, c.BackoffCap),
		between("backoff-cap", c.BackoffCap, time.Millisecond, job.MaxDelay),
	}
	if listenErr != nil {
		errs = append(errs, fmt.Errorf("listen: %q is not of the form host:port", c.Listen))
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		errs = append(errs, fmt.Errorf("tls-cert and tls-key: go together, and only one is set"))
	}
	if c.Ledger == "" && c.Data == "" {
		errs = append(errs, fmt.Errorf("data: is empty, and no ledger is named"))
	}
	return errors.Join(errs...)
}

func (c Server) checkDepths() error {
	for _, q := range sortedKeys(c.MaxDepth) {
		if err := job.CheckName("queue", q); err != nil {
			return fmt.Errorf("max-depth: %w", err)
		}
		if c.MaxDepth[q] < 1 {
			return fmt.Errorf("max-depth: %d for %s is not positive", c.MaxDepth[q], q)
		}
	}
	return nil
}

func (c Server) checkCanaries() error {
	if len(c.Canary) > 0 && !c.Metrics {
		return fmt.Errorf("canary: is set, and metrics is false: nobody would see it")
	}
	for _, q := range sortedKeys(c.Canary) {
		if err := job.CheckName("queue", q); err != nil {
			return fmt.Errorf("canary: %w", err)
		}
		if d := c.Canary[q]; d < time.Second || d > time.Hour {
			return fmt.Errorf("canary: %s for %s is not between 1s and 1h", d, q)
		}
	}
	return nil
}

func (c Server) checkMetrics() error {
	if c.MetricsListen == "" {
		return nil
	}
	if !c.Metrics {
		return fmt.Errorf("metrics-listen: is set, and metrics is false")
	}
	if _, _, err := net.SplitHostPort(c.MetricsListen); err != nil {
		return fmt.Errorf("metrics-listen: %q is not of the form host:port", c.MetricsListen)
	}
	return nil
}

func (c Server) checkScaler() error {
	if c.ScalerListen != "" {
		if _, _, err := net.SplitHostPort(c.ScalerListen); err != nil {
			return fmt.Errorf("scaler-listen: %q is not of the form host:port", c.ScalerListen)
		}
	}
	if c.ScalerClientCA != "" && (c.ScalerListen == "" || c.TLSCert == "") {
		return fmt.Errorf("scaler-client-ca: needs scaler-listen, tls-cert and tls-key")
	}
	return nil
}

// Level returns the log level that was set.
func (c Server) Level() slog.Level {
	var l slog.Level
	if l.UnmarshalText([]byte(c.LogLevel)) != nil {
		return slog.LevelInfo
	}
	return l
}

func oneOf(name, v string, allowed ...string) error {
	if slices.Contains(allowed, v) {
		return nil
	}
	return fmt.Errorf("%s: %q is not one of %s", name, v, join(allowed))
}

func join(words []string) string {
	out := words[0]
	for _, w := range words[1:] {
		out += ", " + w
	}
	return out
}

func between[T int | Size | time.Duration](name string, v, least, most T) error {
	if v >= least && v <= most {
		return nil
	}
	return fmt.Errorf("%s: %v is not between %v and %v", name, v, least, most)
}

// fieldEnv maps a field's name to its environment variable, without prefix:
// the environment's reader names fields in its errors.
var fieldEnv = func() map[string]string {
	out := map[string]string{}
	for f := range reflect.TypeFor[Server]().Fields() {
		out[f.Name] = f.Tag.Get("env")
	}
	return out
}()
