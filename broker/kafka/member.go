package kafka

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// member is our membership in a share group. Its heartbeats bring the partitions
// that we may fetch from.
type member struct {
	cl           *kgo.Client
	topic, group string
	id           string
	changed      chan struct{} // holds one word that assigned or err has changed

	// Only run and leave use these, one after the other.
	epoch int32 // 0 joins
	sleep time.Duration
	since time.Time // when the coordinator first said that it is not ready yet; zero: it has not

	mu       sync.Mutex
	assigned assignment
	err      error // what the last heartbeat was refused for
}

// assignment is what the group's coordinator gave us.
type assignment struct {
	topicID    [16]byte
	partitions []int32
}

func newMember(cl *kgo.Client, topic, group string) *member {
	return &member{cl: cl, topic: topic, group: group, id: uuid.NewString(), changed: make(chan struct{}, 1)}
}

// state returns what the last heartbeats said.
func (m *member) state() (assignment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.assigned, m.err
}

// run keeps the membership until ctx ends. A member without a partition asks more
// often: the coordinator answers the first heartbeat before it has made up its mind.
func (m *member) run(ctx context.Context) {
	failures, eager := 0, leastPause
	for {
		err := m.beat(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := m.sleep
		switch {
		case err != nil:
			failures++
			pause = pauseAfter(failures)
		case len(m.assigned.partitions) == 0:
			pause = min(eager, m.sleep)
			eager = min(2*eager, time.Second)
		default:
			failures, eager = 0, leastPause
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

func (m *member) beat(ctx context.Context) error {
	req := kmsg.NewPtrShareGroupHeartbeatRequest()
	req.GroupID, req.MemberID, req.MemberEpoch = m.group, m.id, m.epoch
	if m.epoch == 0 {
		req.SubscribedTopicNames = []string{m.topic}
	}
	resp, err := req.RequestWith(ctx, m.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	trouble := err
	if m.starting(err, time.Now()) {
		trouble = nil
	}
	if (trouble == nil) != (m.err == nil) {
		m.tell()
	}
	m.err = trouble
	if err != nil {
		if errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.FencedMemberEpoch) || errors.Is(err, kerr.GroupIDNotFound) {
			m.epoch, m.assigned = 0, assignment{}
			m.tell()
		}
		return err
	}
	m.epoch = resp.MemberEpoch
	m.sleep = max(time.Duration(resp.HeartbeatIntervalMillis)*time.Millisecond, leastPause)
	if resp.Assignment == nil {
		return nil // as it was
	}
	m.assigned = assignment{}
	for _, t := range resp.Assignment.TopicPartitions {
		m.assigned = assignment{t.TopicID, t.Partitions} // there is one: we subscribed to one
	}
	m.tell()
	return nil
}

// starting reports whether err only says that the group's coordinator is not ready yet, as
// it is for a moment in a new cluster and after a coordinator has moved. That is no trouble
// unless it lasts.
func (m *member) starting(err error, now time.Time) bool {
	if !errors.Is(err, kerr.CoordinatorLoadInProgress) && !errors.Is(err, kerr.CoordinatorNotAvailable) &&
		!errors.Is(err, kerr.NotCoordinator) {
		m.since = time.Time{}
		return false
	}
	if m.since.IsZero() {
		m.since = now
	}
	return now.Sub(m.since) < loadPatience
}

func (m *member) tell() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// leave ends the membership after run has ended, so that others need not wait until we
// are missed.
func (m *member) leave(ctx context.Context) error {
	if m.epoch == 0 {
		return nil
	}
	req := kmsg.NewPtrShareGroupHeartbeatRequest()
	req.GroupID, req.MemberID, req.MemberEpoch = m.group, m.id, -1
	_, err := req.RequestWith(ctx, m.cl)
	return err
}
