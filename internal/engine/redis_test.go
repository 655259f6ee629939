package engine_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/cache/rediscache"
	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger/postgres"
)

// pair is two servers on one PostgreSQL and one Redis.
type pair struct {
	t     *testing.T
	a, b  *engine.Engine
	name  string // the ledger's
	redis *testenv.Redis
	wire  *testenv.Proxy // between them and it
}

func newPair(t *testing.T, c engine.Config) *pair {
	t.Helper()
	p := &pair{t: t, redis: testenv.StartRedis(t, testenv.RedisOptions{})}
	p.wire = testenv.StartProxy(t, p.redis.Address())
	dsn := testenv.Postgres(t)
	p.a, p.b = p.serve(dsn, c), p.serve(dsn, c)
	return p
}

func (p *pair) serve(dsn string, c engine.Config) *engine.Engine {
	l, err := postgres.Open(context.Background(), dsn, postgres.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	name, err := l.Identity(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	p.name = name
	view := p.view()
	c.Cache = view
	e := engine.New(l, c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	p.t.Cleanup(func() {
		cancel()
		<-done
		if err := l.Close(); err != nil {
			p.t.Error(err)
		}
	})
	return e
}

// view opens the cache once more.
func (p *pair) view() cache.Cache {
	view, err := rediscache.New("redis://"+p.wire.Address(), p.name)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = view.Close() }) // Redis may be away
	return view
}

// put enqueues n jobs at e.
func (p *pair) put(e *engine.Engine, n int) []job.ID {
	p.t.Helper()
	items := make([]engine.Item, n)
	for i := range items {
		items[i] = engine.Item{Job: job.Job{Kind: "k", Priority: 5}}
	}
	answers, err := e.Enqueue(p.t.Context(), "", items)
	if err != nil {
		p.t.Fatal(err)
	}
	ids := make([]job.ID, n)
	for i := range answers {
		ids[i] = answers[i].ID
	}
	return ids
}

// work carries out n jobs at e.
func (p *pair) work(e *engine.Engine, n int) {
	p.t.Helper()
	s := newSession(p.t, e)
	for call, done := int64(1), 0; done < n; call++ {
		jobs, _, err := e.Lease(p.t.Context(), engine.LeaseRequest{Session: s, Call: call, Queues: []string{"default"}, Max: min(n, job.MaxBatch), Wait: time.Second})
		if err != nil {
			p.t.Fatal(err)
		}
		items := make([]engine.Settlement, len(jobs))
		for i := range jobs {
			items[i] = engine.Settlement{ID: jobs[i].ID, Token: jobs[i].Token, Event: job.Succeed}
		}
		if done += len(items); len(items) == 0 {
			continue
		}
		if _, err := e.Settle(p.t.Context(), s, items); err != nil {
			p.t.Fatal(err)
		}
	}
}

// eventually waits until ok returns nil.
func eventually(t *testing.T, ok func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if err = ok(); err == nil {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Fatal(err)
}

// states checks that e answers one state for all ids.
func states(t *testing.T, e *engine.Engine, ids []job.ID, want job.State, cached bool) error {
	got, err := e.States(t.Context(), ids, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(ids) {
		return fmt.Errorf("%d states of %d jobs", len(got), len(ids))
	}
	for _, s := range got {
		if s.State != want || cached && !s.Cached {
			return fmt.Errorf("job %s is %s, %s old, from the cache: %v; want %s", s.ID, s.State, s.Age, s.Cached, want)
		}
	}
	return nil
}

// TestTwoServersShareStatesAndNews: one server works, the other answers from
// Redis, and its watchers and waiters hear of it.
func TestTwoServersShareStatesAndNews(t *testing.T) {
	p := newPair(t, engine.Config{})
	heard := map[job.ID]job.State{}
	var mu sync.Mutex
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- p.b.Watch(ctx, engine.WatchFilter{Queue: "default"}, func(e engine.WatchEvent) error {
			mu.Lock()
			defer mu.Unlock()
			heard[e.ID] = e.State
			return nil
		})
	}()
	eventually(t, func() error { // until news come through
		id := p.put(p.a, 1)
		<-time.After(50 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if heard[id[0]] == 0 {
			return fmt.Errorf("no news of the other server come")
		}
		return nil
	})
	ids := p.put(p.a, 200)
	waited := make(chan error, 1)
	go func() {
		jobs, err := p.b.Wait(t.Context(), ids[:1], 30*time.Second)
		if err == nil && len(jobs) != 1 {
			err = fmt.Errorf("%d jobs at the end of the wait", len(jobs))
		}
		waited <- err
	}()
	p.work(p.a, 200)
	if err := <-waited; err != nil {
		t.Error(err)
	}
	eventually(t, func() error {
		mu.Lock()
		defer mu.Unlock()
		for _, id := range ids[:150] { // those first in the queue came before them
			if heard[id] != job.Succeeded {
				return fmt.Errorf("job %s: last heard of as %s", id, heard[id])
			}
		}
		return nil
	})
	eventually(t, func() error { return states(t, p.b, ids[:150], job.Succeeded, true) })
	cancel()
	<-ended
}

// TestEverySuccessIsInRedis, though they are many at once and nobody follows: another server answers
// for all from there.
func TestEverySuccessIsInRedis(t *testing.T) {
	p := newPair(t, engine.Config{})
	const n = 5000
	var ids []job.ID
	for range n / job.MaxBatch {
		ids = append(ids, p.put(p.a, job.MaxBatch)...)
	}
	p.work(p.a, n)
	look := p.view()
	eventually(t, func() error {
		held, err := look.Get(t.Context(), ids)
		if err != nil {
			return err
		}
		held = slices.DeleteFunc(held, func(e cache.Entry) bool { return e.State != job.Succeeded })
		if len(held) != n {
			return fmt.Errorf("Redis has %d of %d successes", len(held), n)
		}
		return nil
	})
	before := p.b.Info().CacheMisses
	for some := range slices.Chunk(ids, job.MaxBatch) {
		if err := states(t, p.b, some, job.Succeeded, true); err != nil {
			t.Error(err)
		}
	}
	if missed := p.b.Info().CacheMisses - before; missed > 0 {
		t.Errorf("the other server read %d of %d states from the ledger", missed, n)
	}
}

// TestRedisInTroubleCostsSpeedOnly takes Redis away, freezes, fills, slows and flushes
// it, and makes it a replica that takes no writes, under two servers: answers stay right, enqueue and work go on.
func TestRedisInTroubleCostsSpeedOnly(t *testing.T) {
	p := newPair(t, engine.Config{})
	round := func(name string) {
		t.Helper()
		began := time.Now()
		ids := p.put(p.a, 100)
		p.work(p.b, 100)
		if d := time.Since(began); d > 20*time.Second {
			t.Errorf("%s: 100 jobs took %s", name, d)
		}
		// A final state is seen within a second of its commit, whatever Redis says.
		eventually(t, func() error { return states(t, p.a, ids, job.Succeeded, false) })
		if _, err := p.a.Delete(t.Context(), ids[:50]); err != nil {
			t.Fatal(err)
		}
		got, err := p.a.States(t.Context(), ids, true)
		if err != nil || len(got) != 50 {
			t.Errorf("%s: %d states of 50 jobs, %v", name, len(got), err)
		}
	}
	round("well")
	p.redis.Kill()
	round("away")
	p.redis.Start()
	round("back")
	p.redis.Freeze()
	round("frozen")
	p.redis.Thaw()
	p.redis.Run("CONFIG", "SET", "maxmemory", "1")
	round("full")
	p.redis.Run("CONFIG", "SET", "maxmemory", "0")
	p.wire.Slow(100 * time.Millisecond) // an answer takes twice that, longer than the patience with it
	round("slow")
	p.wire.Slow(0)
	p.redis.Run("REPLICAOF", "127.0.0.1", "1")
	round("a replica that only reads")
	p.redis.Run("REPLICAOF", "NO", "ONE")
	stop := make(chan struct{})
	var flusher sync.WaitGroup
	flusher.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				_, _ = p.redis.Do("FLUSHALL")
			}
		}
	})
	round("flushed all the time")
	close(stop)
	flusher.Wait()
	ids := p.put(p.a, 10)
	p.work(p.a, 10)
	eventually(t, func() error { return states(t, p.b, ids, job.Succeeded, true) })
}

