package rabbitmq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/errandhq/errand/broker"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
)

const patience = time.Minute

// TestNode has what needs a node whose operator we are.
func TestNode(t *testing.T) {
	t.Parallel()
	certs := testenv.NewCertificates(t)
	secure := testenv.FreePort(t)
	node := testenv.StartRabbitMQ(t, testenv.RabbitMQOptions{Config: []string{
		fmt.Sprintf("listeners.ssl.1 = 127.0.0.1:%d", secure),
		"ssl_options.cacertfile = " + certs.CA, "ssl_options.certfile = " + certs.Cert, "ssl_options.keyfile = " + certs.Key,
	}})
	for name, test := range map[string]func(t *testing.T, node *testenv.RabbitMQ){
		"Alarm":             alarm,
		"AlarmUnderWay":     alarmUnderWay,
		"Permissions":       permissions,
		"WrongPassword":     wrongPassword,
		"NoVirtualHost":     noVirtualHost,
		"QueueAsDocumented": queueAsDocumented,
		"Renewal":           renewal, // it kills the node, which forgets its alarms
		"TLS": func(t *testing.T, node *testenv.RabbitMQ) {
			encrypted(t, secure, node.Password(), certs)
		},
	} {
		t.Run(name, func(t *testing.T) { test(t, node) })
	}
}

func publish(ctx context.Context, b *Broker, topic string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return b.Publish(ctx, topic, [][]byte{[]byte("x")})
}

func subscribe(t *testing.T, b *Broker, topic string) broker.Subscription {
	t.Helper()
	s, err := b.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wantMessage receives one message and acknowledges it.
func wantMessage(t *testing.T, s broker.Subscription) {
	t.Helper()
	msgs, err := s.Receive(t.Context(), 1, patience)
	if err != nil || len(msgs) != 1 {
		t.Fatalf("%d messages, %v", len(msgs), err)
	}
	if err := s.Ack(t.Context(), msgs); err != nil {
		t.Error(err)
	}
}

func wantError(t *testing.T, what string, err error, code job.Code, words ...string) {
	t.Helper()
	if job.CodeOf(err) != code {
		t.Errorf("%s: %v of code %d, want %d", what, err, job.CodeOf(err), code)
	}
	for _, w := range words {
		if !strings.Contains(fmt.Sprint(err), w) {
			t.Errorf("%s: %v says nothing of %q", what, err, w)
		}
	}
}

// finding returns what Check says of something.
func finding(t *testing.T, b *Broker, name string) broker.Finding {
	t.Helper()
	found, err := b.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if strings.Contains(f.Name, name) {
			return f
		}
	}
	t.Fatalf("nothing is said of %q: %+v", name, found)
	return broker.Finding{}
}

// alarm fills the node's memory, as far as it believes: RabbitMQ does not read from
// connections that publish. Publish says so when its context ends; consumers go on.
func alarm(t *testing.T, node *testenv.RabbitMQ) {
	b := open(t, node.URL(), time.Minute)
	if err := publish(t.Context(), b, "alarm", patience); err != nil {
		t.Fatal(err)
	}
	setAlarm(t, node, b)
	wantError(t, "Publish", publish(t.Context(), b, "alarm", time.Second), job.Unavailable, "alarm", "memory")
	s := subscribe(t, b, "alarm")
	wantMessage(t, s)
	if n, err := b.Depth(t.Context(), "alarm"); err != nil {
		t.Errorf("depth %d, %v", n, err)
	}
	if f := finding(t, b, "alarms"); f.OK || !strings.Contains(f.Detail, "memory") {
		t.Errorf("Check says %+v", f)
	}
	done := make(chan error, 1)
	go func() { done <- publish(t.Context(), b, "alarm", patience) }()
	node.Ctl("set_vm_memory_high_watermark", "0.4")
	if err := <-done; err != nil {
		t.Errorf("after the alarm: %v", err)
	}
	wantMessage(t, s)
	if f := finding(t, b, "alarms"); !f.OK {
		t.Errorf("after the alarm Check says %+v", f)
	}
}

