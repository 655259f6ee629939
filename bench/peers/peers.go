// Package peers makes the other queues, and the raw limits of what lies beneath
// them, measurable by the load that measures Errand: each is a bench.System, at
// the settings that its own documentation names for speed.
package peers

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/errandhq/errand/internal/bench"
)

// Open makes a system at an address, with no jobs in it. What an address is
// depends on the peer: a URL, or the path of a SQLite file.
type Open func(ctx context.Context, address string, p bench.Plan) (bench.System, error)

// all are the peers of this process; those on Node have scripts of their own.
var all = map[string]Open{
	"river":        openRiver,
	"river-sqlite": openRiverSQLite,
	"goqite":       openGoqite,
	"asynq":        openAsynq,
	"rabbitmq":     openRabbitMQ,
	"kafka":        openKafka,
	"nats":         openNATS,
	"raw-postgres": openRawPostgres,
	"raw-sqlite":   openRawSQLite,
}

// Names lists the peers, sorted.
func Names() []string { return slices.Sorted(maps.Keys(all)) }

// Find returns a peer by its name.
func Find(name string) (Open, error) {
	open, ok := all[name]
	if !ok {
		return nil, fmt.Errorf("there is no peer %q", name)
	}
	return open, nil
}
