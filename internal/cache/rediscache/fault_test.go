package rediscache

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
)

// patience bounds the wait for a server that comes back, on a busy machine.
const patience = 30 * time.Second

func open(t *testing.T, address string) *Cache {
	t.Helper()
	c, err := New(address, name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func entry(n byte, version int64, s job.State) cache.Entry {
	return cache.Entry{ID: job.ID{15: n}, Queue: "q", Kind: "k", State: s, Version: version, At: time.UnixMicro(version).UTC(), TTL: time.Minute}
}

// within runs fn with a deadline, until it succeeds.
func within(t *testing.T, what string, fn func(ctx context.Context) error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err = fn(ctx)
		cancel()
		if err == nil {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Fatalf("%s: %v", what, err)
}

// one returns the only entry held of a job.
func one(ctx context.Context, c *Cache, n byte) (cache.Entry, error) {
	list, err := c.Get(ctx, []job.ID{{15: n}})
	if err != nil || len(list) != 1 {
		return cache.Entry{}, fmt.Errorf("%d held, %w", len(list), err)
	}
	return list[0], nil
}

// TestAwayAtFirst opens a cache whose server is not there yet.
func TestAwayAtFirst(t *testing.T) {
	r := testenv.StartRedis(t, testenv.RedisOptions{})
	r.Kill()
	c := open(t, r.URL())
	if err := c.Put(t.Context(), []cache.Entry{entry(1, 1, job.Ready)}); err == nil {
		t.Fatal("Put without a server went well")
	}
	r.Start()
	within(t, "Put to a server that came", func(ctx context.Context) error { return c.Put(ctx, []cache.Entry{entry(1, 1, job.Ready)}) })
}

// TestRestart kills the server under a watch. It comes back without the script,
// too.
func TestRestart(t *testing.T) {
	r := testenv.StartRedis(t, testenv.RedisOptions{Password: "secret"})
	c := open(t, r.URL())
	var missed atomic.Int32
	watch := func(ctx context.Context) error {
		return c.Watch(ctx, func(n cache.News) {
			if n.Missed {
				missed.Add(1)
			}
		})
	}
	within(t, "Put", func(ctx context.Context) error { return c.Put(ctx, []cache.Entry{entry(1, 1, job.Ready)}) })
	broken := make(chan error, 1)
	go func() { broken <- watch(t.Context()) }()
	within(t, "watch", func(context.Context) error { return atLeast(&missed, 1) })
	r.Kill()
	if err := <-broken; err == nil {
		t.Error("the watch does not tell that its line broke")
	}
	if _, err := one(t.Context(), c, 1); err == nil {
		t.Error("Get without a server went well")
	}
	r.Start()
	within(t, "Put after the restart", func(ctx context.Context) error { return c.Put(ctx, []cache.Entry{entry(2, 1, job.Ready)}) })
	within(t, "Get after the restart", func(ctx context.Context) error { _, err := one(ctx, c, 2); return err })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { broken <- watch(ctx) }()
	within(t, "watch again", func(context.Context) error { return atLeast(&missed, 2) })
	cancel()
	if err := <-broken; err != nil {
		t.Errorf("watch: %v", err)
	}
}

func atLeast(n *atomic.Int32, want int32) error {
	if got := n.Load(); got < want {
		return fmt.Errorf("told %d times that something may have been missed", got)
	}
	return nil
}

// TestFull fills a server that evicts nothing: it refuses what is new, says what
// it has, and the tombstone that it refuses takes the old state away.
func TestFull(t *testing.T) {
	r := testenv.StartRedis(t, testenv.RedisOptions{})
	c := open(t, r.URL())
	within(t, "Put", func(ctx context.Context) error {
		return c.Put(ctx, []cache.Entry{entry(1, 1, job.Succeeded), entry(2, 1, job.Succeeded)})
	})
	r.Run("CONFIG", "SET", "maxmemory", "1")
	err := c.Put(t.Context(), []cache.Entry{entry(1, 2, job.Cancelled), entry(2, 2, job.Deleted)})
	if err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("Put to a full server: %v", err)
	}
	if got, err := one(t.Context(), c, 1); err != nil || got.Version != 1 {
		t.Errorf("a full server says %+v, %v", got, err)
	}
	if got, err := one(t.Context(), c, 2); err == nil {
		t.Errorf("of a deleted job a full server says %+v", got)
	}
	r.Run("CONFIG", "SET", "maxmemory", "0")
	within(t, "Put when there is room", func(ctx context.Context) error { return c.Put(ctx, []cache.Entry{entry(1, 2, job.Cancelled)}) })
}

// TestFrozen stops the server where it stands: every call ends by its context,
// and the watch notices.
func TestFrozen(t *testing.T) {
	r := testenv.StartRedis(t, testenv.RedisOptions{})
	c := open(t, r.URL())
	within(t, "Put", func(ctx context.Context) error { return c.Put(ctx, []cache.Entry{entry(1, 1, job.Ready)}) })
	var missed atomic.Int32
	broken := make(chan error, 1)
	go func() { broken <- c.Watch(t.Context(), func(cache.News) { missed.Add(1) }) }()
	within(t, "watch", func(context.Context) error { return atLeast(&missed, 1) })
	r.Freeze()
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		began := time.Now()
		_, err := one(ctx, c, 1)
		if perr := c.Put(ctx, []cache.Entry{entry(1, 2, job.Ready)}); err == nil || perr == nil {
			t.Error("a frozen server answered")
		}
		cancel()
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("a call with 50 ms took %s", d)
		}
	}
	select {
	case err := <-broken:
		if err == nil {
			t.Error("the watch ended without an error")
		}
	case <-time.After(patience):
		t.Error("the watch does not notice that the server is frozen")
	}
	r.Thaw()
	within(t, "Get after the thaw", func(ctx context.Context) error { _, err := one(ctx, c, 1); return err })
}

// TestSlow has the server answer nothing for a while.
func TestSlow(t *testing.T) {
	r := testenv.StartRedis(t, testenv.RedisOptions{})
	c := open(t, r.URL())
	within(t, "Put", func(ctx context.Context) error { return c.Put(ctx, []cache.Entry{entry(1, 1, job.Ready)}) })
	r.Run("CLIENT", "PAUSE", "500")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := one(ctx, c, 1); err == nil {
		t.Error("a paused server answered")
	}
	within(t, "Get after the pause", func(ctx context.Context) error { _, err := one(ctx, c, 1); return err })
}

func TestWrongPasswordIsNotShown(t *testing.T) {
	r := testenv.StartRedis(t, testenv.RedisOptions{Password: "right"})
	c := open(t, strings.Replace(r.URL(), "right", "wr0ng-s3cret", 1))
	err := c.Put(t.Context(), []cache.Entry{entry(1, 1, job.Ready)})
	if err == nil || strings.Contains(err.Error(), "wr0ng") || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("Put with a wrong password: %v", err)
	}
}
