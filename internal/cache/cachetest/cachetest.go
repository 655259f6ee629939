// Package cachetest holds caches to the contract of package cache.
package cachetest

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

// Space is a fresh namespace for one test.
type Space struct {
	// Open opens the cache once more, as another process would; the test closes it. A cache
	// that no other process sees gives the same one again.
	Open func() cache.Cache
	// Flush makes the cache forget everything, behind everybody's back.
	Flush func()
	// TTLs returns how long each stored key has still to live, negative for
	// one that has no end. nil: there are no keys to look at.
	TTLs func() []time.Duration
	// Spread says that there may be more or fewer keys than jobs.
	Spread bool
}

// Features says what a cache is.
type Features struct {
	Shared bool // several processes see it, and tell each other
	Quiet  bool // what it tells, and whether it knows that it is heard, is for another run of the suite
}

// patience bounds the wait for what must happen.
const patience = 20 * time.Second

// Run runs the suite; fresh makes a Space for each test.
func Run(t *testing.T, f Features, fresh func(t *testing.T) Space) {
	for name, test := range map[string]func(*testing.T, Space){
		"KeepsEveryField": keepsEveryField, "NewestWins": newestWins, "NewestWinsInOneBatch": newestWinsInOneBatch,
		"NewestWinsAmongManyWriters": newestWinsAmongManyWriters, "TakesLargeBatches": largeBatches, "TombstonesStay": tombstonesStay,
		"ForgetsInTime": forgetsInTime, "EveryKeyEnds": everyKeyEnds, "DropsWhateverTheVersion": drops,
		"FlushBetweenTwoWriters": flushBetweenTwoWriters, "EndsWithItsContext": endsWithItsContext,
	} {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
	t.Run("NamespacesAreApart", func(t *testing.T) { namespaces(t, fresh(t), fresh(t)) })
	t.Run("KnowsWhoSeesIt", func(t *testing.T) {
		c := fresh(t).Open()
		if c.Shared() != f.Shared {
			t.Errorf("it says of itself: shared %v", c.Shared())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if f.Quiet {
		return
	}
	if f.Shared {
		t.Run("TellsOthersWhatIsNews", func(t *testing.T) { tellsOthers(t, fresh(t)) })
		t.Run("KnowsWhetherItIsHeard", func(t *testing.T) { heard(t, fresh(t)) })
	} else {
		t.Run("TellsNobody", func(t *testing.T) { tellsNobody(t, fresh(t)) })
	}
}

// start is a time as ledgers keep it.
var start = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

// id makes the n-th id: they fall into every shard.
func id(n int) (id job.ID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n+1))
	return id
}

// entry makes an entry of a version, as old as its version says.
func entry(n int, version int64, s job.State) cache.Entry {
	return cache.Entry{
		ID: id(n), Queue: "mail", Kind: "send", State: s, Priority: 5, Attempt: 1, MaxAttempts: 25,
		RunAt: start, Version: version, Token: version, At: start.Add(time.Duration(version) * time.Second), TTL: time.Minute,
	}
}

func open(t *testing.T, s Space) cache.Cache {
	t.Helper()
	c := s.Open()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

func put(t *testing.T, c cache.Cache, entries ...cache.Entry) {
	t.Helper()
	if err := c.Put(t.Context(), entries); err != nil {
		t.Fatalf("Put: %v", err)
	}
}

// get returns what is held of the n-th ids.
func get(t *testing.T, c cache.Cache, ns ...int) map[job.ID]cache.Entry {
	t.Helper()
	ids := make([]job.ID, len(ns))
	for i, n := range ns {
		ids[i] = id(n)
	}
	list, err := c.Get(t.Context(), ids)
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	out := map[job.ID]cache.Entry{}
	for _, e := range list {
		out[e.ID] = e
	}
	return out
}

// holds checks version and state of the n-th job.
func holds(t *testing.T, c cache.Cache, n int, version int64, s job.State) {
	t.Helper()
	e, ok := get(t, c, n)[id(n)]
	if !ok || e.Version != version || e.State != s {
		t.Errorf("job %d: held is version %d, %s (there: %v), want version %d, %s", n, e.Version, e.State, ok, version, s)
	}
}

func keepsEveryField(t *testing.T, s Space) {
	c := open(t, s)
	full := cache.Entry{
		ID: id(0), Queue: "日本語 queue", Kind: "a\"b\\c\n", State: job.Scheduled, Priority: 9, Attempt: 3, MaxAttempts: 10000, Crashes: 2,
		RunAt: start, Reason: "attempts", Progress: []byte("\x00\xff\n50 %"), Version: 1<<62 + 1, Token: 1<<62 + 7, At: start.Add(time.Microsecond),
	}
	bare := cache.Entry{ID: id(1), Queue: "q", Kind: "k", State: job.Ready, At: start}
	for _, e := range []cache.Entry{full, bare} {
		stored := e
		stored.TTL, stored.Tell = time.Minute, true
		put(t, c, stored)
	}
	got := get(t, c, 0, 1, 2)
	if len(got) != 2 || !reflect.DeepEqual(got[id(0)], full) || !reflect.DeepEqual(got[id(1)], bare) {
		t.Errorf("got %+v,\nwant %+v\nand %+v", got, full, bare)
	}
	if list, err := c.Get(t.Context(), nil); err != nil || len(list) > 0 {
		t.Errorf("Get of nothing: %v, %v", list, err)
	}
	if err := c.Put(t.Context(), nil); err != nil {
		t.Errorf("Put of nothing: %v", err)
	}
}

func newestWins(t *testing.T, s Space) {
	c := open(t, s)
	put(t, c, entry(0, 9, job.Running))
	put(t, c, entry(0, 8, job.Succeeded))
	holds(t, c, 0, 9, job.Running)
	put(t, c, entry(0, 10, job.Dead))
	holds(t, c, 0, 10, job.Dead)
	later := entry(0, 10, job.Dead)
	later.At = later.At.Add(time.Microsecond)
	put(t, c, later, entry(0, 10, job.Dead))
	if got := get(t, c, 0)[id(0)]; !got.At.Equal(later.At) {
		t.Errorf("of one version the later look is held: At is %s, want %s", got.At, later.At)
	}
}

func newestWinsInOneBatch(t *testing.T, s Space) {
	c := open(t, s)
	var batch []cache.Entry
	for n := range 100 {
		for _, v := range []int64{2, 10, 9, 1} {
			batch = append(batch, entry(n, v, job.Running))
		}
	}
	put(t, c, batch...)
	for n := range 100 {
		holds(t, c, n, 10, job.Running)
	}
}

func newestWinsAmongManyWriters(t *testing.T, s Space) {
	const writers, jobs, versions = 8, 40, 50
	var group sync.WaitGroup
	for range writers {
		c := open(t, s)
		group.Go(func() {
			for _, v := range rand.Perm(versions) {
				var batch []cache.Entry
				for n := range jobs {
					batch = append(batch, entry(n, int64(v+1), job.State(v%7+1))) // their tombstones, too
				}
				if err := c.Put(t.Context(), batch); err != nil {
					t.Errorf("Put: %v", err)
				}
			}
		})
	}
	group.Wait()
	c := open(t, s)
	for n := range jobs {
		holds(t, c, n, versions, job.State((versions-1)%7+1))
	}
}

// largeBatches puts so many jobs at once that are alike in what spreads them.
func largeBatches(t *testing.T, s Space) {
	const jobs = 10_000
	c := open(t, s)
	batch, ids := make([]cache.Entry, jobs), make([]job.ID, jobs)
	for n := range batch {
		batch[n] = entry(n, 1, []job.State{job.Ready, job.Succeeded}[n%2])
		binary.BigEndian.PutUint64(batch[n].ID[8:], uint64(n+1)<<16)
		ids[n] = batch[n].ID
	}
	put(t, c, batch...)
	if got, err := c.Get(t.Context(), ids); err != nil || len(got) != jobs {
		t.Errorf("%d of %d held, %v", len(got), jobs, err)
	}
}

func tombstonesStay(t *testing.T, s Space) {
	c := open(t, s)
	put(t, c, entry(0, 5, job.Succeeded))
	put(t, c, entry(0, 6, job.Deleted))
	put(t, c, entry(0, 5, job.Succeeded))
	holds(t, c, 0, 6, job.Deleted)
}

func forgetsInTime(t *testing.T, s Space) {
	c := open(t, s)
	short, none := entry(0, 5, job.Succeeded), entry(1, 1, job.Ready)
	short.TTL, none.TTL = 200*time.Millisecond, 0
	put(t, c, short, none, entry(2, 1, job.Ready))
	if got := get(t, c, 1); len(got) > 0 {
		t.Error("an entry without a time-to-live was stored")
	}
	until(t, "the entry ends", func() bool { return len(get(t, c, 0)) == 0 })
	put(t, c, entry(0, 1, job.Ready)) // an older version: what was held is forgotten
	holds(t, c, 0, 1, job.Ready)
	holds(t, c, 2, 1, job.Ready)
}

func everyKeyEnds(t *testing.T, s Space) {
	if s.TTLs == nil {
		t.Log("no keys to look at: ForgetsInTime shows it")
		return
	}
	c := open(t, s)
	for n := range 50 {
		put(t, c, entry(n, 1, job.Ready), entry(n, 2, job.State(n%7+1)))
	}
	put(t, c, entry(0, 3, job.Deleted))
	ttls := s.TTLs()
	const tombstones = 8 // which may have two
	if (len(ttls) < 50 || len(ttls) > 50+tombstones) && !s.Spread || len(ttls) == 0 {
		t.Errorf("%d keys for 50 jobs", len(ttls))
	}
	for _, d := range ttls {
		if d <= 0 || d > time.Minute {
			t.Errorf("a key has %s to live", d)
		}
	}
}

func drops(t *testing.T, s Space) {
	c := open(t, s)
	put(t, c, entry(0, 9, job.Succeeded), entry(1, 9, job.Succeeded))
	if err := c.Drop(t.Context(), []job.ID{id(0), id(7)}); err != nil {
		t.Fatalf("Drop: %v", err)
	}
	put(t, c, entry(0, 1, job.Ready))
	holds(t, c, 0, 1, job.Ready)
	holds(t, c, 1, 9, job.Succeeded)
}

// flushBetweenTwoWriters: what the second writes is old, and is held, for
// nothing tells; the newest takes its place all the same.
func flushBetweenTwoWriters(t *testing.T, s Space) {
	a, b := open(t, s), open(t, s)
	put(t, a, entry(0, 4, job.Succeeded))
	s.Flush()
	if got := get(t, b, 0); len(got) > 0 {
		t.Errorf("after a flush: %v", got)
	}
	put(t, b, entry(0, 3, job.Running))
	holds(t, a, 0, 3, job.Running)
	put(t, a, entry(0, 4, job.Succeeded))
	put(t, b, entry(0, 3, job.Running))
	holds(t, b, 0, 4, job.Succeeded)
}

func endsWithItsContext(t *testing.T, s Space) {
	c := open(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx, func(cache.News) {}) }()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Watch: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Watch does not end with its context")
	}
}

func namespaces(t *testing.T, one, other Space) {
	a, b := open(t, one), open(t, other)
	put(t, a, entry(0, 9, job.Succeeded))
	if got := get(t, b, 0); len(got) > 0 {
		t.Errorf("the other namespace holds %v", got)
	}
	put(t, b, entry(0, 1, job.Ready))
	holds(t, a, 0, 9, job.Succeeded)
	holds(t, b, 0, 1, job.Ready)
}

// listener is a Watch that keeps its news.
type listener struct {
	mu     sync.Mutex
	heard  []string
	missed int
}

// listen watches c until the test ends, and returns when the line stands.
func listen(t *testing.T, c cache.Cache) *listener {
	l := &listener{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Watch(ctx, l.hear); err != nil {
			t.Errorf("Watch: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	until(t, "the line stands", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.missed > 0 })
	return l
}

func (l *listener) hear(n cache.News) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.Missed {
		l.missed++
	}
	for _, e := range n.Entries {
		l.heard = append(l.heard, fmt.Sprintf("%d:%d %s", e.ID[15]-1, e.Version, e.State))
	}
}

func (l *listener) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.heard...)
}

func tellsOthers(t *testing.T, s Space) {
	writer, reader := open(t, s), open(t, s)
	own, other := listen(t, writer), listen(t, reader)
	tell := func(e cache.Entry) cache.Entry { e.Tell = true; return e }
	later := tell(entry(0, 2, job.Running))
	later.At = later.At.Add(time.Hour)
	put(t, writer, tell(entry(0, 2, job.Running)))
	put(t, writer, entry(1, 1, job.Ready))         // not to be told
	put(t, writer, tell(entry(0, 1, job.Ready)))   // old
	put(t, writer, later)                          // known
	put(t, writer, tell(entry(0, 3, job.Deleted))) // tombstones are told
	put(t, writer, tell(entry(3, 1, job.Ready)))   // the last
	until(t, "the last news come", func() bool { h := other.all(); return len(h) > 0 && h[len(h)-1] == "3:1 ready" })
	want := []string{"0:2 running", "0:3 deleted", "3:1 ready"}
	if got := other.all(); !reflect.DeepEqual(got, want) {
		t.Errorf("told of %q, want %q", got, want)
	}
	if got := own.all(); len(got) > 0 {
		t.Errorf("told the writer of %q", got)
	}
	if other.missed != 1 {
		t.Errorf("told %d times that something was missed", other.missed)
	}
}

// heard: a cache may believe that it is heard, but not for long that it is not.
func heard(t *testing.T, s Space) {
	writer, reader := open(t, s), open(t, s)
	version := int64(0)
	tell := func() bool {
		version++
		e := entry(0, version, job.Running)
		e.Tell = true
		put(t, writer, e)
		return writer.Heard()
	}
	if !writer.Heard() {
		t.Error("it knows already that nobody listens")
	}
	listen(t, writer) // to itself it does not count
	if tell() {
		t.Error("it is heard, though nobody else listens")
	}
	ctx, cancel := context.WithCancel(t.Context())
	stands, done := make(chan struct{}, 10), make(chan error, 1)
	go func() { done <- reader.Watch(ctx, func(cache.News) { stands <- struct{}{} }) }()
	<-stands
	if !tell() {
		t.Error("it is not heard, though another listens")
	}
	put(t, writer, entry(1, 1, job.Ready)) // not told: it shows nothing
	if !writer.Heard() {
		t.Error("what is not told shows that nobody listens")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Watch: %v", err)
	}
	until(t, "nobody listens any more", func() bool { return !tell() })
}

func tellsNobody(t *testing.T, s Space) {
	c := open(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	l, done := &listener{}, make(chan error, 1)
	go func() { done <- c.Watch(ctx, l.hear) }()
	e := entry(0, 1, job.Ready)
	e.Tell = true
	put(t, c, e)
	cancel()
	if err := <-done; err != nil || len(l.all()) > 0 || l.missed > 0 {
		t.Errorf("told of %v, missed %d, %v", l.all(), l.missed, err)
	}
}

// until waits for a condition outside of this process.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("after %s: it is not so that %s", patience, what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// Bench measures batches of a thousand and single questions.
func Bench(b *testing.B, c cache.Cache) {
	batch, ids := make([]cache.Entry, job.MaxBatch), make([]job.ID, job.MaxBatch)
	for n := range batch {
		batch[n], ids[n] = entry(n, 1, job.Running), id(n)
	}
	version := int64(1)
	b.Run("Put1000", func(b *testing.B) {
		for b.Loop() {
			version++
			for n := range batch {
				batch[n].Version, batch[n].Tell = version, true
			}
			if err := c.Put(b.Context(), batch); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, some := range map[string][]job.ID{"Get1": ids[:1], "Get1000": ids} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if got, err := c.Get(b.Context(), some); err != nil || len(got) != len(some) {
					b.Fatalf("%d of %d, %v", len(got), len(some), err)
				}
			}
		})
	}
}
