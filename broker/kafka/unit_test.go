package kafka

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

// spansOf writes spans as partition:first-last=fate.
func spansOf(list []settle) (out []string) {
	for _, p := range spans(list) {
		for _, b := range p.AcknowledgementBatches {
			out = append(out, fmt.Sprintf("%d:%d-%d=%d", p.Partition, b.FirstOffset, b.LastOffset, b.AcknowledgeTypes[0]))
		}
	}
	return out
}

func TestSpansAreInOrderAndJoined(t *testing.T) {
	at := func(partition int32, offset int64, as int8) settle {
		return settle{delivery{partition: partition, offset: offset}, as}
	}
	for _, c := range []struct {
		list []settle
		want []string
	}{
		{nil, nil},
		{[]settle{at(0, 5, ackAccept)}, []string{"0:5-5=1"}},
		{[]settle{at(0, 7, ackAccept), at(0, 5, ackAccept), at(0, 6, ackAccept)}, []string{"0:5-7=1"}},
		{[]settle{at(0, 5, ackAccept), at(0, 6, ackRelease), at(0, 7, ackRelease)}, []string{"0:5-5=1", "0:6-7=2"}},
		{[]settle{at(0, 5, ackAccept), at(0, 7, ackAccept)}, []string{"0:5-5=1", "0:7-7=1"}},
		{[]settle{at(0, 5, ackAccept), at(0, 5, ackAccept), at(0, 6, ackAccept)}, []string{"0:5-6=1"}},
		{[]settle{at(2, 1, ackAccept), at(1, 0, ackGap), at(2, 0, ackAccept)}, []string{"1:0-0=0", "2:0-1=1"}},
	} {
		if got := spansOf(c.list); !reflect.DeepEqual(got, c.want) {
			t.Errorf("spans are %q, want %q", got, c.want)
		}
	}
}

func TestProgressMovesOverWhatIsDone(t *testing.T) {
	const ttl = time.Minute
	start := time.Now()
	p := &progress{}
	marks := make([]*mark, 5)
	for i := range marks {
		marks[i] = p.deliver(&kgo.Record{Offset: int64(10 + i)}, start.Add(time.Duration(i)*time.Second))
	}
	want := func(what string, now time.Time, stores bool, offset int64) {
		t.Helper()
		if got := p.advance(now, ttl); got != stores || p.done.Offset != offset {
			t.Errorf("%s: advance says %t and %d, want %t and %d", what, got, p.done.Offset, stores, offset)
		}
	}
	want("nothing is done", start, false, 0)
	marks[1].acked = true
	want("a gap is before it", start, false, 0)
	marks[0].acked = true
	want("the gap is filled", start, true, 12)
	p.stored = 12
	want("it is stored", start, false, 12)
	marks[3].acked = true
	want("the third is too old to wait for", start.Add(ttl+2500*time.Millisecond), true, 14)
	want("the fifth is not", start.Add(ttl+2500*time.Millisecond), true, 14)
}

func TestWrapSaysWhatToDo(t *testing.T) {
	ctx := t.Context()
	for _, c := range []struct {
		err  error
		code job.Code
	}{
		{kerr.TopicAuthorizationFailed, job.PermissionDenied},
		{fmt.Errorf("at broker 1: %w", kerr.GroupAuthorizationFailed), job.PermissionDenied},
		{kerr.SaslAuthenticationFailed, job.PermissionDenied},
		{kerr.InvalidReplicationFactor, job.FailedPrecondition},
		{kerr.NotEnoughReplicas, job.Unavailable},
		{kerr.NotLeaderForPartition, job.Unavailable},
		{context.DeadlineExceeded, job.Unavailable},
		{errors.New("connection refused"), job.Unavailable},
		{kgo.ErrRecordTimeout, job.Unavailable},
		{kgo.ErrClientClosed, job.FailedPrecondition},
	} {
		got := wrap(ctx, "publish", c.err)
		if job.CodeOf(got) != c.code || job.ReasonOf(got) == "" {
			t.Errorf("%v became %v of code %d, want %d", c.err, got, job.CodeOf(got), c.code)
		}
	}
	if err := wrap(ctx, "publish", nil); err != nil {
		t.Errorf("no error became %v", err)
	}
	if err := wrap(ctx, "publish", kgo.ErrClientClosed); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("a closed client is %v", err)
	}
}

