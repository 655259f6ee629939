package bench

import (
	"context"
	"time"
)

// schedule sends the moments at which an open loop of rate calls a second, for d,
// is meant to make them, each when it has come; then it closes due. It waits for
// nobody: a caller that is held up finds the moments it has missed. So due must
// have room for all of them.
func schedule(ctx context.Context, clock alarm, rate float64, d time.Duration, due chan<- time.Time) {
	defer close(due)
	begin := time.Now()
	for i := range scheduled(rate, d) {
		at := begin.Add(time.Duration(float64(i) * float64(time.Second) / rate))
		if wait := time.Until(at); wait > 0 && !clock.sleep(ctx, wait) {
			return
		}
		due <- at
	}
}

// scheduled is how many calls schedule makes.
func scheduled(rate float64, d time.Duration) int { return max(1, int(rate*d.Seconds())) }

// alarm wakes a schedule. An open loop counts from the moment that was meant, so how late
// the alarm is counts as if what is measured had been slow.
type alarm interface {
	// sleep waits for d and reports whether ctx still lives.
	sleep(ctx context.Context, d time.Duration) bool
	close()
}

// runtimeAlarm is the runtime's timer, which an idle process on Linux is told of in whole milliseconds.
type runtimeAlarm struct{}

func (runtimeAlarm) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (runtimeAlarm) close() {}