// TestFlushBetweenTwoWriters flushes Redis after one server's success and before the other's delete, which are
// the two writers of one job's state.
func TestFlushBetweenTwoWriters(t *testing.T) {
	p := newPair(t, engine.Config{})
	id := p.put(p.a, 1)
	p.work(p.a, 1)
	eventually(t, func() error { return states(t, p.b, id, job.Succeeded, true) })
	p.redis.Run("FLUSHALL")
	if err := states(t, p.b, id, job.Succeeded, false); err != nil {
		t.Error(err)
	}
	if _, err := p.b.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if got, err := p.a.States(t.Context(), id, false); err != nil || len(got) > 0 {
			return fmt.Errorf("after the delete: %+v, %v", got, err)
		}
		return nil
	})
}

// TestAWatchHearsOfABusyServer that only takes jobs in, more than it writes while nobody listens.
func TestAWatchHearsOfABusyServer(t *testing.T) {
	p := newPair(t, engine.Config{})
	busy := func(d time.Duration, until func() bool) {
		for began, n := time.Now(), 0; time.Since(began) < d && !until(); n += 1000 {
			p.put(p.a, 1000)
			<-time.After(time.Until(began.Add(time.Duration(n+1000) * time.Second / 4000)))
		}
	}
	busy(3*time.Second, func() bool { return false })
	var heard atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- p.b.Watch(ctx, engine.WatchFilter{Queue: "default"}, func(e engine.WatchEvent) error {
			if !e.ID.IsZero() {
				heard.Add(1)
			}
			return nil
		})
	}()
	busy(20*time.Second, func() bool { return heard.Load() > 0 })
	if heard.Load() == 0 {
		t.Error("the watch was told of nothing")
	}
	cancel()
	<-ended
}
