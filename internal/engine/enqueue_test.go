package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/errandhq/errand/internal/engine"
	"github.com/errandhq/errand/job"
)

// gate holds the first Insert until it is opened.
type gate struct {
	entered, open chan struct{}
	shut          atomic.Bool
}

func newGate() *gate { return &gate{entered: make(chan struct{}), open: make(chan struct{})} }

func (g *gate) hold(method string) func(string) error {
	return func(m string) error {
		if m == method && g.shut.CompareAndSwap(false, true) {
			close(g.entered)
			<-g.open
		}
		return nil
	}
}

func TestSingleEnqueuesShareACommit(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		g := newGate()
		w.f.hook(g.hold("Insert"), nil)
		var group sync.WaitGroup
		for i := range 17 {
			id := w.id()
			group.Go(func() {
				_, err := w.Enqueue(w.ctx, "", []engine.Item{item(id)})
				if err != nil {
					t.Errorf("enqueue %d: %v", i, err)
				}
			})
			synctest.Wait()
		}
		close(g.open)
		group.Wait()
		if !slices.Equal(w.f.inserted, []int{1, 16}) {
			t.Fatalf("inserts of %v items, want [1 16]", w.f.inserted)
		}
	})
}

func TestKeyedAndLargeCallsHaveTheirOwnCommit(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		g := newGate()
		w.f.hook(g.hold("Insert"), nil)
		go func() { _, _ = w.Enqueue(w.ctx, "", []engine.Item{item(job.ID{1})}) }()
		<-g.entered
		keyed := item(w.id())
		keyed.Job.UniqueKey, keyed.Job.UniqueMode = "u", job.UntilDone
		_, err := w.Enqueue(w.ctx, "", []engine.Item{keyed})
		w.ok(err)
		close(g.open)
	})
}

func TestCallerWhoLeavesBeforeTheCommitChangesNothing(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		g := newGate()
		w.f.hook(g.hold("Insert"), nil)
		ctx, cancel := context.WithCancel(w.ctx)
		first, second := make(chan error, 1), make(chan error, 1)
		a, b := w.id(), w.id()
		go func() { _, err := w.Enqueue(ctx, "", []engine.Item{item(a)}); first <- err }()
		<-g.entered
		go func() { _, err := w.Enqueue(ctx, "", []engine.Item{item(b)}); second <- err }()
		synctest.Wait()
		cancel()
		w.fails(<-first, job.ErrUnknown) // its commit was under way
		if err := <-second; job.CodeOf(err) != job.Canceled {
			t.Fatalf("the one that waited got %v, want code Canceled", err)
		}
		close(g.open)
		synctest.Wait()
		w.is(a, job.Ready)
		w.is(b, 0)
	})
}

func TestABadNeighbourDoesNotSpoilTheBatch(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		g := newGate()
		w.f.hook(g.hold("Insert"), nil)
		errs := make(chan error, 3)
		for range 3 {
			id := w.id()
			go func() { _, err := w.Enqueue(w.ctx, "", []engine.Item{item(id)}); errs <- err }()
			synctest.Wait()
		}
		n := 0
		w.f.hook(func(m string) error {
			if m == "Insert" {
				if n++; n <= 2 { // the shared batch, then one of the two alone
					return errors.New("constraint")
				}
			}
			return nil
		}, nil)
		close(g.open)
		bad := 0
		for range 3 {
			if <-errs != nil {
				bad++
			}
		}
		if bad != 1 {
			t.Fatalf("%d calls failed, want 1", bad)
		}
	})
}

func TestLostAnswerOfAnEnqueueIsRepeatedSafely(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.f.hook(nil, func(m string) error {
			if m == "Insert" {
				return job.ErrUnknown
			}
			return nil
		})
		it := item(w.id())
		it.FirstTry = true
		it.Delay = time.Hour
		_, err := w.Enqueue(w.ctx, "", []engine.Item{it})
		w.fails(err, job.ErrUnknown)
		w.f.hook(nil, nil)
		time.Sleep(3 * time.Second) // a relative delay is what was asked, whenever it is asked again
		it.FirstTry = false
		out, err := w.Enqueue(w.ctx, "", []engine.Item{it})
		w.ok(err)
		if !out[0].Duplicate || out[0].Err != nil || out[0].State != job.Scheduled {
			t.Fatalf("answer %+v, want the first one", out[0])
		}
		it.Job.Payload = []byte(`2`)
		out, err = w.Enqueue(w.ctx, "", []engine.Item{it})
		w.ok(err)
		w.reason(out[0].Err, job.ReasonIDTaken)
	})
}

