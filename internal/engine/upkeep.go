package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/errandhq/errand/ledger"
)

const (
	upkeepInterval = 2 * time.Second // keeps the counters' deltas few, so that Counts stays cheap
	upkeepRest     = 4               // intervals left out after one that found nothing to do
)

// runUpkeep has the ledger keep house: fold counters, make and drop slices,
// forget what has ended.
func (e *Engine) runUpkeep(ctx context.Context) {
	rest := 0
	e.every(ctx, "upkeep", upkeepInterval, nil, func(ctx context.Context) error {
		if rest > 0 {
			rest--
			return nil
		}
		now, err := e.clock.now(ctx)
		if err != nil {
			return err
		}
		done, err := e.ledger.Upkeep(ctx, now, e.conf.Keep)
		if err != nil {
			return fmt.Errorf("upkeep: %w", err)
		}
		if done == (ledger.Upkept{}) {
			rest = upkeepRest
		}
		if done.SlicesDropped+done.DeadRemoved > 0 {
			e.log.Info("removed what was kept long enough",
				"archive_slices", done.SlicesDropped, "dead_letters", done.DeadRemoved)
		}
		return nil
	})
}
