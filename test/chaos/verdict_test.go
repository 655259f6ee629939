package chaos

import (
	"fmt"
	"slices"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/history"
	"github.com/errandhq/errand/test/cluster"
)

const (
	backlog = 3000 // of each queue, when order is judged
	urgent  = 5    // jobs of each queue that overtake it
)

// bounds are how many jobs of the backlog may be begun before an urgent one: those that the hands
// have, and with a carrier those of its window of refs, which is doubled where a
// relay begins anew.
var bounds = map[string]int{directQueue: 100, rabbitQueue: 500, kafkaQueue: 500}

// inOrder puts a backlog into each queue and urgent jobs behind it.
func (w *world) inOrder() {
	w.T.Helper()
	for _, q := range queues {
		w.Do("queues", "pause", q)
		w.Burst(w.load, backlog, cluster.Order{Millis: 20}, errand.Queue(q), errand.Priority(9))
	}
	for _, q := range queues {
		w.Do("queues", "resume", q)
	}
	w.Eventually("every backlog is under way", func() (bool, string) { return w.ready(func(n int64) bool { return n < backlog }) })
	for range urgent {
		for _, q := range queues {
			w.Burst(w.load, 1, cluster.Order{}, errand.Queue(q), errand.Priority(0))
		}
	}
	if ok, instead := w.ready(func(n int64) bool { return n > 800 }); !ok {
		w.T.Errorf("the backlogs were gone before anything could overtake them: %s", instead)
	}
	w.AwaitIdle()
}

// ready asks about the number of ready jobs of each queue.
func (w *world) ready(good func(n int64) bool) (bool, string) {
	list, err := w.Client().Queues(w.T.Context())
	if err != nil {
		return false, err.Error()
	}
	return !slices.ContainsFunc(list, func(q errand.QueueInfo) bool { return !good(q.Ready) }), fmt.Sprintf("%+v", list)
}

// judge holds ledger, workers and watchers against the promises.
func (w *world) judge() {
	w.T.Helper()
	h := &history.History{Accepted: w.load.Promises(), Ends: w.watched, Bounds: bounds}
	// Under faults a ref may be lost until it is published again.
	h.Disturbed = []history.Interval{{To: w.calm}}
	v := w.Judge(h)
	for _, q := range queues {
		if v.Ordered[q] < urgent {
			w.T.Errorf("in queue %s the order of %d jobs could be judged, of %d that were urgent", q, v.Ordered[q], urgent)
		}
	}
	w.T.Logf("%d runs, %d ends seen by watchers; at most %v jobs went before a more urgent one", len(h.Runs), len(h.Ends), v.Overtaken)
	if len(h.Ends) == 0 {
		w.T.Error("the watchers saw nothing")
	}
}

// drift asks each server for the states of all jobs, by the cache, and wants those of the
// ledger: at once for what is final, and nothing else is left.
func (w *world) drift() {
	w.T.Helper()
	var ids []errand.ID
	for id := range w.load.Promises() {
		ids = append(ids, id)
	}
	for n, s := range w.Servers {
		client, err := errand.Dial(s.URL())
		if err != nil {
			w.T.Fatal(err)
		}
		w.Eventually(fmt.Sprintf("the view of server %d agrees with the ledger", n), func() (bool, string) {
			for page := range slices.Chunk(ids, 1000) {
				if differ := w.differ(client, page); differ != "" {
					return false, differ
				}
			}
			return true, ""
		})
		info, err := client.ServerInfo(w.T.Context())
		w.T.Logf("server %d: %d states from the cache, %d from the ledger, %d wrong ones repaired, %v", n, info.CacheHits, info.CacheMisses, info.CacheDrift, err)
		if err := client.Close(); err != nil {
			w.T.Error(err)
		}
	}
}

// differ compares what the cache says of some jobs with what the ledger says.
func (w *world) differ(client *errand.Client, ids []errand.ID) string {
	fast, err := client.States(w.T.Context(), ids...)
	if err != nil {
		return err.Error()
	}
	truth, err := client.Jobs(w.T.Context(), ids...)
	if err != nil {
		return err.Error()
	}
	seen := map[errand.ID]errand.JobState{}
	for _, s := range fast {
		seen[s.ID] = s
	}
	for _, j := range truth {
		s, ok := seen[j.ID]
		if !ok || s.State != j.State || s.Version != j.Version {
			return fmt.Sprintf("job %s is %s (version %d) in the ledger, and %s (version %d, age %s) in the view",
				j.ID, j.State, j.Version, s.State, s.Version, s.Age.Round(time.Millisecond))
		}
	}
	return ""
}
