package main

import (
	"strings"
	"testing"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/testenv"
)

// statusOf returns what the doctor found of each check.
func statusOf(findings []finding) map[string]finding {
	out := map[string]finding{}
	for _, f := range findings {
		out[f.Check] = f
	}
	return out
}

// TestTheDoctorExaminesRedis asks a real one that lacks a bound, one that would
// refuse when full, one that is as it should be, one that does not let the user write, and none.
func TestTheDoctorExaminesRedis(t *testing.T) {
	r := testenv.StartRedis(t, testenv.RedisOptions{Password: "s3cret"})
	for name, c := range map[string]struct {
		config []string
		memory string
	}{
		"no bound":   {nil, "warning"},
		"noeviction": {[]string{"maxmemory 100mb", "maxmemory-policy noeviction"}, "warning"},
		"good":       {[]string{"maxmemory 100mb", "maxmemory-policy allkeys-lru"}, "ok"},
	} {
		for _, line := range c.config {
			r.Run(append([]string{"CONFIG", "SET"}, strings.Fields(line)...)...)
		}
		if c.config == nil {
			r.Run("CONFIG", "SET", "maxmemory", "0")
		}
		got := statusOf(examineRedis(t.Context(), r.URL()))
		if got["redis"].Status != "ok" || got["redis version"].Status != "ok" || got["redis permissions"].Status != "ok" || got["redis memory"].Status != c.memory {
			t.Errorf("%s: %+v", name, got)
		}
	}
	r.Run("ACL", "SETUSER", "poor", "on", ">p00r", "~*", "&*", "-@all", "+get", "+mget", "+hello", "+client", "+info", "+ping", "+cluster")
	poor := strings.NewReplacer("default", "poor", "s3cret", "p00r").Replace(r.URL())
	if got := statusOf(examineRedis(t.Context(), poor)); got["redis permissions"].Status != "wrong" || !strings.Contains(got["redis permissions"].Found, "NOPERM") {
		t.Errorf("without permissions: %+v", got)
	}
	// What the advice and docs/cache.md say is enough.
	r.Run(append([]string{"ACL", "SETUSER", "least", "on", ">le4st"}, strings.Fields(leastACL)...)...)
	least := strings.NewReplacer("default", "least", "s3cret", "le4st").Replace(r.URL())
	if got := statusOf(examineRedis(t.Context(), least)); got["redis permissions"].Status != "ok" {
		t.Errorf("with the least permissions: %+v", got)
	}
	r.Kill()
	for _, f := range examineRedis(t.Context(), r.URL()) {
		if f.Status != "wrong" || strings.Contains(f.Found+f.Advice, "s3cret") {
			t.Errorf("away: %+v", f)
		}
	}
}

func TestTheDoctorSpeaksOfTheServersCache(t *testing.T) {
	for name, c := range map[string]struct {
		info   errand.ServerInfo
		status string
	}{
		"well":    {errand.ServerInfo{Cache: "redis", CacheHits: 7, CacheMisses: 1}, "ok"},
		"away":    {errand.ServerInfo{Cache: "redis", CacheAway: true}, "warning"},
		"drifted": {errand.ServerInfo{Cache: "redis", CacheDrift: 1}, "warning"},
	} {
		if f := cacheFinding(c.info); f.Status != c.status || (f.Status == "ok") != (f.Advice == "") {
			t.Errorf("%s: %+v", name, f)
		}
	}
}
