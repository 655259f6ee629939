package rediscache

import (
	"context"
	"encoding/binary"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
)

// lasting makes an entry that a block takes: the n-th of one moment and one hash tag.
func lasting(n int, version int64, s job.State) cache.Entry {
	e := entry(0, version, s)
	binary.BigEndian.PutUint32(e.ID[8:], uint32(n)+1)
	e.Tell = true
	return e
}

// quiet opens a cache that knows that nobody listens, and what looks at its keys.
func quiet(t *testing.T, address string) (c *Cache, keys func() (own, blocks []string)) {
	t.Helper()
	ledger := name()
	c = openAs(t, address, ledger)
	c.alone.Store(true)
	admin := adminOf(t, address)
	return c, func() (own, blocks []string) {
		for _, key := range keysOf(t, admin, ledger) {
			if strings.Contains(key, "}:+") {
				blocks = append(blocks, key)
			} else {
				own = append(own, key)
			}
		}
		return own, blocks
	}
}

func mustPut(t *testing.T, c *Cache, entries ...cache.Entry) {
	t.Helper()
	if err := c.Put(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
}

// says checks what c holds of a job; state 0: nothing.
func says(t *testing.T, c *Cache, id job.ID, version int64, s job.State) {
	t.Helper()
	got, err := c.Get(t.Context(), []job.ID{id})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 && s == 0 {
		return
	}
	if len(got) != 1 || got[0].Version != version || got[0].State != s {
		t.Errorf("held is %+v, want version %d, %s", got, version, s)
	}
}

// TestOneMomentOneBlock: a hundred jobs take one key, one that was only read has its own, and so has what
// another moment, another tag or another time-to-live has.
func TestOneMomentOneBlock(t *testing.T) {
	c, keys := quiet(t, testenv.RedisAddress(t))
	var batch []cache.Entry
	for n := range 100 {
		batch = append(batch, lasting(n, 3, []job.State{job.Succeeded, job.Cancelled}[n%2]))
	}
	mustPut(t, c, batch[:50]...)
	mustPut(t, c, batch[50:]...)
	if own, blocks := keys(); len(own) != 0 || len(blocks) != 1 {
		t.Errorf("a hundred jobs have the keys %q and the blocks %q", own, blocks)
	}
	for _, n := range []int{0, 49, 50, 99} {
		says(t, c, batch[n].ID, 3, batch[n].State)
	}
	says(t, c, lasting(100, 3, job.Succeeded).ID, 0, 0)
	read, dead, other, tag := lasting(200, 3, job.Succeeded), lasting(201, 3, job.Dead), lasting(202, 3, job.Succeeded), lasting(203, 3, job.Succeeded)
	read.Tell = false
	other.ID[5]++ // milliseconds
	other.ID[4]++
	tag.ID[15]++
	mustPut(t, c, read, dead, other, tag)
	if own, blocks := keys(); len(own) != 2 || len(blocks) != 3 {
		t.Errorf("then there are the keys %q and the blocks %q", own, blocks)
	}
	c.alone.Store(false)
	mustPut(t, c, lasting(300, 3, job.Succeeded))
	if own, _ := keys(); len(own) != 3 {
		t.Errorf("with listeners there are the keys %q", own)
	}
}

// TestABlockTakesNoMore when it is full, or old, or of another time-to-live: then an entry has a key of its own.
func TestABlockTakesNoMore(t *testing.T) {
	address := testenv.RedisAddress(t)
	t.Run("full", func(t *testing.T) {
		c, keys := quiet(t, address)
		var all []cache.Entry
		for n := range 1000 {
			e := lasting(n, 3, job.Succeeded)
			e.Kind = strings.Repeat("k", 100)
			all = append(all, e)
		}
		for some := range slices.Chunk(all, 100) {
			c.alone.Store(true)
			mustPut(t, c, some...)
		}
		own, blocks := keys()
		if len(blocks) != 1 || len(own) < 500 || len(own) > 900 {
			t.Errorf("%d keys and %d blocks", len(own), len(blocks))
		}
		for _, e := range all {
			says(t, c, e.ID, 3, job.Succeeded)
		}
	})
	t.Run("old", func(t *testing.T) {
		c, keys := quiet(t, address)
		first, second := lasting(1, 3, job.Succeeded), lasting(2, 3, job.Succeeded)
		first.TTL, second.TTL = 2*time.Second, 2*time.Second
		mustPut(t, c, first)
		<-time.After(250 * time.Millisecond)
		mustPut(t, c, second)
		if own, blocks := keys(); len(own) != 1 || len(blocks) != 1 {
			t.Errorf("%d keys and %d blocks", len(own), len(blocks))
		}
		says(t, c, second.ID, 3, job.Succeeded)
	})
	t.Run("of another time-to-live", func(t *testing.T) {
		c, keys := quiet(t, address)
		long, short := lasting(1, 3, job.Succeeded), lasting(2, 3, job.Succeeded)
		short.TTL = long.TTL / 2
		mustPut(t, c, long, short)
		c.alone.Store(true)
		shorter := lasting(3, 3, job.Succeeded)
		shorter.TTL = short.TTL
		mustPut(t, c, shorter)
		if own, blocks := keys(); len(own) != 2 || len(blocks) != 1 {
			t.Errorf("%d keys and %d blocks", len(own), len(blocks))
		}
	})
}

// TestATombstoneClosesTheBlock: without the tombstone, which may be evicted, nothing is said of the job, nor of a
// success that comes behind it.
func TestATombstoneClosesTheBlock(t *testing.T) {
	r := testenv.StartRedis(t, testenv.RedisOptions{})
	c, keys := quiet(t, r.URL())
	one, two := lasting(1, 3, job.Succeeded), lasting(2, 3, job.Succeeded)
	mustPut(t, c, one, two)
	mustPut(t, c, lasting(1, 4, job.Deleted))
	says(t, c, one.ID, 4, job.Deleted)
	own, blocks := keys()
	if len(own) != 1 || len(blocks) != 1 {
		t.Fatalf("%q and %q are left", own, blocks)
	}
	says(t, c, two.ID, 0, 0)
	c.alone.Store(true)
	mustPut(t, c, one) // late
	says(t, c, one.ID, 4, job.Deleted)
	r.Run("DEL", own[0]) // evicted
	says(t, c, one.ID, 0, 0)
	c.alone.Store(true)
	mustPut(t, c, two) // others of the same moment have keys of their own
	says(t, c, two.ID, 3, job.Succeeded)
	if own, blocks := keys(); len(own) != 1 || len(blocks) != 1 {
		t.Errorf("%q and %q", own, blocks)
	}

	// A full Redis takes no tombstone, and gives up the state all the same.
	if err := c.Drop(t.Context(), []job.ID{two.ID}); err != nil {
		t.Fatal(err)
	}
	c.alone.Store(true)
	mustPut(t, c, two)
	if own, blocks := keys(); len(own) != 0 || len(blocks) != 1 {
		t.Errorf("%q and %q", own, blocks)
	}
	r.Run("CONFIG", "SET", "maxmemory", "1")
	if err := c.Put(t.Context(), []cache.Entry{lasting(2, 4, job.Deleted)}); err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("a tombstone to a full server: %v", err)
	}
	says(t, c, two.ID, 0, 0)
	if err := c.Put(t.Context(), []cache.Entry{two}); err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("a block to a full server: %v", err)
	}
}

