package kafka

import (
	"testing"
	"time"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/internal/testenv"
)

// BenchmarkCarry sends messages of 200 bytes in batches, as the relay does, and receives and
// acknowledges them.
func BenchmarkCarry(b *testing.B) {
	for _, groups := range []Groups{Share, Classic} {
		for name, size := range map[string]int{"one": 1, "sixteen": 16, "hundred": 100} {
			b.Run(string(groups)+"/"+name, func(b *testing.B) { carry(b, groups, size) })
		}
	}
}

func carry(b *testing.B, groups Groups, size int) {
	k := open(b, "kafka://"+testenv.KafkaAddress(b)+"?group="+string(groups), time.Minute)
	topic := "errand.bench." + string(groups)
	s, err := k.Subscribe(b.Context(), topic)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	batch := make([][]byte, size)
	for i := range batch {
		batch[i] = make([]byte, 200)
	}
	round(b, k, s, topic, batch) // the consumer has joined
	for b.Loop() {
		round(b, k, s, topic, batch)
	}
	b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "messages/s")
}

func round(b *testing.B, k *Broker, s broker.Subscription, topic string, batch [][]byte) {
	if err := k.Publish(b.Context(), topic, batch); err != nil {
		b.Fatal(err)
	}
	for left := len(batch); left > 0; {
		msgs, err := s.Receive(b.Context(), left, time.Second)
		if err == nil {
			err = s.Ack(b.Context(), msgs)
		}
		if err != nil {
			b.Fatal(err)
		}
		left -= len(msgs)
	}
}
