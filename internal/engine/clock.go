package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/errandhq/errand/ledger"
)

// clock follows the ledger's clock: asked for at least each second (runPulse), advanced by the
// monotonic clock in between. So every process on one ledger decides by the
// same time, whatever its own wall clock says.
type clock struct {
	ledger    ledger.Ledger
	monotonic func() time.Duration

	mu   sync.Mutex
	base time.Time     // the ledger's time, zero: never heard
	at   time.Duration // when, by monotonic
}

// sync asks the ledger.
func (c *clock) sync(ctx context.Context) error {
	before := c.monotonic()
	now, err := c.ledger.Now(ctx)
	if err != nil {
		return fmt.Errorf("read the ledger's clock: %w", err)
	}
	c.set(now, before, c.monotonic())
	return nil
}

// set takes the ledger's time, as it was in the middle of a call.
func (c *clock) set(now time.Time, before, after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.at = now, before+(after-before)/2
}

// read returns the ledger's time as last seen, to the microsecond that ledgers
// keep, and whether it ever was seen.
func (c *clock) read() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.base.IsZero() {
		return time.Time{}, false
	}
	return c.base.Add(c.monotonic() - c.at).UTC().Truncate(time.Microsecond), true
}

// now returns the ledger's time, asking the ledger only if it never has.
func (c *clock) now(ctx context.Context) (time.Time, error) {
	if t, ok := c.read(); ok {
		return t, nil
	}
	if err := c.sync(ctx); err != nil {
		return time.Time{}, err
	}
	t, _ := c.read()
	return t, nil
}

// Now is the ledger's clock as the engine last saw it: zero if it never did.
func (e *Engine) Now() time.Time {
	t, _ := e.clock.read()
	return t
}
