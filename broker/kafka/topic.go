package kafka

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/errandhq/errand/broker"
)

// classicSuffix keeps the consumer group of a topic apart from its share group: a
// cluster refuses a group that is there as another type, as after a change of mind.
const classicSuffix = ".classic"

// ensure makes a topic if it is not there. It looks once, and again when the topic is
// found to be gone.
func (b *Broker) ensure(ctx context.Context, topic string) error {
	b.mu.Lock()
	known, closed := b.topics[topic], b.closed
	b.mu.Unlock()
	switch {
	case closed:
		return broker.ErrClosed
	case known:
		return nil
	}
	if err := b.create(ctx, topic); err != nil {
		return wrap(ctx, "make topic "+topic, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.topics[topic] = true
	return nil
}

// create makes the topic unless it is there. It asks first, so that a user who may not make
// topics can use those that an operator has made. A new topic is not known to every
// broker at once: create waits until it can be used.
func (b *Broker) create(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, retryTimeout)
	defer cancel()
	brokers, err := b.look(ctx, topic)
	if !gone(err) {
		return err
	}
	groups, err := b.kind(ctx)
	if err != nil {
		return err
	}
	partitions, replicas := b.sizes(groups, brokers)
	_, err = b.adm.CreateTopic(ctx, int32(partitions), int16(replicas), b.topicSettings(replicas), topic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) { // another server may be quicker
		return err
	}
	for tries := 1; ; tries++ {
		if _, err = b.look(ctx, topic); !gone(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pauseAfter(tries)):
		}
	}
}

// look returns the number of brokers, and an error unless the topic can be used.
func (b *Broker) look(ctx context.Context, topic string) (brokers int, err error) {
	meta, err := b.adm.Metadata(ctx, topic)
	if err != nil {
		return 0, err
	}
	return len(meta.Brokers), meta.Topics[topic].Err
}

// forget has ensure look again.
func (b *Broker) forget(topic string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.topics, topic)
}

func (b *Broker) sizes(groups Groups, brokers int) (partitions, replicas int) {
	partitions, replicas = b.at.partitions, b.at.replication
	if partitions == 0 && groups == Share {
		partitions = sharePartitions
	} else if partitions == 0 {
		partitions = classicPartitions
	}
	if replicas == 0 {
		replicas = max(min(mostReplicas, brokers), 1)
	}
	return partitions, replicas
}

// topicSettings are those of topics that we make.
func (b *Broker) topicSettings(replicas int) map[string]*string {
	retention := strconv.FormatInt(max(10*b.opts.TTL, leastRetention).Milliseconds(), 10)
	return map[string]*string{
		"cleanup.policy":         kadm.StringPtr("delete"),
		"message.timestamp.type": kadm.StringPtr("LogAppendTime"), // by which messages grow too old
		"min.insync.replicas":    kadm.StringPtr(strconv.Itoa(max(replicas-1, 1))),
		"retention.ms":           kadm.StringPtr(retention),
		"segment.ms":             kadm.StringPtr(retention), // only whole segments are deleted
		"segment.bytes":          kadm.StringPtr(strconv.Itoa(segmentBytes)),
	}
}

// prepareGroup has a share group begin with the oldest message, not with what comes after
// its first consumer. It must be set before that one asks. try only asks whether it may be.
func (b *Broker) prepareGroup(ctx context.Context, group string, try bool) error {
	setting := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	setting.Name, setting.Value = "share.auto.offset.reset", kadm.StringPtr("earliest")
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
	resource.Configs = append(resource.Configs, setting)
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Resources, req.ValidateOnly = append(req.Resources, resource), try
	resp, err := req.RequestWith(ctx, b.cl)
	if err != nil {
		return err
	}
	for _, r := range resp.Resources {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			return err
		}
	}
	return nil
}