// TestAUserWithoutTheRightsOfBlocks has keys, and the doctor says what is missing.
func TestAUserWithoutTheRightsOfBlocks(t *testing.T) {
	r := testenv.StartRedis(t, testenv.RedisOptions{})
	r.Run("ACL", "SETUSER", "old", "on", ">s3cret", "~*", "&*", "+@all", "-append")
	address := strings.Replace(r.URL(), "redis://", "redis://old:s3cret@", 1)
	if got, err := Examine(t.Context(), address); err != nil || got.Refused == nil {
		t.Errorf("examined: %+v, %v", got, err)
	}
	c, _ := quiet(t, address)
	for n := range 2 {
		c.alone.Store(true)
		mustPut(t, c, lasting(n, 3, job.Succeeded))
		says(t, c, lasting(n, 3, 0).ID, 3, job.Succeeded)
	}
}

// TestWhoBeginsToListenMissesNothingUnsaid: the first who listens is told that there was something, and of
// what comes then in full.
func TestWhoBeginsToListenMissesNothingUnsaid(t *testing.T) {
	address := testenv.RedisAddress(t)
	c, _ := quiet(t, address)
	reader, err := New(address, strings.Split(c.news, ":")[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Close() })
	var missed atomic.Int32
	heard := make(chan cache.Entry, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- reader.Watch(ctx, func(n cache.News) {
			if n.Missed {
				missed.Add(1)
			}
			for _, e := range n.Entries {
				heard <- e
			}
		})
	}()
	within(t, "the line stands", func(context.Context) error { return atLeast(&missed, 1) })
	mustPut(t, c, lasting(1, 3, job.Succeeded))
	within(t, "something was missed", func(context.Context) error { return atLeast(&missed, 2) })
	if !c.Heard() {
		t.Fatal("it does not know that another listens")
	}
	mustPut(t, c, lasting(2, 3, job.Succeeded))
	select {
	case e := <-heard:
		if e.ID != lasting(2, 3, 0).ID || missed.Load() != 2 {
			t.Errorf("heard of %+v, and %d times that something was missed", e, missed.Load())
		}
	case <-time.After(patience):
		t.Error("it hears of nothing")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// FuzzReadBlock holds the reader of blocks to its word, whatever is in one.
func FuzzReadBlock(f *testing.F) {
	var good []byte
	for n := range 3 {
		e := lasting(n, 3, job.Succeeded)
		e.Queue, e.Progress = "日本", []byte("50 %")
		var err error
		if good, err = appendRecord(good, &e); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(good, 0)
	f.Add(good[:len(good)-1], 2)
	f.Add(append([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), good...), 1)
	f.Fuzz(func(t *testing.T, text []byte, n int) {
		id := lasting(n&0xff, 3, 0).ID
		readBlock(text, func(one job.ID) bool { return one == id }, func(e cache.Entry) {
			again, err := appendRecord(nil, &e)
			if err != nil || e.ID != id {
				t.Fatalf("read %+v for %s, which cannot be written: %v", e, id, err)
			}
			readBlock(again, func(job.ID) bool { return true }, func(back cache.Entry) {
				if !reflect.DeepEqual(e, back) {
					t.Fatalf("%+v became %+v", e, back)
				}
			})
		})
	})
}

// BenchmarkBlocks is Bench while nobody listens, with jobs of ten moments.
func BenchmarkBlocks(b *testing.B) {
	c, err := New(testenv.RedisAddress(b), name())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	batch, ids := make([]cache.Entry, job.MaxBatch), make([]job.ID, job.MaxBatch)
	fresh := func(n int) {
		for i := range batch {
			e := lasting(i, 3, job.Succeeded)
			binary.BigEndian.PutUint64(e.ID[:8], uint64(n*160+i*160/len(batch))<<16)
			e.ID[15] = byte(i)
			batch[i], ids[i] = e, e.ID
		}
		c.alone.Store(true)
		if err := c.Put(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	n := 0
	b.Run("Put1000", func(b *testing.B) {
		for b.Loop() {
			n++
			fresh(n)
		}
	})
	full := make([]cache.Entry, 600) // 33 KiB
	for i := range full {
		full[i] = lasting(i, 3, job.Succeeded)
	}
	c.alone.Store(true)
	if err := c.Put(b.Context(), full); err != nil {
		b.Fatal(err)
	}
	for name, some := range map[string][]job.ID{"Get1": ids[:1], "Get1000": ids, "Get1OfAFullBlock": {full[300].ID}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if got, err := c.Get(b.Context(), some); err != nil || len(got) != len(some) {
					b.Fatalf("%d of %d, %v", len(got), len(some), err)
				}
			}
		})
	}
}
