package rediscache

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/goleak"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/cache/cachetest"
	"github.com/errandhq/errand/internal/testenv"
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
		ledger := name()
		return cachetest.Space{
			Open: func() cache.Cache {
				c, err := New(address, ledger)
				if err != nil {
					t.Fatal(err)
				}
				return c
			},
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
	})
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
