// Package scaling drives workers by the scaling signal, as KEDA and Kubernetes
// do: real servers, real worker processes, started and drained by what the
// servers say, under a load that rises to twenty times itself and falls again.
package scaling

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	errand "github.com/errandhq/errand"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/test/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// The simulation. Jobs sleep: what is measured is decisions, not the machine.
const (
	usual       = 5.0 // jobs a second
	spike       = 20  // times as many
	jobMillis   = 40
	longMillis  = 2000 // of one in ten
	slots       = 4    // of a worker
	most        = 14   // workers
	targetWait  = 8 * time.Second
	workerGrace = 500 * time.Millisecond // shorter than a long job: some are given back
	poll        = 500 * time.Millisecond // a thirtieth of what KEDA's is in deploy/kubernetes
)

// twoServers are on one PostgreSQL, each with an address for KEDA.
func twoServers(t *testing.T) (*cluster.Cluster, []string) {
	c := cluster.Postgres(t, testenv.Options{})
	c.Steady()
	c.Env = append(c.Env, "ERRAND_LOG_LEVEL=warn")
	var scalers []string
	for range 2 {
		addr := "127.0.0.1:" + strconv.Itoa(testenv.FreePort(t))
		scalers = append(scalers, addr)
		c.AddServer("--scaler-listen", addr)
	}
	return c, scalers
}

func metadata() map[string]string {
	return map[string]string{
		"queue": "default", "targetWait": targetWait.String(), "concurrency": strconv.Itoa(slots), "min": "1", "max": strconv.Itoa(most),
		"scalerAddress": "errand-scaler:7421",
	}
}

// A load that rises to twenty times itself and falls again: what waits is begun
// within the target, workers come and go without to and fro, and their going
// costs no job and no attempt.
func TestSpike(t *testing.T) {
	t.Parallel()
	c, scalers := twoServers(t)
	stalls := c.Stalls()
	f := &fleet{c: c, args: []string{"-concurrency", strconv.Itoa(slots), "-grace", workerGrace.String()}}
	var rate atomic.Int64
	rate.Store(int64(usual))
	pouring, dry := context.WithCancel(t.Context())
	poured := make(chan *cluster.Load, 1)
	go func() {
		poured <- c.Pour(pouring, func() float64 { return float64(rate.Load()) }, func(n int) cluster.Order {
			o := cluster.Order{N: n, Millis: jobMillis}
			if n%10 == 7 {
				o.Millis = longMillis
			}
			return o
		})
	}()

	s := &simulation{t: t, k: newKEDA(t, metadata(), scalers...), f: f,
		h: hpa{min: 1, max: most, window: 8 * poll, downStep: 2, downRest: 2 * poll}}
	f.scale(1)
	s.run(4 * time.Second)
	calm := len(f.running)
	rate.Store(int64(spike * usual))
	s.run(9 * time.Second)
	peak := slices.Max(f.history)
	rate.Store(int64(usual))
	s.until(func() bool { return len(f.running) <= calm+1 })
	dry()
	load := <-poured
	c.AwaitIdle()
	f.scale(0)
	f.drained()
	stalled := stalls()

	t.Logf("replicas %v, peak %d, of %d jobs; stalls up to %s\n%s", f.history, peak, load.Accepted(), stalled, s.log.String())
	// The spike alone keeps 24 slots busy: 100 jobs a second of 0.236 s.
	if peak < 6 {
		t.Errorf("there were never more than %d workers; the spike needs 6", peak)
	}
	if n := turns(f.history[:len(f.history)-1]); n > 3 {
		t.Errorf("the number of workers turned %d times: %v", n, f.history)
	}
	c.Check(load, false)
	checkJobs(t, c, stalled)
}

// checkJobs: nothing was charged to any job, and each was begun in time.
func checkJobs(t *testing.T, c *cluster.Cluster, stalled time.Duration) {
	t.Helper()
	var waits []time.Duration
	back := 0
	for j, err := range c.Client().List(t.Context(), errand.ListQuery{PageSize: 1000}) {
		if err != nil {
			t.Fatal(err)
		}
		if j.Attempt != 1 || j.Crashes != 0 || len(j.Errors) != 0 {
			t.Errorf("job %s was charged: attempt %d, crashes %d, errors %v", j.ID, j.Attempt, j.Crashes, j.Errors)
		}
		if j.Token > 1 {
			back++ // given back by a worker that went: it waited twice
			continue
		}
		waits = append(waits, j.LeasedAt.Sub(j.RunAt))
	}
	slices.Sort(waits)
	p95, worst := waits[len(waits)*95/100], waits[len(waits)-1]
	t.Logf("%d jobs waited up to %s, 95 %% up to %s; %d were given back by workers that went", len(waits), worst, p95, back)
	if p95 > targetWait+stalled {
		t.Errorf("of the jobs 95 %% were begun within %s; the target is %s", p95, targetWait)
	}
	if worst > 2*targetWait+stalled {
		t.Errorf("a job waited for %s; the target is %s", worst, targetWait)
	}
}

// simulation is the loop between the signal and the processes.
type simulation struct {
	t   *testing.T
	k   *keda
	h   hpa
	f   *fleet
	log strings.Builder
}

func (s *simulation) run(d time.Duration) {
	end := time.Now().Add(d)
	s.until(func() bool { return !time.Now().Before(end) })
}

// until asks and scales at each poll, up to a deadline. Where there is no
// answer nothing is changed.
func (s *simulation) until(done func() bool) {
	s.t.Helper()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for deadline := time.Now().Add(cluster.Patience); !done(); {
		if time.Now().After(deadline) {
			s.t.Fatalf("after %s there are still %d workers\n%s", cluster.Patience, len(s.f.running), s.log.String())
		}
		<-tick.C
		desired, err := s.k.desired(s.t.Context())
		if err != nil {
			fmt.Fprintf(&s.log, "no answer: %v\n", err)
			continue
		}
		n := s.h.decide(time.Now(), len(s.f.running), desired)
		fmt.Fprintf(&s.log, "desired %d, replicas %d\n", desired, n)
		s.f.scale(n)
	}
}

// Servers on one ledger give the same answer, and so does one that was killed
// and started again, at once.
func TestServersAgreeAcrossARestart(t *testing.T) {
	t.Parallel()
	c, scalers := twoServers(t)
	w := c.AddWorker("-concurrency", "10")
	for i := range 40 {
		c.Enqueue(cluster.Order{N: i, Millis: 500})
	}
	c.AwaitIdle()
	w.Stop()
	for i := range 320 { // of half a second each: 160 s of work, for which the target needs 20 slots
		c.Enqueue(cluster.Order{N: i, Millis: 500})
	}
	k := newKEDA(t, metadata(), scalers...)
	agreed := func(when string) (n int) {
		t.Helper()
		c.Eventually("servers agree "+when, func() (bool, string) {
			first, err := k.desiredBy(t.Context(), 0)
			second, err2 := k.desiredBy(t.Context(), 1)
			n = first
			// Five by the time that the jobs take; a busy machine takes longer.
			return err == nil && err2 == nil && first == second && first >= 5 && first <= 10,
				fmt.Sprintf("%d and %d, %v", first, second, errors.Join(err, err2))
		})
		return n
	}
	before := agreed("before")
	c.Servers[0].Kill()
	c.Servers[0].Start()
	c.Servers[0].AwaitReady()
	if after := agreed("after"); after != before {
		t.Errorf("%d workers are wanted, and %d after a restart", before, after)
	}
}
