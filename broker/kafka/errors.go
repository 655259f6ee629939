package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

// refusals are the answers that trying again does not mend, and what to do.
var refusals = []struct {
	err  error
	code job.Code
	todo string
}{
	{kerr.TopicAuthorizationFailed, job.PermissionDenied, "allow the user CREATE, DESCRIBE, READ and WRITE on topics that begin with errand."},
	{kerr.GroupAuthorizationFailed, job.PermissionDenied, "allow the user READ and DESCRIBE on groups that begin with errand. (and ALTER_CONFIGS for share groups)"},
	{kerr.ClusterAuthorizationFailed, job.PermissionDenied, "allow the user CREATE on topics that begin with errand., or IDEMPOTENT_WRITE on clusters before 3.0"},
	{kerr.SaslAuthenticationFailed, job.PermissionDenied, "check user, password and the sasl= of the address"},
	{kerr.UnsupportedSaslMechanism, job.FailedPrecondition, "set the sasl= of the address to what the listener offers"},
	{kerr.IllegalSaslState, job.FailedPrecondition, "give user and password in the address: the listener asks for them"},
	{kerr.PolicyViolation, job.FailedPrecondition, "the cluster's policy refuses the topic: make it by hand, see docs/kafka.md"},
	{kerr.InvalidReplicationFactor, job.FailedPrecondition, "set the replication= of the address to at most the number of brokers"},
	{kerr.InvalidConfig, job.FailedPrecondition, "the cluster refuses a setting of the topic: make it by hand, see docs/kafka.md"},
	{kerr.InvalidTopicException, job.FailedPrecondition, "the cluster refuses the topic's name"},
	{kerr.InvalidPartitions, job.FailedPrecondition, "lower the partitions= of the address"},
	{kerr.UnsupportedVersion, job.FailedPrecondition, "the cluster is too old, or has the feature turned off: say group=classic in the address"},
	{kerr.GroupMaxSizeReached, job.FailedPrecondition, "raise group.share.max.size (or group.max.size): more servers consume than the cluster allows"},
	{kerr.InconsistentGroupProtocol, job.FailedPrecondition, "another program uses the group: Errand's groups are its own"},
	{kerr.MessageTooLarge, job.FailedPrecondition, "raise max.message.bytes of the topic"},
	{kerr.InvalidRecord, job.FailedPrecondition, "the topic refuses messages without a key: set its cleanup.policy to delete"},
}

// wrap turns an error of the client into the caller's. What is not known to be a
// refusal counts as a cluster that cannot be reached.
func wrap(ctx context.Context, op string, err error) error {
	var own *job.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own):
		return err
	case errors.Is(err, kgo.ErrClientClosed):
		return broker.ErrClosed
	}
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			return job.Errorf(r.code, reasonOf(r.code), "kafka: %s: %w: %s", op, err, r.todo)
		}
	}
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		return job.Errorf(job.FailedPrecondition, job.ReasonBrokerDown,
			"kafka: %s: %w: name the file of the cluster's authority with ca=FILE in the address", op, err)
	}
	if ctx.Err() != nil {
		return job.Errorf(job.Unavailable, job.ReasonBrokerDown, "kafka: %s: no broker answered in time: %w", op, err)
	}
	return job.Errorf(job.Unavailable, job.ReasonBrokerDown, "kafka: %s: %w", op, err)
}

func reasonOf(c job.Code) job.Reason {
	if c == job.PermissionDenied {
		return job.ReasonPermissionDenied
	}
	return job.ReasonBrokerDown
}

// gone reports whether err says that a topic, or the one we knew by its name, is not there.
func gone(err error) bool {
	return errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) ||
		errors.Is(err, kerr.InconsistentTopicID)
}

// pauseAfter returns the time to wait after so many failures in a row: it doubles up to
// mostPause, with jitter, so that servers do not come back all at once.
func pauseAfter(failures int) time.Duration {
	d := leastPause << min(max(failures-1, 0), 10)
	d = min(d, mostPause)
	return d/2 + rand.N(d/2+1)
}
