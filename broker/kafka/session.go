package kafka

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The types of acknowledgement on the wire.
const (
	ackGap     int8 = 0 // there is no message at the offset
	ackAccept  int8 = 1
	ackRelease int8 = 2
)

// session is our share session with one broker: it knows which partitions we
// fetch there, and holds for us what it has sent until we acknowledge it, our connection ends, or
// its lock on the message runs out. One request of a session is under way at a
// time. Its fields belong to the goroutine that has the subscription's turn.
type session struct {
	node  int32
	epoch int32 // of the next request; 0 opens the session anew
	// life counts the openings: what an earlier one held is not ours any more.
	life int
	// known are the partitions that the broker has in the session.
	known map[int32]bool
	// asked is how many messages the fetch under way asked for; 0: none is.
	asked    int
	failures int
	retryAt  time.Time
}

// delivery names a message that a broker holds for us.
type delivery struct {
	from      *session
	life      int
	partition int32
	offset    int64
}

// fetched is the answer to a fetch.
type fetched struct {
	from *session
	resp *kmsg.ShareFetchResponse
	err  error
}

// reset forgets a session that the broker does not have, or may not have.
func (s *session) reset() {
	s.epoch, s.known = 0, map[int32]bool{}
	s.life++
}

// advance follows the broker's count of requests.
func (s *session) advance() {
	if s.epoch++; s.epoch < 0 {
		s.epoch = 1
	}
}

// fail has the session rest for a growing while.
func (s *session) fail(now time.Time) {
	s.failures++
	s.retryAt = now.Add(pauseAfter(s.failures))
}

// fetchRequest asks the session's broker for at most so many messages of
// the partitions, and drops from the session those that are not among them.
func (c *share) fetchRequest(s *session, a assignment, partitions []int32, most int, wait time.Duration) *kmsg.ShareFetchRequest {
	req := kmsg.NewPtrShareFetchRequest()
	req.GroupID, req.MemberID, req.ShareSessionEpoch = &c.member.group, &c.member.id, s.epoch
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = int32(wait.Milliseconds()), 1, fetchBytes
	req.MaxRecords, req.BatchSize = int32(most), int32(most)
	req.ShareAcquireMode = 1 // the count is exact, and splits batches
	topic := kmsg.NewShareFetchRequestTopic()
	topic.TopicID = a.topicID
	for _, p := range partitions {
		one := kmsg.NewShareFetchRequestTopicPartition()
		one.Partition, one.PartitionMaxBytes = p, fetchBytes
		topic.Partitions = append(topic.Partitions, one)
	}
	req.Topics = append(req.Topics, topic)
	gone := kmsg.NewShareFetchRequestForgottenTopicsData()
	gone.TopicID = a.topicID
	for p := range s.known {
		if !slices.Contains(partitions, p) {
			gone.Partitions = append(gone.Partitions, p)
		}
	}
	if len(gone.Partitions) > 0 {
		req.ForgottenTopicsData = append(req.ForgottenTopicsData, gone)
	}
	s.known = make(map[int32]bool, len(partitions))
	for _, p := range partitions {
		s.known[p] = true
	}
	return req
}

// acquired is one message, or the lack of one, that a broker holds for us.
type acquired struct {
	delivery
	record *kgo.Record // nil: there is no message at the offset
}

// readPartition returns what a fetch acquired of one partition.
func (c *share) readPartition(s *session, p *kmsg.ShareFetchResponseTopicPartition) ([]acquired, error) {
	raw := kmsg.NewFetchResponseTopicPartition()
	raw.Partition, raw.RecordBatches = p.Partition, p.Records
	read, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Topic: c.topic, Partition: p.Partition}, &raw, c.decompress, nil)
	records := make(map[int64]*kgo.Record, len(read.Records))
	for _, r := range read.Records {
		records[r.Offset] = r
	}
	var out []acquired
	for _, span := range p.AcquiredRecords {
		for offset := span.FirstOffset; offset <= span.LastOffset; offset++ {
			r := records[offset]
			if r == nil && read.Err != nil {
				continue // unreadable now; the broker sends it again when its lock runs out
			}
			out = append(out, acquired{delivery{s, s.life, p.Partition, offset}, r})
		}
	}
	return out, read.Err
}

// settle is what is said of a message to the broker that holds it.
type settle struct {
	delivery
	as int8
}

// acknowledge tells one broker what became of messages, all of its session's present
// life. The answer counts partition by partition; the first refusal is returned.
func (c *share) acknowledge(ctx context.Context, s *session, list []settle) error {
	req := kmsg.NewPtrShareAcknowledgeRequest()
	req.GroupID, req.MemberID, req.ShareSessionEpoch = &c.member.group, &c.member.id, s.epoch
	topic := kmsg.NewShareAcknowledgeRequestTopic()
	topic.TopicID = c.topicID
	topic.Partitions = spans(list)
	req.Topics = append(req.Topics, topic)
	kresp, err := c.cl.Broker(int(s.node)).Request(ctx, req)
	if err != nil {
		s.reset()
		return err
	}
	resp := kresp.(*kmsg.ShareAcknowledgeResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		s.reset()
		return err
	}
	s.advance()
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("partition %d: %w", p.Partition, err)
			}
		}
	}
	return nil
}

// spans writes settles as the wire wants them: by partition, in the order of offsets,
// neighbours of one fate joined. An offset named twice counts once.
func spans(list []settle) []kmsg.ShareAcknowledgeRequestTopicPartition {
	slices.SortFunc(list, func(a, b settle) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.offset, b.offset))
	})
	var out []kmsg.ShareAcknowledgeRequestTopicPartition
	for i, d := range list {
		if i == 0 || list[i-1].partition != d.partition {
			p := kmsg.NewShareAcknowledgeRequestTopicPartition()
			p.Partition = d.partition
			out = append(out, p)
		} else if list[i-1].offset == d.offset {
			continue
		}
		batches := &out[len(out)-1].AcknowledgementBatches
		if n := len(*batches); n > 0 && (*batches)[n-1].LastOffset+1 == d.offset && (*batches)[n-1].AcknowledgeTypes[0] == d.as {
			(*batches)[n-1].LastOffset = d.offset
			continue
		}
		b := kmsg.NewShareAcknowledgeRequestTopicPartitionAcknowledgementBatch()
		b.FirstOffset, b.LastOffset, b.AcknowledgeTypes = d.offset, d.offset, []int8{d.as}
		*batches = append(*batches, b)
	}
	return out
}