func TestBadItemsAreRefusedAndNothingIsStored(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		now := w.Now()
		for name, spoil := range map[string]func(*engine.Item){
			"empty kind":     func(i *engine.Item) { i.Job.Kind = "" },
			"long kind":      func(i *engine.Item) { i.Job.Kind = strings.Repeat("k", 10000) },
			"NUL":            func(i *engine.Item) { i.Job.Queue = "a\x00b" },
			"UTF-8":          func(i *engine.Item) { i.Job.Kind = "\xff" },
			"priority":       func(i *engine.Item) { i.Job.Priority = 99 },
			"payload":        func(i *engine.Item) { i.Job.Payload = make([]byte, 2<<20) },
			"negative delay": func(i *engine.Item) { i.Delay = -1 },
			"two times":      func(i *engine.Item) { i.Delay, i.Job.RunAt = 1, now.Add(1) },
			"far":            func(i *engine.Item) { i.Job.RunAt = now.AddDate(50, 0, 0) },
			"two expiries":   func(i *engine.Item) { i.ExpiresIn, i.Job.ExpiresAt = time.Hour, now.Add(time.Hour) },
			"early expiry":   func(i *engine.Item) { i.Delay, i.ExpiresIn = time.Hour, time.Minute },
			"late":           func(i *engine.Item) { i.FirstTry, i.Job.ExpiresAt = true, now.Add(-time.Hour) },
			"long key":       func(i *engine.Item) { i.IdempotencyKey = strings.Repeat("x", 300) },
			"attempts":       func(i *engine.Item) { i.Job.MaxAttempts = -1 },
		} {
			bad := item(w.id())
			spoil(&bad)
			_, err := w.Enqueue(w.ctx, "", []engine.Item{item(w.id()), bad})
			if job.CodeOf(err) != job.InvalidArgument || !strings.Contains(err.Error(), "item 1") {
				t.Errorf("%s: error %v, want InvalidArgument naming item 1", name, err)
			}
		}
		for name, items := range map[string][]engine.Item{
			"none": nil, "too many": make([]engine.Item, job.MaxBatch+1),
		} {
			if _, err := w.Enqueue(w.ctx, "", items); job.CodeOf(err) != job.InvalidArgument {
				t.Errorf("%s: error %v, want InvalidArgument", name, err)
			}
		}
		if w.f.count("Insert") != 0 {
			t.Fatal("something was stored")
		}
	})
}

func TestUniqueConflictSkipsOrRejects(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		unique := func(reject bool) engine.Enqueued {
			it := item(w.id())
			it.Job.UniqueKey, it.Job.UniqueMode, it.Reject = "u", job.UntilDone, reject
			out, err := w.Enqueue(w.ctx, "", []engine.Item{it})
			w.ok(err)
			return out[0]
		}
		first := unique(false)
		if second := unique(false); !second.Duplicate || second.ID != first.ID || second.State != job.Ready {
			t.Fatalf("skip answers %+v, want duplicate of %s", second, first.ID)
		}
		refused := unique(true)
		w.reason(refused.Err, job.ReasonUniqueHeld)
		var e *job.Error
		if !errors.As(refused.Err, &e) || e.Holder != first.ID {
			t.Fatalf("the refusal does not name the holder: %+v", refused)
		}
	})
}

func TestMaxDepthRefusesAndRecovers(t *testing.T) {
	inWorld(t, engine.Config{MaxDepth: map[string]int64{"default": 3}}, func(w *world) {
		items := make([]engine.Item, 5)
		for i := range items {
			items[i] = item(w.id())
		}
		out, err := w.Enqueue(w.ctx, "", items)
		w.ok(err)
		for i, a := range out {
			if (a.Err != nil) != (i >= 3) {
				t.Fatalf("item %d: %v", i, a.Err)
			}
		}
		w.reason(out[3].Err, job.ReasonQueueFull)
		if job.CodeOf(out[3].Err) != job.ResourceExhausted {
			t.Fatalf("code %d, want ResourceExhausted", job.CodeOf(out[3].Err))
		}
		again, err := w.Enqueue(w.ctx, "", items[:1])
		w.ok(err)
		if !again[0].Duplicate {
			t.Fatal("a repeated enqueue is owed its first answer even when the queue is full")
		}
		other := item(w.id())
		other.Job.Queue = "free"
		out, err = w.Enqueue(w.ctx, "", []engine.Item{other})
		w.ok(err)
		w.ok(out[0].Err)
		w.lease(w.open(), 1, 2)
		time.Sleep(time.Second)
		w.put(2)
	})
}

func TestNothingIsAcceptedAfterTheEnd(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		w.stop()
		w.stop = func() {}
		_, err := w.Enqueue(context.Background(), "", []engine.Item{item(w.id())})
		w.reason(err, job.ReasonShuttingDown)
		if err := w.Ready(context.Background()); err == nil {
			t.Fatal("ready after the end")
		}
	})
}

func TestWakesForOthersAreGathered(t *testing.T) {
	inWorld(t, engine.Config{}, func(w *world) {
		for range 20 {
			w.put(1)
		}
		time.Sleep(10 * time.Millisecond)
		w.f.mu.Lock()
		defer w.f.mu.Unlock()
		if fmt.Sprint(w.f.woken) != "[default]" {
			t.Fatalf("woken %v, want one wake", w.f.woken)
		}
	})
}
