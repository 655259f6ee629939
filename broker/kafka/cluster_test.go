package kafka

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/testenv"
)

// TestCluster carries over three brokers, of which one dies: the one that leads.
func TestCluster(t *testing.T) {
	t.Parallel()
	brokers := testenv.StartKafkaCluster(t, 3, testenv.KafkaOptions{})
	seeds := make([]string, len(brokers))
	for i, k := range brokers {
		seeds[i] = k.Address()
	}
	for _, query := range []string{"group=share", "group=share&partitions=3", "group=classic&partitions=3"} {
		t.Run(query, func(t *testing.T) {
			b := open(t, "kafka://"+strings.Join(seeds, ",")+"?"+query, time.Minute)
			topic := "errand.cluster." + strings.NewReplacer("=", ".", "&", ".").Replace(query)
			s := subscribe(t, b, topic)
			list, missing := bodies(60)
			if err := b.Publish(t.Context(), topic, list); err != nil {
				t.Fatal(err)
			}
			leader := describe(t, b, topic)
			drain(t, s, missing, time.Minute)

			brokers[leader-1].Kill()
			defer brokers[leader-1].Start()
			list, missing = bodies(60)
			start := time.Now()
			for b.Publish(t.Context(), topic, list) != nil && time.Since(start) < time.Minute {
				continue
			}
			drain(t, s, missing, 2*time.Minute)
			t.Logf("the death of a leader was overcome after %s", time.Since(start))
		})
	}
}

// describe checks the settings of a topic that we made and returns a leader of it.
func describe(t *testing.T, b *Broker, topic string) int32 {
	t.Helper()
	meta, err := b.adm.Metadata(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	parts := meta.Topics[topic].Partitions
	if n := parts.NumReplicas(); n != 3 {
		t.Errorf("%d replicas, want 3", n)
	}
	configs, err := b.adm.DescribeTopicConfigs(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, c := range configs[0].Configs {
		got[c.Key] = c.MaybeValue()
	}
	for name, want := range map[string]string{
		"cleanup.policy": "delete", "min.insync.replicas": "2", "message.timestamp.type": "LogAppendTime",
		"retention.ms": fmt.Sprint((10 * time.Minute).Milliseconds()), "segment.ms": fmt.Sprint((10 * time.Minute).Milliseconds()),
	} {
		if got[name] != want {
			t.Errorf("%s is %s, want %s", name, got[name], want)
		}
	}
	return parts[0].Leader
}
