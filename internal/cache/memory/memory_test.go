package memory_test

import (
	"testing"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/cache/cachetest"
	"github.com/errandhq/errand/internal/cache/memory"
	"github.com/errandhq/errand/job"
)

func TestConformance(t *testing.T) {
	cachetest.Run(t, cachetest.Features{}, func(t *testing.T) cachetest.Space {
		c := memory.New(0)
		return cachetest.Space{Open: func() cache.Cache { return c }, Flush: func() { _ = c.Close() }}
	})
}

// TestItForgetsWhatWasNotUsed fills a small cache beyond its size.
func TestItForgetsWhatWasNotUsed(t *testing.T) {
	c := memory.New(10)
	ids := make([]job.ID, 30)
	for i := range ids {
		ids[i] = job.ID{byte(i + 1)}
		if err := c.Put(t.Context(), []cache.Entry{{ID: ids[i], State: job.Ready, TTL: time.Hour}}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Get(t.Context(), ids[:1]); err != nil {
			t.Fatal(err)
		}
	}
	held, err := c.Get(t.Context(), ids)
	if err != nil || len(held) != 10 || held[0].ID != ids[0] {
		t.Errorf("%d held, %v: want 10, the one in use among them", len(held), err)
	}
}