func TestPausesGrowAndAreBounded(t *testing.T) {
	for n := range 100 {
		if d := pauseAfter(n); d < leastPause/2 || d > mostPause || n > 10 && d < mostPause/2 {
			t.Errorf("after %d failures the pause is %s", n, d)
		}
	}
}

// oldCluster speaks what Kafka 3.5 did.
func oldCluster(t *testing.T) string {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.MaxVersions(kversion.V3_5_0()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return "kafka://" + c.ListenAddrs()[0]
}

// Against brokers that have no share groups the driver takes classic ones by itself, unless
// the address insists.
func TestOldClusterIsUsedByConsumerGroups(t *testing.T) {
	address := oldCluster(t)
	b := open(t, address, time.Minute)
	if err := b.Publish(t.Context(), "errand.old", [][]byte{[]byte("one")}); err != nil {
		t.Fatal(err)
	}
	s, err := b.Subscribe(t.Context(), "errand.old")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.(*classic); !ok {
		t.Errorf("the subscription is a %T", s)
	}
	msgs, err := s.Receive(t.Context(), 1, time.Minute)
	if err != nil || len(msgs) != 1 || string(msgs[0].Body) != "one" {
		t.Fatalf("received %v, %v", msgs, err)
	}
	if err := s.Ack(t.Context(), msgs); err != nil {
		t.Error(err)
	}
	if depth, err := b.Depth(t.Context(), "errand.old"); err != nil || depth != 0 {
		t.Errorf("depth %d, %v", depth, err)
	}
}

func TestShareGroupsOfAnOldClusterAreRefused(t *testing.T) {
	b := open(t, oldCluster(t)+"?group=share", time.Minute)
	_, err := b.Subscribe(t.Context(), "errand.old")
	if job.CodeOf(err) != job.FailedPrecondition {
		t.Errorf("Subscribe: %v", err)
	}
	found, err := b.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.Name == "groups" && !f.OK && f.Detail == noShareGroups {
			return
		}
	}
	t.Errorf("Check does not say so: %v", found)
}

// loading has every heartbeat of a share group answered by a coordinator that loads, until
// the returned function is called.
func loading(t *testing.T, c *kfake.Cluster) (ready func()) {
	t.Helper()
	var done atomic.Bool
	c.ControlKey(int16(kmsg.ShareGroupHeartbeat), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if done.Load() {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.ShareGroupHeartbeatResponse)
		resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
		return resp, nil, true
	})
	return func() { done.Store(true) }
}

func TestLoadingCoordinatorIsWaitedFor(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	ready := loading(t, c)
	b := open(t, "kafka://"+c.ListenAddrs()[0]+"?group=share", time.Minute)
	if err := b.Publish(t.Context(), "errand.new", [][]byte{[]byte("one")}); err != nil {
		t.Fatal(err)
	}
	s, err := b.Subscribe(t.Context(), "errand.new")
	if err != nil {
		t.Fatal(err)
	}
	if msgs, err := s.Receive(t.Context(), 1, 300*time.Millisecond); err != nil || len(msgs) > 0 {
		t.Fatalf("while the coordinator loads, received %v, %v", msgs, err)
	}
	ready()
	if msgs, err := s.Receive(t.Context(), 1, time.Minute); err != nil || len(msgs) != 1 {
		t.Errorf("once it has loaded, received %v, %v", msgs, err)
	}
}

func TestCoordinatorThatNeverLoadsIsTrouble(t *testing.T) {
	var m member
	start := time.Now()
	for _, c := range []struct {
		after    time.Duration
		err      error
		starting bool
	}{
		{0, kerr.CoordinatorLoadInProgress, true},
		{loadPatience - 1, kerr.NotCoordinator, true},
		{loadPatience, kerr.CoordinatorNotAvailable, false},
		{loadPatience + 1, nil, false},
		{loadPatience + 2, kerr.CoordinatorLoadInProgress, true},
		{loadPatience + 3, kerr.GroupAuthorizationFailed, false},
	} {
		if got := m.starting(c.err, start.Add(c.after)); got != c.starting {
			t.Errorf("after %s, %v: starting is %t", c.after, c.err, got)
		}
	}
}