// setAlarm sets the alarm and waits until b has run into it.
func setAlarm(t *testing.T, node *testenv.RabbitMQ, b *Broker) {
	t.Helper()
	node.Ctl("set_vm_memory_high_watermark", "0.0000001")
	for end := time.Now().Add(patience); ; {
		c, err := b.out.get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if alarm, _ := c.alarmed(); alarm != "" {
			return
		}
		if time.Now().After(end) {
			t.Fatal("no alarm is on")
		}
		_ = publish(t.Context(), b, "alarm.try", 300*time.Millisecond) // it, or the next, is held back
	}
}

// alarmUnderWay begins to publish much while an alarm is on of which the connection has not
// heard yet: the network's buffers fill up, and no write ends.
func alarmUnderWay(t *testing.T, node *testenv.RabbitMQ) {
	b := open(t, node.URL(), time.Minute)
	if err := publish(t.Context(), b, "alarm", patience); err != nil {
		t.Fatal(err)
	}
	node.Ctl("set_vm_memory_high_watermark", "0.0000001")
	defer node.Ctl("set_vm_memory_high_watermark", "0.4")
	bodies := make([][]byte, 200)
	for i := range bodies {
		bodies[i] = make([]byte, broker.MaxBody)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	wantError(t, "Publish", b.Publish(ctx, "alarm", bodies), job.Unavailable)
	begin := time.Now()
	if err := b.Close(); err != nil || time.Since(begin) > patience {
		t.Errorf("Close: %v after %s", err, time.Since(begin))
	}
}

// userURL makes a user with permissions (configure, write, read) and returns the address for them.
func userURL(t *testing.T, node *testenv.RabbitMQ, name string, permissions ...string) string {
	t.Helper()
	node.Ctl("add_user", name, "word-of-"+name)
	if len(permissions) > 0 {
		node.Ctl(append([]string{"set_permissions", name}, permissions...)...)
	}
	return "amqp://" + name + ":word-of-" + name + "@" + node.Address()
}

func permissions(t *testing.T, node *testenv.RabbitMQ) {
	b := open(t, userURL(t, node, "limited", "^errand\\.", "^(errand\\.|amq\\.default$)", "^errand\\."), time.Minute)
	if err := publish(t.Context(), b, "errand.mine", patience); err != nil {
		t.Errorf("what docs/rabbitmq.md names is too little: %v", err)
	}
	wantMessage(t, subscribe(t, b, "errand.mine"))
	for _, name := range []string{"configure", "write", "read"} {
		if f := finding(t, b, name+" permission"); !f.OK {
			t.Errorf("what docs/rabbitmq.md names is too little: %+v", f)
		}
	}
	wantError(t, "Publish", publish(t.Context(), b, "other", patience), job.PermissionDenied, "other", "limited")
	_, err := b.Subscribe(t.Context(), "other")
	wantError(t, "Subscribe", err, job.PermissionDenied)
	if err := publish(t.Context(), b, "errand.mine", patience); err != nil {
		t.Errorf("after a refusal: %v", err)
	}

	writer := open(t, userURL(t, node, "writer", ".*", ".*", "^$"), time.Minute)
	_, err = subscribe(t, writer, "errand.mine").Receive(t.Context(), 1, time.Second)
	wantError(t, "Receive", err, job.PermissionDenied)
	if f := finding(t, writer, "read"); f.OK {
		t.Errorf("Check says %+v", f)
	}
	reader := open(t, userURL(t, node, "reader", ".*", "^$", ".*"), time.Minute)
	wantError(t, "Publish", publish(t.Context(), reader, "errand.mine", patience), job.PermissionDenied)
	if f := finding(t, reader, "write"); f.OK {
		t.Errorf("Check says %+v", f)
	}
}

// wrongPassword looks for the password in everything that is said, too.
func wrongPassword(t *testing.T, node *testenv.RabbitMQ) {
	var log bytes.Buffer
	b, err := Open(t.Context(), "amqp://errand:not-the-word@"+node.Address(), Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	err = publish(t.Context(), b, "t", 10*time.Second)
	wantError(t, "Publish", err, job.PermissionDenied)
	_, check := b.Check(t.Context())
	wantError(t, "Check", check, job.PermissionDenied)
	_ = b.Close()
	if log.Len() == 0 {
		t.Error("nothing was logged")
	}
	if all := fmt.Sprint(err, check, b, log.String()); strings.Contains(all, "not-the-word") {
		t.Errorf("the password is shown: %s", all)
	}
}

func noVirtualHost(t *testing.T, node *testenv.RabbitMQ) {
	b := open(t, node.URL()+"nowhere", time.Minute)
	wantError(t, "Publish", publish(t.Context(), b, "t", 10*time.Second), job.FailedPrecondition, "nowhere")
}

// queueAsDocumented asks RabbitMQ what it has made.
func queueAsDocumented(t *testing.T, node *testenv.RabbitMQ) {
	b := open(t, node.URL(), time.Minute)
	if err := publish(t.Context(), b, "documented", patience); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(node.Ctl("list_queues", "name", "type", "durable", "arguments", "messages_persistent")) {
		if !strings.HasPrefix(line, "documented\t") {
			continue
		}
		for _, want := range []string{"quorum", "true", `{"x-expires",86400000}`, `{"x-delivery-limit",1000000}`} {
			if !strings.Contains(line, want) {
				t.Errorf("the queue is %s; %q is missing", line, want)
			}
		}
		return
	}
	t.Error("the queue is not there")
}

// renewal kills the node right after a queue was made: RabbitMQ forgets its members.
func renewal(t *testing.T, node *testenv.RabbitMQ) {
	b := open(t, node.URL(), time.Minute)
	b.silence = time.Second
	if err := publish(t.Context(), b, "young", patience); err != nil {
		t.Fatal(err)
	}
	node.Kill()
	node.Start()
	persist(t, b, "young") // which confirms nothing for a while
	wantMessage(t, subscribe(t, b, "young"))
}

func encrypted(t *testing.T, port int, password string, certs testenv.Certificates) {
	at := fmt.Sprintf("amqps://errand:%s@127.0.0.1:%d/", password, port)
	b := open(t, at+"?cacertfile="+url.QueryEscape(certs.CA), time.Minute)
	if err := publish(t.Context(), b, "tls", patience); err != nil {
		t.Fatal(err)
	}
	wantMessage(t, subscribe(t, b, "tls"))
	if f := finding(t, b, "transport"); !f.OK || f.Detail != "TLS" {
		t.Errorf("Check says %+v", f)
	}
	wantError(t, "an authority that nobody knows", publish(t.Context(), open(t, at, time.Minute), "tls", 10*time.Second), job.FailedPrecondition, "cacertfile")
	other := open(t, at+"?server_name_indication=elsewhere&cacertfile="+url.QueryEscape(certs.CA), time.Minute)
	wantError(t, "another name", publish(t.Context(), other, "tls", 10*time.Second), job.FailedPrecondition)
	plain := open(t, "amqp://errand:"+password+"@127.0.0.1:"+fmt.Sprint(port), time.Minute)
	wantError(t, "no TLS", publish(t.Context(), plain, "tls", 15*time.Second), job.Unavailable)
}

// A broker can be opened before its RabbitMQ is there, and finds it.
func TestOpenBeforeTheServer(t *testing.T) {
	u, err := url.Parse(testenv.RabbitMQAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	proxy := testenv.StartProxy(t, u.Host)
	proxy.Away()
	u.Host = proxy.Address()
	b := open(t, u.String(), time.Minute)
	wantError(t, "Publish", publish(t.Context(), b, "before", 5*time.Second), job.Unavailable)
	if _, err := b.Check(t.Context()); job.CodeOf(err) != job.Unavailable {
		t.Errorf("Check: %v", err)
	}
	proxy.Back()
	for end := time.Now().Add(patience); publish(t.Context(), b, "errand.test.before", time.Second) != nil; {
		if time.Now().After(end) {
			t.Fatal("the server was not found")
		}
		<-time.After(50 * time.Millisecond)
	}
}

// Nobody listens, or nobody answers: Open comes back.
func TestOpenWaitsOnlyAsLongAsItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	b, err := Open(ctx, "amqp://"+l.Addr().String(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// remove deletes a queue as an operator would.
func remove(t *testing.T, topic string) {
	t.Helper()
	admin(t, testenv.RabbitMQAddress(t), func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(topic, false, false, false)
		return err
	})
}

// The queue is deleted while it is in use: it comes back, whoever notices first.
func TestDeletedQueueIsMadeAgain(t *testing.T) {
	b := open(t, testenv.RabbitMQAddress(t), time.Minute)
	const topic = "errand.test.deleted"
	defer remove(t, topic)
	s := subscribe(t, b, topic)
	for range 2 {
		if err := publish(t.Context(), b, topic, patience); err != nil {
			t.Fatalf("publish to a queue that was deleted: %v", err)
		}
		wantMessage(t, s)
		remove(t, topic)
		if msgs, err := s.Receive(t.Context(), 1, 300*time.Millisecond); err != nil || len(msgs) > 0 {
			t.Errorf("receive from a queue that was deleted: %d messages, %v", len(msgs), err)
		}
		if err := publish(t.Context(), b, topic, patience); err != nil {
			t.Error(err)
		}
		wantMessage(t, s)
		remove(t, topic)
	}
}

// The queue is deleted and made again at once: RabbitMQ may count the consumer to the new queue and
// send it nothing. It gets messages all the same, soon.
func TestConsumerOfAQueueThatWasReplaced(t *testing.T) {
	b := open(t, testenv.RabbitMQAddress(t), time.Minute)
	b.fresh = time.Second
	const topic = "errand.test.replaced"
	defer remove(t, topic)
	s := subscribe(t, b, topic)
	if err := publish(t.Context(), b, topic, patience); err != nil {
		t.Fatal(err)
	}
	wantMessage(t, s)
	admin(t, testenv.RabbitMQAddress(t), func(ch *amqp.Channel) error {
		if _, err := ch.QueueDelete(topic, false, false, false); err != nil {
			return err
		}
		_, err := ch.QueueDeclare(topic, true, false, false, false, queueArguments())
		return err
	})
	if err := publish(t.Context(), b, topic, patience); err != nil {
		t.Fatal(err)
	}
	wantMessage(t, s)
}

// A queue of that name is there, but another one.
func TestForeignQueue(t *testing.T) {
	address := testenv.RabbitMQAddress(t)
	const topic = "errand.test.foreign"
	admin(t, address, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(topic, true, false, false, false, nil)
		return err
	})
	defer admin(t, address, func(ch *amqp.Channel) error { _, err := ch.QueueDelete(topic, false, false, false); return err })
	b := open(t, address, time.Minute)
	wantError(t, "Publish", publish(t.Context(), b, topic, patience), job.FailedPrecondition, topic, "delete it")
	_, err := b.Subscribe(t.Context(), topic)
	wantError(t, "Subscribe", err, job.FailedPrecondition, topic)
}

// Hands come and go: a message is given back as often as it takes.
func TestGivingBackLosesNothing(t *testing.T) {
	b := open(t, testenv.RabbitMQAddress(t), time.Minute)
	const topic, rounds = "errand.test.givenback", 50
	for range 3 {
		if err := publish(t.Context(), b, topic, patience); err != nil {
			t.Fatal(err)
		}
	}
	for range rounds {
		s := subscribe(t, b, topic)
		if msgs, err := s.Receive(t.Context(), 2, patience); err != nil || len(msgs) == 0 {
			t.Fatalf("%d messages, %v", len(msgs), err)
		}
		if err := errors.Join(s.Rest(t.Context()), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	s := subscribe(t, b, topic)
	for range 3 {
		wantMessage(t, s)
	}
}

// An acknowledgement that comes twice does no harm to the others of its channel.
func TestAcknowledgedTwice(t *testing.T) {
	b := open(t, testenv.RabbitMQAddress(t), time.Minute)
	const topic = "errand.test.twice"
	for range 2 {
		if err := publish(t.Context(), b, topic, patience); err != nil {
			t.Fatal(err)
		}
	}
	s := subscribe(t, b, topic)
	msgs, err := s.Receive(t.Context(), 1, patience)
	if err != nil || len(msgs) != 1 {
		t.Fatalf("%d messages, %v", len(msgs), err)
	}
	if err := errors.Join(s.Ack(t.Context(), msgs), s.Ack(t.Context(), msgs)); err != nil {
		t.Error(err)
	}
	wantMessage(t, s)
}
