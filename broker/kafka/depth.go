package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/errandhq/errand/broker"
)

// Depth implements broker.Broker: it is the lag of the topic's group, as the cluster
// reports it. A share group's lag counts what was delivered and not acknowledged, and falls
// behind by a moment, for the cluster stores acknowledgements in the background.
func (b *Broker) Depth(ctx context.Context, topic string) (int64, error) {
	if err := broker.CheckTopic(topic); err != nil {
		return 0, err
	}
	groups, err := b.kind(ctx)
	if err != nil {
		return 0, err
	}
	starts, err := b.adm.ListStartOffsets(ctx, topic)
	if err == nil {
		err = starts.Error()
	}
	if gone(err) {
		return 0, nil
	}
	ends, err2 := b.adm.ListEndOffsets(ctx, topic)
	if err = errors.Join(err, err2); err == nil {
		err = ends.Error()
	}
	if err != nil {
		return 0, wrap(ctx, "ask for the depth of "+topic, err)
	}
	lag := b.classicLag
	if groups == Share {
		lag = b.shareLag
	}
	lags, err := lag(ctx, topic)
	if err != nil {
		return 0, wrap(ctx, "ask for the depth of "+topic, err)
	}
	var sum int64
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(topic, end.Partition)
		sum += lags.left(end.Partition, start.Offset, end.Offset)
	})
	return sum, nil
}

// lags tells, for a partition, how many messages are left or from which offset on. What
// it does not know was never consumed.
type lags map[int32]struct{ count, from int64 }

// left returns how many messages of start to end are not acknowledged.
func (l lags) left(partition int32, start, end int64) int64 {
	known, ok := l[partition]
	if ok && known.count >= 0 {
		return known.count
	}
	if ok {
		start = max(start, known.from)
	}
	return max(end-start, 0)
}

func (b *Broker) shareLag(ctx context.Context, topic string) (lags, error) {
	described, err := b.adm.DescribeShareGroupOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	group := described[topic]
	if group.Err != nil && !errors.Is(group.Err, kerr.GroupIDNotFound) {
		return nil, group.Err
	}
	out := lags{}
	for partition, o := range group.Offsets[topic] {
		if o.Err == nil && o.StartOffset >= 0 {
			out[partition] = struct{ count, from int64 }{o.Lag, o.StartOffset}
		}
	}
	return out, nil
}

func (b *Broker) classicLag(ctx context.Context, topic string) (lags, error) {
	committed, err := b.adm.FetchOffsets(ctx, topic+classicSuffix)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := lags{}
	for partition, o := range committed[topic] {
		if o.Err == nil && o.At >= 0 {
			out[partition] = struct{ count, from int64 }{-1, o.At}
		}
	}
	return out, nil
}
