package rediscache

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/rueidis"
	"go.uber.org/goleak"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/cache/cachetest"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
)

// TestMain looks for leaks; the client's own pause before it asks a cluster for
// its nodes again outlives the client by a second.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

// name makes a ledger's name that no other test has.
func name() string { return strings.ToLower(rand.Text()[:16]) }

func TestConformance(t *testing.T) {
	address := testenv.RedisAddress(t)
	admin := adminOf(t, address)
	cachetest.Run(t, cachetest.Features{Shared: true}, func(t *testing.T) cachetest.Space {
		return space(t, admin, func(ledger string) cache.Cache { return must(t, address, ledger) })
	})
}

// TestConformanceWhileNobodyListens has all that may be in blocks written to blocks.
func TestConformanceWhileNobodyListens(t *testing.T) {
	address := testenv.RedisAddress(t)
	admin := adminOf(t, address)
	cachetest.Run(t, cachetest.Features{Shared: true, Quiet: true}, func(t *testing.T) cachetest.Space {
		s := space(t, admin, func(ledger string) cache.Cache { return unheard{must(t, address, ledger)} })
		s.Spread = true
		return s
	})
}

// unheard is a cache that knows that nobody listens, and tells all that is put.
type unheard struct{ *Cache }

func (u unheard) Put(ctx context.Context, entries []cache.Entry) error {
	u.alone.Store(true)
	told := slices.Clone(entries)
	for i := range told {
		told[i].Tell = true
	}
	return u.Cache.Put(ctx, told)
}

func must(t *testing.T, address, ledger string) *Cache {
	c, err := New(address, ledger)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func space(t *testing.T, admin rueidis.Client, open func(ledger string) cache.Cache) cachetest.Space {
	ledger := name()
	return cachetest.Space{
		Open: func() cache.Cache { return open(ledger) },
		Flush: func() {
			for _, key := range keysOf(t, admin, ledger) {
				if err := admin.Do(t.Context(), admin.B().Del().Key(key).Build()).Error(); err != nil {
					t.Fatal(err)
				}
			}
		},
		TTLs: func() (out []time.Duration) {
			for _, key := range keysOf(t, admin, ledger) {
				ms, err := admin.Do(t.Context(), admin.B().Pttl().Key(key).Build()).AsInt64()
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, time.Duration(ms)*time.Millisecond)
			}
			return out
		},
	}
}

func adminOf(t *testing.T, address string) rueidis.Client {
	t.Helper()
	option, err := ParseURL(address)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := rueidis.NewClient(option)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	return admin
}

// keysOf returns all keys that have to do with a ledger.
func keysOf(t *testing.T, admin rueidis.Client, ledger string) (keys []string) {
	t.Helper()
	for cursor := uint64(0); ; {
		page, err := admin.Do(t.Context(), admin.B().Scan().Cursor(cursor).Match("*"+ledger+"*").Count(1000).Build()).AsScanEntry()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, page.Elements...)
		if cursor = page.Cursor; cursor == 0 {
			return keys
		}
	}
}

func BenchmarkCache(b *testing.B) {
	c, err := New(testenv.RedisAddress(b), name())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	cachetest.Bench(b, c)
}

// TestSizeOfAnEntry holds docs/cache.md to what an entry takes of Redis's memory.
func TestSizeOfAnEntry(t *testing.T) {
	for name, c := range map[string]struct {
		tell bool
		most int64
	}{"with a key of its own": {false, 600}, "in a block": {true, 200}} {
		t.Run(name, func(t *testing.T) { sizeOfAnEntry(t, c.tell, c.most) })
	}
}

func sizeOfAnEntry(t *testing.T, tell bool, most int64) {
	r := testenv.StartRedis(t, testenv.RedisOptions{})
	c := must(t, r.URL(), name())
	defer func() { _ = c.Close() }()
	report := func() int64 {
		got, err := Examine(t.Context(), r.URL())
		if err != nil {
			t.Fatal(err)
		}
		return got.Used
	}
	const n = 20_000
	before := report()
	c.alone.Store(true)
	for i := range n / 1000 {
		batch := make([]cache.Entry, 1000)
		for k := range batch {
			batch[k] = cache.Entry{
				ID: job.ID(uuid.Must(uuid.NewV7())), Queue: "default", Kind: "email.welcome", State: job.Succeeded, Priority: 5,
				Attempt: 1, MaxAttempts: 25, RunAt: time.Now(), Version: 3, Token: int64(i), At: time.Now(), TTL: time.Minute, Tell: tell,
			}
		}
		if err := c.Put(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	each := (report() - before) / n
	t.Logf("%d bytes an entry", each)
	if each > most {
		t.Errorf("an entry takes %d bytes; docs/cache.md says less", each)
	}
}
