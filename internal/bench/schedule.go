package bench

import (
	"context"
	"time"
)

// schedule sends the moments at which an open loop of rate calls a second, for d,
// is meant to make them, each when it has come; then it closes due. It waits for
// nobody: a caller that is held up finds the moments it has missed. So due must
// have room for all of them.
func schedule(ctx context.Context, rate float64, d time.Duration, due chan<- time.Time) {
	defer close(due)
	begin := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range scheduled(rate, d) {
		at := begin.Add(time.Duration(float64(i) * float64(time.Second) / rate))
		if wait := time.Until(at); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		}
		due <- at
	}
}

// scheduled is how many calls schedule makes.
func scheduled(rate float64, d time.Duration) int { return max(1, int(rate*d.Seconds())) }
