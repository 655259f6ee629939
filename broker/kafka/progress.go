package kafka

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// progress follows one partition while it is ours: a consumer group stores one offset, up to
// which all is done.
type progress struct {
	marks  []*mark         // delivered, from the first one on that is not done
	done   kgo.EpochOffset // all before it is done
	stored int64           // what the group has of it
}

// mark is a message that was delivered.
type mark struct {
	partition int32
	offset    int64
	epoch     int32
	at        time.Time
	acked     bool
}

// tag acknowledges a message of a consumer group. A partition that was lost and came
// back is another progress.
type tag struct {
	of *progress
	*mark
}

func (p *progress) deliver(r *kgo.Record, now time.Time) *mark {
	m := &mark{partition: r.Partition, offset: r.Offset, epoch: r.LeaderEpoch, at: now}
	p.marks = append(p.marks, m)
	return m
}

// advance moves over what is acknowledged, and over gaps delivered more than ttl ago: what was
// not acknowledged for so long was published again, or nobody wants it. It reports whether
// there is something to store.
func (p *progress) advance(now time.Time, ttl time.Duration) bool {
	for len(p.marks) > 0 {
		m := p.marks[0]
		if !m.acked && (ttl <= 0 || now.Sub(m.at) <= ttl) {
			break
		}
		p.done = kgo.EpochOffset{Epoch: m.epoch, Offset: m.offset + 1}
		p.marks = p.marks[1:]
	}
	return p.done.Offset > p.stored
}
