package engine

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/errandhq/errand/job"
)

// echo is a batcher of numbers whose commits are as slow as slow says, and are kept.
func echo(slow time.Duration) (b *batcher[int, int], commits *[][]int) {
	commits = new([][]int)
	b = newBatcher("echo", func(_ context.Context, in []int) ([]int, error) {
		time.Sleep(slow)
		*commits = append(*commits, in)
		return in, nil
	}, func(int) int { return 1 })
	return b, commits
}

// runBatcher runs b until stop, which returns when it has ended.
func runBatcher(b *batcher[int, int]) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var ran sync.WaitGroup
	ran.Go(func() { b.run(ctx) })
	return func() { cancel(); ran.Wait() }
}

// The next batch waits until a caller that was answered has run.
func TestABatchIsNotTakenBeforeWhoWasAnsweredHasRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := echo(0)
		first := &ticket[int, int]{done: make(chan struct{})}
		b.answer([]*ticket[int, int]{first})
		gathered := false
		go func() { b.gather(); gathered = true }()
		synctest.Wait()
		if gathered {
			t.Fatal("it was not waited for")
		}
		if _, err := b.resume(first); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !gathered {
			t.Fatal("it is still waited for")
		}
	})
}

// A caller that gives up during the commit is told that the outcome is unknown, and is not
// waited for by those behind it.
func TestWhoGivesUpDuringACommitHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := echo(time.Second)
		stop := runBatcher(b)
		defer stop()
		impatient, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := b.do(impatient, []int{1}); !errors.Is(err, job.ErrUnknown) {
				t.Errorf("the impatient caller: %v", err)
			}
		})
		synctest.Wait()
		began := time.Now()
		all.Go(func() {
			if _, err := b.do(t.Context(), []int{2}); err != nil {
				t.Errorf("the one behind it: %v", err)
			}
		})
		all.Wait()
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("the one behind it was answered after %s, not two commits", took)
		}
	})
}

// A caller that gives up before its batch is taken has changed nothing.
func TestWhoGivesUpInTheQueueIsNotCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, commits := echo(time.Second)
		stop := runBatcher(b)
		var all sync.WaitGroup
		all.Go(func() { _, _ = b.do(t.Context(), []int{1}) })
		synctest.Wait()
		impatient, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		if _, err := b.do(impatient, []int{2}); job.CodeOf(err) != job.DeadlineExceeded {
			t.Errorf("the impatient caller: %v", err)
		}
		all.Wait()
		stop()
		if len(*commits) != 1 {
			t.Errorf("committed: %v", *commits)
		}
	})
}
