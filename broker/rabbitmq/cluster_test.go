package rabbitmq

import (
	"strings"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
)

// Three nodes, of which one at a time dies: the broker goes to another host of its
// address, and what was confirmed is there.
func TestClusterBearsTheDeathOfANode(t *testing.T) {
	t.Parallel()
	nodes := testenv.StartRabbitMQCluster(t, 3, testenv.RabbitMQOptions{})
	b := open(t, testenv.RabbitMQURL(nodes...), 10*time.Minute)
	const topic = "errand.test.cluster"
	persist(t, b, topic)
	want := 1
	if out := nodes[0].Ctl("list_queues", "name", "members"); strings.Count(out, "errand") < 4 {
		t.Errorf("the queue is not on all nodes: %s", out)
	}
	for i, n := range nodes {
		settle(n)
		n.Kill()
		for range 5 {
			persist(t, b, topic)
			want++
		}
		n.Start()
		awaitOnline(t, nodes[(i+1)%len(nodes)], len(nodes))
	}
	s := subscribe(t, b, topic)
	for got := 0; got < want; {
		msgs, err := s.Receive(t.Context(), want-got, patience)
		if err != nil || len(msgs) == 0 {
			t.Fatalf("%d of %d messages came: %v", got, want, err)
		}
		got += len(msgs)
		if err := s.Ack(t.Context(), msgs); err != nil {
			t.Fatal(err)
		}
	}
}

// persist publishes one message, over all that a dying node may cause.
func persist(t *testing.T, b *Broker, topic string) {
	t.Helper()
	for end := time.Now().Add(3 * patience); ; {
		err := publish(t.Context(), b, topic, 4*time.Second)
		if err == nil {
			return
		}
		wantError(t, "Publish", err, job.Unavailable)
		if time.Now().After(end) {
			t.Fatalf("nothing can be published any more: %v", err)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// awaitOnline waits until so many nodes hold the queues.
func awaitOnline(t *testing.T, node *testenv.RabbitMQ, size int) {
	t.Helper()
	for end := time.Now().Add(2 * patience); ; {
		out := node.Ctl("list_queues", "online", "--no-table-headers")
		if strings.Count(out, "@") == size {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the queue is not on %d nodes again: %s", size, out)
		}
	}
}
