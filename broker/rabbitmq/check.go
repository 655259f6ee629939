package rabbitmq

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/job"
)

// checkPatience bounds the message that Check sends: an alarm holds it back.
const checkPatience = 3 * time.Second

// Check implements broker.Broker. It makes a queue of its own, whose name begins with
// errand.check., sends a message through it and deletes it.
func (b *Broker) Check(ctx context.Context) ([]broker.Finding, error) {
	ctx, end, err := b.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	c, err := b.in.get(ctx)
	if err != nil {
		return nil, b.wrap("check", err)
	}
	found := []broker.Finding{checkVersion(c.Properties), b.checkTransport()}
	probes, err := b.probe(ctx)
	if err != nil {
		return nil, b.wrap("check", err)
	}
	return append(found, probes...), nil
}

func checkVersion(properties amqp.Table) broker.Finding {
	product, _ := properties["product"].(string)
	version, _ := properties["version"].(string)
	f := broker.Finding{Name: "version", OK: true, Detail: fmt.Sprintf("%.40q %.40q", product, version)}
	major, minor, ok := parseVersion(version)
	switch {
	case product != "RabbitMQ" || !ok:
		f.OK, f.Detail = false, f.Detail+": not known as a RabbitMQ; Errand needs quorum queues, with a time-to-live, of RabbitMQ 3.10 or later"
	case major < 3 || major == 3 && minor < 10:
		f.OK, f.Detail = false, f.Detail+": upgrade to 3.10 or later, whose quorum queues know of a time-to-live"
	}
	return f
}

// parseVersion reads "3.10.8", and "4.1.0-beta.4" as well.
func parseVersion(s string) (major, minor int, ok bool) {
	first, rest, found := strings.Cut(s, ".")
	second, _, _ := strings.Cut(rest, ".")
	second, _, _ = strings.Cut(second, "-")
	major, err1 := strconv.Atoi(first)
	minor, err2 := strconv.Atoi(second)
	return major, minor, found && err1 == nil && err2 == nil && major >= 0 && minor >= 0
}

func (b *Broker) checkTransport() broker.Finding {
	if b.address.tls {
		return broker.Finding{Name: "transport", OK: true, Detail: "TLS"}
	}
	for _, h := range b.address.hosts {
		host, _, _ := net.SplitHostPort(h)
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return broker.Finding{Name: "transport", Detail: "the password and all messages go to " + h + " in the clear: use amqps://"}
		}
	}
	return broker.Finding{Name: "transport", OK: true, Detail: "in the clear, to this machine only"}
}

// probe sends a message through a queue. It stops at the first step that is refused.
func (b *Broker) probe(ctx context.Context) ([]broker.Finding, error) {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	queue := "errand.check." + hex.EncodeToString(random[:])
	defer b.remove(queue)
	var found []broker.Finding
	for _, step := range []struct {
		name, detail string
		do           func() error
	}{
		{"configure permission and quorum queues", "a queue was made", func() error { return b.declareProbe(ctx, queue) }},
		{"write permission and alarms", "a message was taken and confirmed", func() error { return b.sendProbe(ctx, queue) }},
		{"read permission", "a message was delivered", func() error { return b.getProbe(ctx, queue) }},
	} {
		err := wrap(step.name, step.do())
		switch {
		case err == nil:
			found = append(found, broker.Finding{Name: step.name, OK: true, Detail: step.detail})
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case job.CodeOf(err) == job.Unavailable && !errors.Is(err, errProbe):
			return nil, err
		default:
			return append(found, broker.Finding{Name: step.name, Detail: err.Error()}), nil
		}
	}
	return found, nil
}

// errProbe marks what is a finding though it may pass by itself.
var errProbe = errors.New("the message that was sent to try it did not arrive")

func (b *Broker) declareProbe(ctx context.Context, queue string) error {
	return b.briefly(ctx, func(ch *amqp.Channel) error {
		args := queueArguments()
		args["x-expires"] = int64(time.Minute / time.Millisecond) // should we die before it is deleted
		_, err := ch.QueueDeclare(queue, true, false, false, false, args)
		return err
	})
}

func (b *Broker) sendProbe(ctx context.Context, queue string) error {
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	back, err := b.send(ctx, queue, [][]byte{[]byte("errand doctor")})
	switch {
	case ctx.Err() != nil && err != nil:
		return job.Errorf(job.Unavailable, job.ReasonBrokerDown, "%w: %v", errProbe, err)
	case err == nil && len(back) > 0:
		return errProbe
	}
	return err
}

func (b *Broker) getProbe(ctx context.Context, queue string) error {
	return b.briefly(ctx, func(ch *amqp.Channel) error {
		_, there, err := ch.Get(queue, true)
		if err == nil && !there {
			return job.Errorf(job.Unavailable, job.ReasonBrokerDown, "%w", errProbe)
		}
		return err
	})
}

func (b *Broker) remove(queue string) {
	ctx, cancel := context.WithTimeout(b.ctx, checkPatience)
	defer cancel()
	_ = b.briefly(ctx, func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(queue, false, false, false)
		return err
	}) // if it stays, it expires
}
