package embedded_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/errandhq/errand"
	"github.com/errandhq/errand/embedded"
	"github.com/errandhq/errand/internal/testenv"
)

// TestWatchAndStates watches a job from its enqueue to its end, and asks for
// its state, on each ledger and cache.
func TestWatchAndStates(t *testing.T) {
	onEach(t, func(t *testing.T, ledger string) {
		for _, cache := range []string{"memory", "none", testenv.RedisAddress(t)} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c := open(t, embedded.Config{Ledger: ledger, Cache: cache})
			id, err := double.Enqueue(ctx, c, args{1})
			if err != nil {
				t.Fatal(err)
			}
			w := &errand.Worker{Client: c}
			errand.Handle(w, double, func(context.Context, *errand.Job[args]) error { return nil })
			stop := work(t, w)
			var got []errand.State
			for e, err := range c.Watch(ctx, errand.WatchQuery{IDs: []errand.ID{id}}) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, e.State)
			}
			if got[len(got)-1] != errand.Succeeded {
				t.Errorf("%s: told of %v", cache, got)
			}
			states, err := c.States(ctx, id)
			if err != nil || len(states) != 1 || states[0].State != errand.Succeeded || states[0].Attempt != 1 || states[0].Kind != "double" {
				t.Errorf("%s: %+v, %v", cache, states, err)
			}
			stop()
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestCloseEndsWatches: Close does not wait for a watch that would never end.
func TestCloseEndsWatches(t *testing.T) {
	c, err := embedded.Open(t.Context(), embedded.Config{Path: t.TempDir() + "/errand.db"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		var last error
		for _, err := range c.Watch(context.Background(), errand.WatchQuery{}) {
			last = err
		}
		ended <- last
	}()
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	for range 2 {
		select {
		case err := <-closed:
			if err != nil {
				t.Errorf("Close: %v", err)
			}
		case err := <-ended:
			if err == nil {
				t.Error("the watch ended without an error")
			}
		case <-time.After(patience):
			t.Fatal("Close and the watch wait for each other")
		}
	}
}

func TestABadCacheIsRefused(t *testing.T) {
	for _, bad := range []string{"disk", "redis://", "redis://u:s3cret@h:port", "redis://u:s3cret@h?colour=1", "http://u:s3cret@h"} {
		_, err := embedded.Open(t.Context(), embedded.Config{Path: t.TempDir() + "/errand.db", Cache: bad})
		if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "cache") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
