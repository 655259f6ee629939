package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
	"github.com/errandhq/errand/ledger"
)

// DirectRoute is the route of queues whose jobs are leased straight from the ledger.
const DirectRoute = "direct"

// The carriers that a route may name, whether this process has them or not.
var carrierNames = []string{"rabbitmq", "kafka"}

// routing is what this process knows of the queues' routes and of who works on
// them, over all servers: read from the ledger each second.
type routing struct {
	bell chan struct{}

	mu       sync.Mutex
	identity string
	routes   map[string]string
	crews    map[string]crew
}

// crew is who works on a queue.
type crew struct {
	hands int      // how many jobs they run at once
	every bool     // all of them take every kind
	kinds []string // else: the kinds that all of them take, sorted
	mixed bool     // some take kinds that others do not
}

// takes reports whether every session of the crew takes the kind: only then
// whichever server gets its ref has a worker for it.
func (c crew) takes(kind string) bool {
	if c.every {
		return true
	}
	_, ok := slices.BinarySearch(c.kinds, kind)
	return ok
}

// rest returns those of a worker's kinds that are not carried. all says that it
// takes every kind and others of its crew do not, so that they cannot be named.
func (c crew) rest(kinds []string) (rest []string, all bool) {
	if len(kinds) == 0 {
		return nil, !c.every
	}
	for _, k := range kinds {
		if !c.takes(k) {
			rest = append(rest, k)
		}
	}
	return rest, false
}

// crewsOf sums the live sessions up by queue. A server's canary is no worker: were
// it one, no kind would be taken by all of them.
func crewsOf(list []ledger.Session) map[string]crew {
	crews := map[string]crew{}
	for i := range list {
		s := &list[i]
		if s.State != ledger.SessionLive || s.OfCanary() {
			continue
		}
		for _, q := range slices.Compact(slices.Sorted(slices.Values(s.Queues))) {
			c, known := crews[q]
			kinds := slices.Compact(slices.Sorted(slices.Values(s.Kinds)))
			switch {
			case !known || c.hands == 0:
				c.every, c.kinds = len(kinds) == 0, kinds
			case c.every != (len(kinds) == 0) || !slices.Equal(c.kinds, kinds):
				c.mixed = true
				c.every, c.kinds = false, inBoth(c, kinds)
			}
			c.hands += max(s.Concurrency, 1)
			crews[q] = c
		}
	}
	return crews
}

// inBoth returns the kinds that a crew and one more session take.
func inBoth(c crew, kinds []string) []string {
	switch {
	case c.every:
		return kinds
	case len(kinds) == 0:
		return c.kinds
	}
	return slices.DeleteFunc(slices.Clone(kinds), func(k string) bool { return !c.takes(k) })
}

func (r *routing) crew(queue string) crew {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.crews[queue]
}

// identity returns the ledger's, "" until it was read.
func (e *Engine) identity() string {
	e.routing.mu.Lock()
	defer e.routing.mu.Unlock()
	return e.routing.identity
}

// carrier returns the route of a queue and the broker that carries it: nil for
// the direct route, and for one that this process has no broker for.
func (e *Engine) carrier(queue string) (route string, b broker.Broker) {
	if len(e.conf.Brokers) == 0 {
		return DirectRoute, nil
	}
	e.routing.mu.Lock()
	defer e.routing.mu.Unlock()
	route, stored := e.routing.routes[queue]
	if !stored {
		route = e.conf.DefaultRoute
	}
	if e.routing.identity == "" {
		return route, nil // topics cannot be named yet
	}
	return route, e.conf.Brokers[route]
}

// routed reports whether a queue has a route of its own.
func (e *Engine) routed(queue string) bool {
	e.routing.mu.Lock()
	defer e.routing.mu.Unlock()
	_, ok := e.routing.routes[queue]
	return ok
}

// runRoutes reads routes and crews.
func (e *Engine) runRoutes(ctx context.Context) {
	if len(e.conf.Brokers) == 0 {
		return
	}
	e.every(ctx, "routes", routesInterval, e.routing.bell, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
		defer cancel()
		return e.readRoutes(ctx)
	})
}

func (e *Engine) readRoutes(ctx context.Context) error {
	identity, err := e.ledger.Identity(ctx)
	if err != nil {
		return fmt.Errorf("read the ledger's identity: %w", err)
	}
	routes, err := e.ledger.Routes(ctx)
	if err != nil {
		return fmt.Errorf("read routes: %w", err)
	}
	list, err := e.ledger.ListSessions(ctx, false)
	if err != nil {
		return fmt.Errorf("look at the sessions: %w", err)
	}
	r := &e.routing
	r.mu.Lock()
	changed := r.identity == "" || !maps.Equal(r.routes, routes)
	r.identity, r.routes, r.crews = identity, routes, crewsOf(list)
	r.mu.Unlock()
	if changed {
		e.dispatch.wakeAll() // whoever waited for a carrier may be served directly now
		ring(e.carry.bell)
		ring(e.relay.bell)
	}
	return nil
}

// SetRoute says by which carrier the jobs of a queue go from now on: "direct",
// "rabbitmq" or "kafka"; "" is the server's default. All servers follow
// within a second or two; meanwhile each goes on as before, and the ledger
// sees to it that no job is lost or doubled. The queue need not exist yet.
func (e *Engine) SetRoute(ctx context.Context, queue, route string) error {
	if err := job.CheckName("queue", queue); err != nil {
		return err
	}
	if route != "" && route != DirectRoute {
		if !slices.Contains(carrierNames, route) {
			return job.Errorf(job.InvalidArgument, job.ReasonBadField, "route %q is not one of direct, rabbitmq, kafka, default", route)
		}
		if e.conf.Brokers[route] == nil {
			return job.Errorf(job.FailedPrecondition, job.ReasonNoBroker, "this server has no %s: start it with --broker", route)
		}
	}
	now, err := e.clock.now(ctx)
	if err != nil {
		return err
	}
	if err := e.ledger.SetRoute(ctx, now, queue, route); err != nil {
		return fmt.Errorf("route queue %q: %w", queue, err)
	}
	e.log.Info("queue changed", "queue", queue, "route", route)
	ring(e.routing.bell)
	return nil
}
