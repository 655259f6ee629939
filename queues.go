package errand

import (
	"context"
	"time"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
)

// QueueInfo is a queue and how many jobs it now keeps in each state.
type QueueInfo struct {
	Queue       string
	Paused      bool
	Route       string // by which its jobs go: direct, rabbitmq or kafka
	Scheduled   int64
	Ready       int64
	Running     int64
	Succeeded   int64 // still kept
	Dead        int64
	Cancelled   int64          // still kept
	OldestReady *time.Duration // age of the oldest claimable job; nil if there is none
	Kinds       []KindInfo     // with ready jobs
}

// KindInfo is a kind with ready jobs in a queue.
type KindInfo struct {
	Kind             string
	Ready            int64
	WaitingForWorker bool // no live worker takes this kind
}

// Queues returns every queue that has jobs or is paused.
func (c *Client) Queues(ctx context.Context) ([]QueueInfo, error) {
	r, err := call(ctx, c, c.svc.ListQueues, &errandv1.ListQueuesRequest{})
	if err != nil {
		return nil, err
	}
	out := make([]QueueInfo, 0, len(r.GetQueues()))
	for _, q := range r.GetQueues() {
		info := QueueInfo{
			Queue: q.GetQueue(), Paused: q.GetPaused(), Route: q.GetRoute(), Scheduled: q.GetScheduled(), Ready: q.GetReady(), Running: q.GetRunning(),
			Succeeded: q.GetSucceeded(), Dead: q.GetDead(), Cancelled: q.GetCancelled(),
		}
		if q.GetOldestReady() != nil {
			d := q.GetOldestReady().AsDuration()
			info.OldestReady = &d
		}
		for _, k := range q.GetKinds() {
			info.Kinds = append(info.Kinds, KindInfo{Kind: k.GetKind(), Ready: k.GetReady(), WaitingForWorker: k.GetWaitingForWorker()})
		}
		out = append(out, info)
	}
	return out, nil
}

// Pause stops giving out jobs of a queue; running ones go on. Enqueues are
// still taken.
func (c *Client) Pause(ctx context.Context, queue string) error {
	_, err := call(ctx, c, c.svc.PauseQueue, &errandv1.PauseQueueRequest{Queue: queue})
	return err
}

// Resume ends Pause.
func (c *Client) Resume(ctx context.Context, queue string) error {
	_, err := call(ctx, c, c.svc.ResumeQueue, &errandv1.ResumeQueueRequest{Queue: queue})
	return err
}

// Route says by which carrier the jobs of a queue go from now on: "direct",
// "rabbitmq" or "kafka", or "" for the server's default. Servers follow within a
// second or two, and no job is lost or doubled by the change. It returns an error with ReasonNoBroker
// if the server has no such carrier.
func (c *Client) Route(ctx context.Context, queue, route string) error {
	_, err := call(ctx, c, c.svc.RouteQueue, &errandv1.RouteQueueRequest{Queue: queue, Route: route})
	return err
}

// SessionInfo is a worker process.
type SessionInfo struct {
	ID          ID
	Worker      string
	Version     string // of its SDK
	Queues      []string
	Kinds       []string // empty: every kind
	Concurrency int
	State       string // live, draining, dead, drained
	Running     int    // jobs it holds
	OpenedAt    time.Time
	RenewedAt   time.Time
}

// Sessions returns the worker processes of now and of the last hour, newest first.
func (c *Client) Sessions(ctx context.Context) ([]SessionInfo, error) {
	r, err := call(ctx, c, c.svc.ListSessions, &errandv1.ListSessionsRequest{})
	if err != nil {
		return nil, err
	}
	out := make([]SessionInfo, 0, len(r.GetSessions()))
	for _, s := range r.GetSessions() {
		out = append(out, SessionInfo{
			ID: wireID(s.GetId()), Worker: s.GetWorker(), Version: s.GetVersion(), Queues: s.GetQueues(), Kinds: s.GetKinds(),
			Concurrency: int(s.GetConcurrency()), State: s.GetState(), Running: int(s.GetRunning()),
			OpenedAt: timeOf(s.GetOpenedAt()), RenewedAt: timeOf(s.GetRenewedAt()),
		})
	}
	return out, nil
}

// ServerInfo is what a server says of itself.
type ServerInfo struct {
	Version      string
	Ledger       string // sqlite or postgres
	StaleResults int64  // settles, heartbeats and notes refused for their token, since its start
	Rescued      int64  // jobs taken from dead sessions, since its start
	Brake        bool   // a mass rescue is being held back
	MaxPayload   int64  // bytes
	Role         string // what the caller's token allows

	Brokers         []string // the carriers that it has: rabbitmq, kafka
	RelayLeads      bool     // it publishes refs of ready jobs to the carriers
	RefsPublished   int64    // by it, since its start
	RefsRepublished int64    // of those: published before, and not leased in time
	LeasedByRef     int64    // jobs that it leased because a carrier brought their refs

	Cache       string // of job states: none, memory or redis
	CacheAway   bool   // it fails, and is left alone for the moment
	CacheHits   int64  // states that it answered, since the server's start
	CacheMisses int64  // states that the ledger answered instead
	CacheShed   int64  // changes that were not written to it, for lack of room or time
	CacheDrift  int64  // final states in it that the ledger contradicted, and were repaired
}

// ServerInfo asks the server for its version and counters.
func (c *Client) ServerInfo(ctx context.Context) (ServerInfo, error) {
	r, err := call(ctx, c, c.svc.GetServerInfo, &errandv1.GetServerInfoRequest{})
	if err != nil {
		return ServerInfo{}, err
	}
	return ServerInfo{
		Version: r.GetVersion(), Ledger: r.GetLedger(), StaleResults: r.GetStaleResults(), Rescued: r.GetRescued(),
		Brake: r.GetBrake(), MaxPayload: r.GetMaxPayload(), Role: r.GetRole(),
		Brokers: r.GetBrokers(), RelayLeads: r.GetRelayLeads(), RefsPublished: r.GetRefsPublished(),
		RefsRepublished: r.GetRefsRepublished(), LeasedByRef: r.GetLeasedByRef(),
		Cache: r.GetCache(), CacheAway: r.GetCacheAway(), CacheHits: r.GetCacheHits(), CacheMisses: r.GetCacheMisses(),
		CacheShed: r.GetCacheShed(), CacheDrift: r.GetCacheDrift(),
	}, nil
}
