package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/errandhq/errand/broker"
)

const (
	ourPrefix = "errand." // of the topics and groups that Errand makes
	probe     = ourPrefix + "check"
)

// report gathers findings.
type report []broker.Finding

func (r *report) add(name string, ok bool, format string, args ...any) {
	*r = append(*r, broker.Finding{Name: name, OK: ok, Detail: fmt.Sprintf(format, args...)})
}

// Check implements broker.Broker. What needs a permission is tried without effect.
func (b *Broker) Check(ctx context.Context) ([]broker.Finding, error) {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return nil, broker.ErrClosed
	}
	versions, err := b.versions(ctx)
	if err != nil {
		return nil, wrap(ctx, "look at the cluster", err)
	}
	var r report
	groups := b.checkVersions(versions, &r)
	r.allowed("make topics", b.tryTopic(ctx, groups, len(versions)))
	r.allowed("consume by groups", b.tryGroup(ctx, groups))
	if err := b.checkTopics(ctx, groups, &r); err != nil {
		return nil, wrap(ctx, "look at the topics", err)
	}
	return r, nil
}

// checkVersions looks at what the brokers speak, and returns the kind of group that is used.
func (b *Broker) checkVersions(versions []kadm.BrokerApiVersions, r *report) Groups {
	able := true
	var seen []string
	for _, v := range versions {
		able = able && hasShareGroups(v)
		seen = append(seen, v.VersionGuess())
	}
	groups := b.choose(able)
	r.add("version", true, "brokers: %d, which speak the protocol of Kafka %s", len(seen), strings.Join(slices.Compact(seen), ", "))
	switch {
	case groups == Share && able:
		r.add("groups", true, "share groups are used: each message goes to whoever asks next")
	case groups == Share:
		r.add("groups", false, noShareGroups)
	case able:
		r.add("groups", true, "consumer groups are used, as the address says, though the cluster has share groups, which hold no message up behind a busy server")
	default:
		r.add("groups", true, "consumer groups are used: share groups need Kafka 4.2 and share.version 1 on every broker")
	}
	return groups
}

func (r *report) allowed(what string, err error) {
	if err == nil {
		r.add("may "+what, true, "it was tried without effect")
		return
	}
	r.add("may "+what, false, "%v", wrap(context.Background(), what, err))
}

func (b *Broker) tryTopic(ctx context.Context, groups Groups, brokers int) error {
	partitions, replicas := b.sizes(groups, brokers)
	made, err := b.adm.ValidateCreateTopics(ctx, int32(partitions), int16(replicas), b.topicSettings(replicas), probe)
	if err == nil {
		err = made[probe].Err
	}
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return nil
	}
	return err
}

func (b *Broker) tryGroup(ctx context.Context, groups Groups) error {
	if groups == Classic {
		_, err := b.classicLag(ctx, probe)
		return err
	}
	if err := b.prepareGroup(ctx, probe, true); err != nil {
		return err
	}
	_, err := b.shareLag(ctx, probe)
	return err
}

// checkTopics looks at the topics that are there.
func (b *Broker) checkTopics(ctx context.Context, groups Groups, r *report) error {
	all, err := b.adm.ListTopics(ctx)
	if err != nil {
		return err
	}
	ours := slices.DeleteFunc(all.Names(), func(name string) bool { return !strings.HasPrefix(name, ourPrefix) })
	if len(ours) == 0 {
		r.add("topics", true, "none is there yet; they are made when they are needed")
		return nil
	}
	settings, err := b.adm.DescribeTopicConfigs(ctx, ours...)
	if err != nil {
		return err
	}
	suffer := map[string][]string{}
	for _, s := range settings {
		if s.Err != nil {
			flaw := wrap(ctx, "read its settings", s.Err).Error()
			suffer[flaw] = append(suffer[flaw], s.Name)
			continue
		}
		for _, flaw := range b.flaws(groups, all[s.Name], s) {
			suffer[flaw] = append(suffer[flaw], s.Name)
		}
	}
	for _, flaw := range slices.Sorted(maps.Keys(suffer)) {
		r.add("topics", false, "%d of %d, %s among them: %s", len(suffer[flaw]), len(ours), suffer[flaw][0], flaw)
	}
	if len(suffer) == 0 {
		r.add("topics", true, "%d are there, all set as they should be", len(ours))
	}
	return nil
}

// flaws says what endangers jobs, or costs speed, of a topic.
func (b *Broker) flaws(groups Groups, topic kadm.TopicDetail, s kadm.ResourceConfig) (out []string) {
	value := map[string]string{}
	for _, c := range s.Configs {
		value[c.Key] = c.MaybeValue()
	}
	number := func(name string) int {
		n, _ := strconv.Atoi(value[name]) // the cluster knows numbers only
		return n
	}
	say := func(bad bool, format string, args ...any) {
		if bad {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	replicas := topic.Partitions.NumReplicas()
	least, keep := number("min.insync.replicas"), time.Duration(number("retention.ms"))*time.Millisecond
	say(groups == Share && len(topic.Partitions) > 1, "it has %d partitions: a share group gives each to some of the servers only, so messages wait behind a busy one; delete it, to be made anew with one", len(topic.Partitions))
	say(value["cleanup.policy"] != "delete", "cleanup.policy is %s: set delete, for messages have no keys", value["cleanup.policy"])
	say(value["message.timestamp.type"] != "LogAppendTime", "message.timestamp.type is %s: set LogAppendTime, or messages age by the clock of who sent them", value["message.timestamp.type"])
	say(keep >= 0 && keep < b.opts.TTL, "retention.ms is shorter than the %s that messages live: set at least %d", b.opts.TTL, (10 * b.opts.TTL).Milliseconds())
	say(number("max.message.bytes") < broker.MaxBody*11/10, "max.message.bytes is %s: set at least %d", value["max.message.bytes"], broker.MaxBody*11/10)
	say(least > replicas || least == replicas && replicas > 1, "min.insync.replicas is %d of %d: nothing can be published while one broker is away; set %d", least, replicas, max(replicas-1, 1))
	say(value["unclean.leader.election.enable"] == "true", "unclean.leader.election.enable is true: confirmed messages may get lost, and their jobs wait until they are published again")
	for _, p := range topic.Partitions.Sorted() {
		say(p.Err != nil || p.Leader < 0, "partition %d has no leader: messages wait, and queues lease directly", p.Partition)
	}
	return out
}
