package scaling

import (
	"cmp"
	"context"
	"math"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/errandhq/errand/gen/keda/externalscaler"
	"github.com/errandhq/errand/test/cluster"
)

// keda asks servers in turn how many workers are wanted, as KEDA does through a
// service in front of them.
type keda struct {
	conns []*grpc.ClientConn
	ref   *externalscaler.ScaledObjectRef
	turn  int
}

func newKEDA(t *testing.T, metadata map[string]string, addrs ...string) *keda {
	t.Helper()
	k := &keda{ref: &externalscaler.ScaledObjectRef{Name: "workers", Namespace: "test", ScalerMetadata: metadata}}
	for _, addr := range addrs {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		k.conns = append(k.conns, conn)
	}
	return k
}

// desired asks the next server.
func (k *keda) desired(ctx context.Context) (int, error) {
	k.turn++
	return k.desiredBy(ctx, k.turn%len(k.conns))
}

func (k *keda) desiredBy(ctx context.Context, server int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second) // KEDA waits so long by default
	defer cancel()
	var resp externalscaler.GetMetricsResponse
	req := &externalscaler.GetMetricsRequest{ScaledObjectRef: k.ref, MetricName: "errand-desired-workers"}
	if err := k.conns[server].Invoke(ctx, "/externalscaler.ExternalScaler/GetMetrics", req, &resp); err != nil {
		return 0, err
	}
	return int(resp.GetMetricValues()[0].GetMetricValueFloat()), nil
}

// hpa decides as Kubernetes' horizontal autoscaler does with the settings of
// deploy/kubernetes, in times that are made thirty times as short: a deviation of
// a tenth is left alone; up at once, at most to double or by four more; down to the
// most that was recommended within the window, and by few at a time. It is pure.
type hpa struct {
	min, max int
	window   time.Duration // of stabilisation, downwards
	downStep int           // at most so many fewer
	downRest time.Duration // in so long
	advice   []advice
	lowered  time.Time
}

type advice struct {
	at time.Time
	n  int
}

// decide returns how many replicas there shall be, given those that are and what is desired.
func (h *hpa) decide(now time.Time, replicas, desired int) int {
	if off := math.Abs(float64(desired)/float64(max(replicas, 1)) - 1); off <= 0.1 {
		desired = replicas
	}
	h.advice = append(h.advice, advice{now, desired})
	for now.Sub(h.advice[0].at) > h.window {
		h.advice = h.advice[1:]
	}
	most := 0
	for _, a := range h.advice {
		most = max(most, a.n)
	}
	switch {
	case desired > replicas:
		return min(desired, max(2*replicas, replicas+4), h.max)
	case most >= replicas || now.Sub(h.lowered) < h.downRest:
		return replicas
	}
	h.lowered = now
	return max(most, replicas-h.downStep, h.min)
}

// fleet is a deployment of worker processes.
type fleet struct {
	c       *cluster.Cluster
	args    []string
	running []*cluster.Worker
	stopped []*cluster.Worker
	history []int // replicas, at each change
}

// scale starts and stops processes; those that stop drain on their own.
func (f *fleet) scale(n int) {
	f.c.T.Helper()
	if n == len(f.running) {
		return
	}
	f.history = append(f.history, n)
	for len(f.running) < n {
		f.running = append(f.running, f.c.AddWorker(f.args...))
	}
	for _, w := range f.running[n:] {
		w.Signal(syscall.SIGTERM)
		f.stopped = append(f.stopped, w)
	}
	f.running = f.running[:n]
}

// drained waits for all that were stopped, and expects each to have ended well.
func (f *fleet) drained() {
	f.c.T.Helper()
	for _, w := range f.stopped {
		if code := w.Wait(cluster.Patience); code != 0 {
			f.c.T.Errorf("a worker that was scaled away ended with status %d:\n%s", code, w.Log())
		}
	}
}

// turns counts how often a history changes its direction.
func turns(history []int) (n int) {
	last := 0
	for i := 1; i < len(history); i++ {
		direction := cmp.Compare(history[i], history[i-1])
		if direction == 0 {
			continue
		}
		if direction == -last {
			n++
		}
		last = direction
	}
	return n
}

func TestTheAutoscalerIsOne(t *testing.T) {
	h := hpa{min: 1, max: 10, window: 8 * time.Second, downStep: 2, downRest: 2 * time.Second}
	at, n := time.Unix(1000, 0), 1
	var got []int
	for _, desired := range []int{1, 9, 9, 30, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2} {
		n = h.decide(at, n, desired)
		got = append(got, n)
		at = at.Add(time.Second)
	}
	want := []int{1, 5, 9, 10, 10, 10, 10, 10, 10, 10, 10, 10, 8, 8, 6, 6, 4, 4, 2, 2, 3, 3}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("after %d s it has %v, want %v", i, got, want)
		}
	}
	if turns(got[:19]) != 1 || turns([]int{1, 5, 4, 6, 2}) != 3 {
		t.Errorf("turns are counted as %d and %d", turns(got[:19]), turns([]int{1, 5, 4, 6, 2}))
	}
}
