package rabbitmq

import (
	"context"
	"crypto/tls"
	"errors"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/errandhq/errand/job"
)

// wrap turns an error of the client library, or of the network, into the caller's. What
// the library says without RabbitMQ's word is a guess: it takes a connection that
// breaks during the handshake for a wrong password.
func wrap(op string, err error) error {
	var own *job.Error
	var refused *amqp.Error
	var untrusted *tls.CertificateVerificationError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return job.Errorf(job.Unavailable, job.ReasonBrokerDown, "%s: RabbitMQ did not answer in time: %w", op, err)
	case errors.As(err, &untrusted):
		return job.Errorf(job.FailedPrecondition, job.ReasonBrokerRefused, "%s: RabbitMQ's certificate is not trusted (see cacertfile): %w", op, err)
	case errors.As(err, &refused) && (refused.Server || errors.Is(err, amqp.ErrSASL)):
		return wrapRefusal(op, refused)
	}
	return job.Errorf(job.Unavailable, job.ReasonBrokerDown, "%s: RabbitMQ is not available: %w", op, err)
}

// wrapRefusal tells what an operator must mend from what passes by itself. A
// queue that is not there, for one, is away: it expires, and it is not found while the nodes
// that hold it are down.
func wrapRefusal(op string, err *amqp.Error) error {
	switch err.Code {
	case amqp.AccessRefused:
		return job.Errorf(job.PermissionDenied, job.ReasonPermissionDenied, "%s: RabbitMQ refuses it; grant the user what docs/rabbitmq.md names: %w", op, err)
	case amqp.NotAllowed, amqp.InvalidPath:
		return job.Errorf(job.FailedPrecondition, job.ReasonBrokerRefused, "%s: RabbitMQ refuses it; is the virtual host there, and are its limits wide enough: %w", op, err)
	case amqp.PreconditionFailed, amqp.ResourceLocked, amqp.CommandInvalid, amqp.NotImplemented, amqp.SyntaxError:
		return job.Errorf(job.FailedPrecondition, job.ReasonBrokerRefused, "%s: RabbitMQ refuses it: %w", op, err)
	}
	return job.Errorf(job.Unavailable, job.ReasonBrokerDown, "%s: RabbitMQ is not available: %w", op, err)
}

// hasCode reports whether err is RabbitMQ's own, of that code.
func hasCode(err error, code int) bool {
	var e *amqp.Error
	return errors.As(err, &e) && e.Code == code
}
