package config

import (
	"fmt"
	"net/url"
	"strings"
)

// The kinds of cache that an address may name.
const (
	CacheMemory = "memory"
	CacheNone   = "none"
	CacheRedis  = "redis"
)

// Cache is the address of a cache, taken apart.
type Cache struct {
	Kind string // CacheMemory, CacheNone or CacheRedis
	URL  string // of Redis: the whole address, with its password
}

// ParseCache reads "memory", "none", "redis://…" or "rediss://…"; what comes
// behind the scheme is the driver's to check. Its errors never show what may be a password.
func ParseCache(s string) (Cache, error) {
	if s == CacheMemory || s == CacheNone {
		return Cache{Kind: s}, nil
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || rest == "" || scheme != "redis" && scheme != "rediss" {
		return Cache{}, fmt.Errorf("cache %s: is not one of memory, none, redis://…, rediss://…", redact(s))
	}
	if _, err := url.Parse(s); err != nil {
		return Cache{}, fmt.Errorf("cache %s: is not a valid URL", redact(s))
	}
	return Cache{Kind: CacheRedis, URL: s}, nil
}

// String shows where the cache is, and no password.
func (c Cache) String() string {
	if c.Kind == CacheRedis {
		return redact(c.URL)
	}
	return c.Kind
}

// GoString implements fmt.GoStringer.
func (c Cache) GoString() string { return c.String() }

// CacheKind is the kind of cache that is set. A checked configuration has a valid one.
func (c Server) CacheKind() string {
	addr, err := ParseCache(c.Cache)
	if err != nil {
		return CacheNone
	}
	return addr.Kind
}
