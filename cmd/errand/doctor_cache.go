package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	errand "github.com/errandhq/errand"

	"github.com/errandhq/errand/internal/config"
)

// The first Redis with all that the cache uses (the RESP3 protocol).
const leastRedis = 6

// leastACL is what a user of Redis must be allowed.
const leastACL = "~{errand:* &errand:* +eval +evalsha +get +mget +set +append +pttl +strlen +del +publish +subscribe +unsubscribe +hello +client +ping +info +cluster|slots +cluster|shards"

// cacheFinding says what the server's own cache does.
func cacheFinding(info errand.ServerInfo) finding {
	f := finding{Check: "cache", Status: "ok", Found: info.Cache}
	if asked := info.CacheHits + info.CacheMisses; asked > 0 {
		f.Found += fmt.Sprintf("; answered %d of %d questions", info.CacheHits, asked)
	}
	switch {
	case info.CacheAway:
		f.Status, f.Found = "warning", f.Found+"; it does not answer"
		f.Advice = "States come from the ledger meanwhile: right, and slower. Look at Redis with 'errand doctor --cache redis://…'."
	case info.CacheDrift > 0:
		f.Status, f.Found = "warning", f.Found+fmt.Sprintf("; %d final states in it were wrong, and repaired", info.CacheDrift)
		f.Advice = "Deletes got lost on their way to the cache, as they do when it is away or flushed. A lower --cache-ttl bounds it."
	}
	return f
}

// examineRedis looks at the Redis of a server's --cache.
func examineRedis(ctx context.Context, address string) []finding {
	addr, err := config.ParseCache(address)
	if err != nil {
		return []finding{{Check: "redis", Status: "wrong", Found: err.Error(), Advice: "Correct --cache."}}
	}
	if addr.Kind != config.CacheRedis {
		return []finding{{Check: "redis", Status: "ok", Found: "none: --cache is " + addr.Kind}}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := examineCache(ctx, addr.URL)
	if err != nil {
		return []finding{{Check: "redis", Status: "wrong", Found: fmt.Sprintf("%s: %v", addr, err),
			Advice: "Start it, or correct the address, user or password. Errand works without it: states come from the ledger."}}
	}
	kind := "one server"
	if r.Cluster {
		kind = "a cluster"
	}
	findings := []finding{{Check: "redis", Status: "ok", Found: fmt.Sprintf("%s answers, %s", addr, kind)}}
	if r.Version != "" {
		findings = append(findings, redisVersionFinding(r.Version))
	}
	permissions := finding{Check: "redis permissions", Status: "ok", Found: "keys, script and channel of the cache"}
	if r.Refused != nil {
		permissions.Status, permissions.Found = "wrong", r.Refused.Error()
		permissions.Advice = "Allow the user what the cache needs: ACL SETUSER … " + leastACL + ". If Redis is full, see its memory."
	}
	return append(findings, permissions, redisMemoryFinding(r.Used, r.MaxMemory, r.Policy))
}

func redisVersionFinding(version string) finding {
	f := finding{Check: "redis version", Status: "ok", Found: version}
	if major, err := strconv.Atoi(version[:max(strings.IndexByte(version, '.'), 0)]); err == nil && major < leastRedis {
		f.Status, f.Advice = "wrong", fmt.Sprintf("Use Redis %d or later.", leastRedis)
	}
	return f
}

// redisMemoryFinding: any eviction is harmless, and so is a restart without persistence; what
// hurts is a Redis that refuses to write, or takes the machine's memory.
func redisMemoryFinding(used, bound int64, policy string) finding {
	f := finding{Check: "redis memory", Status: "ok", Found: fmt.Sprintf("%d MiB used, maxmemory %d MiB, %s", used>>20, bound>>20, policy)}
	switch {
	case bound == 0:
		f.Status, f.Found = "warning", fmt.Sprintf("%d MiB used, no maxmemory", used>>20)
		f.Advice = "Set maxmemory, with maxmemory-policy allkeys-lru or volatile-ttl: the cache can lose anything."
	case policy == "noeviction":
		f.Status = "warning"
		f.Advice = "When it is full new states are refused, and come from the ledger. Set maxmemory-policy allkeys-lru or volatile-ttl, unless others need it so."
	}
	return f
}
