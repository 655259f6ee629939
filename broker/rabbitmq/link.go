package rabbitmq

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/errandhq/errand/job"
)

const (
	dialTimeout   = 10 * time.Second
	writeTimeout  = 10 * time.Second
	heartbeat     = 10 * time.Second // a peer that is silent for one and a half has gone
	firstPause    = 100 * time.Millisecond
	longestPause  = 10 * time.Second
	steady        = 5 * time.Second // a connection that lived so long was a good one
	closePatience = 2 * time.Second
)

// link keeps one connection to RabbitMQ: it connects anew whenever that is lost,
// with growing pauses and jitter, to whichever host answers.
type link struct {
	name string // for logs
	dial func(ctx context.Context) (*conn, error)
	log  *slog.Logger

	mu      sync.Mutex
	conn    *conn         // nil: not connected,
	err     error         // and why, if nobody tries at this moment
	changed chan struct{} // closed, and made anew, whenever these change
}

// conn is a connection that lives until gone is closed.
type conn struct {
	*amqp.Connection
	raw  net.Conn
	gone chan struct{}

	mu      sync.Mutex
	alarm   string        // why RabbitMQ takes no messages at this moment; empty: it does
	changed chan struct{} // closed, and made anew, whenever alarm changes
}

func newLink(name string, dial func(ctx context.Context) (*conn, error), log *slog.Logger) *link {
	return &link{name: name, dial: dial, log: log.With("connection", name), changed: make(chan struct{})}
}

// run keeps the connection until ctx ends.
func (l *link) run(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		c, err := l.dial(ctx)
		l.set(c, err)
		if err != nil {
			if failures == 0 && ctx.Err() == nil {
				l.log.Warn("RabbitMQ cannot be reached; trying on", "err", err)
			}
			failures++
			sleep(ctx, backOff(failures))
			l.set(nil, nil)
			continue
		}
		l.log.Info("connected to RabbitMQ", "host", c.raw.RemoteAddr().String())
		since := time.Now()
		select {
		case <-c.gone:
			l.log.Warn("the connection to RabbitMQ was lost")
		case <-ctx.Done():
			l.set(nil, ctx.Err())
			c.end()
			return
		}
		if failures++; time.Since(since) > steady {
			failures = 0
		}
		l.set(nil, nil)
		sleep(ctx, backOff(failures))
	}
	l.set(nil, ctx.Err())
}

// backOff is the pause after so many failures in a row: none after none.
func backOff(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	most := longestPause
	if failures < 10 {
		most = min(longestPause, firstPause<<failures)
	}
	return rand.N(most)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (l *link) set(c *conn, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn, l.err = c, err
	close(l.changed)
	l.changed = make(chan struct{})
}

// get returns the connection. While somebody tries to make one it waits for the
// outcome, so that a short loss is seen by nobody; while nobody does it fails at
// once, with the error of the last attempt.
func (l *link) get(ctx context.Context) (*conn, error) {
	for {
		l.mu.Lock()
		c, err, changed := l.conn, l.err, l.changed
		l.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case c != nil && !c.ended():
			return c, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// dialer makes connections to the hosts of an address, beginning with any of them.
func dialer(a address, conf *tls.Config, name string) func(ctx context.Context) (*conn, error) {
	return func(ctx context.Context) (*conn, error) {
		var errs []error
		first := rand.IntN(len(a.hosts))
		for i := range a.hosts {
			c, err := connect(ctx, a, conf, a.hosts[(first+i)%len(a.hosts)], name)
			if err == nil {
				return c, nil
			}
			errs = append(errs, wrap("connect", err))
			if ctx.Err() != nil {
				break
			}
		}
		if len(errs) == 1 {
			return nil, errs[0]
		}
		return nil, job.Errorf(job.CodeOf(errs[0]), job.ReasonOf(errs[0]), "no host answers: %w", errors.Join(errs...))
	}
}

func connect(ctx context.Context, a address, conf *tls.Config, host, name string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	c, err := handshake(ctx, a, conf, host, name, &timedConn{raw})
	if err != nil {
		_ = raw.Close()
		return nil, errors.Join(err, ctx.Err())
	}
	return watch(c, raw), nil
}

// handshake makes a connection of AMQP over one of TCP, by TLS if conf is not nil.
func handshake(ctx context.Context, a address, conf *tls.Config, host, name string, over net.Conn) (*amqp.Connection, error) {
	if conf != nil {
		conf = conf.Clone()
		if conf.ServerName == "" {
			conf.ServerName, _, _ = net.SplitHostPort(host)
		}
		secure := tls.Client(over, conf)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		over = secure
	}
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName("errand " + name)
	return amqp.Open(over, amqp.Config{
		SASL:       []amqp.Authentication{&outspokenAuth{amqp.PlainAuth{Username: a.user, Password: a.password}, properties}},
		Vhost:      a.vhost,
		Heartbeat:  heartbeat,
		FrameSize:  128 << 10,
		Locale:     "en_US",
		Properties: properties,
	})
}

// outspokenAuth is PLAIN, and asks RabbitMQ to say so if it refuses the user. The
// library does not ask, and RabbitMQ would just end the connection, as a broken network does. The
// library calls Response after it has set the capabilities and before it sends them.
type outspokenAuth struct {
	amqp.PlainAuth
	properties amqp.Table
}

func (a *outspokenAuth) Response() string {
	if capabilities, ok := a.properties["capabilities"].(amqp.Table); ok {
		capabilities["authentication_failure_close"] = true
	}
	return a.PlainAuth.Response()
}

// watch follows what RabbitMQ says of the connection.
func watch(c *amqp.Connection, raw net.Conn) *conn {
	w := &conn{Connection: c, raw: raw, gone: make(chan struct{}), changed: make(chan struct{})}
	closed := c.NotifyClose(make(chan *amqp.Error, 1))
	blocked := c.NotifyBlocked(make(chan amqp.Blocking, 1))
	go func() {
		defer close(w.gone)
		for {
			select {
			case <-closed:
				return
			case b, ok := <-blocked:
				if !ok {
					blocked = nil // closed will follow
					continue
				}
				w.setAlarm(b)
			}
		}
	}()
	return w
}

func (c *conn) setAlarm(b amqp.Blocking) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm = ""
	if b.Active {
		c.alarm = "alarm: " + b.Reason
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// alarmed returns why RabbitMQ takes no messages at this moment, if so, and what
// is closed when that changes.
func (c *conn) alarmed() (string, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alarm, c.changed
}

func (c *conn) ended() bool {
	select {
	case <-c.gone:
		return true
	default:
		return c.IsClosed()
	}
}

// end closes the connection, and cuts it if RabbitMQ does not play along.
func (c *conn) end() {
	_ = c.CloseDeadline(time.Now().Add(closePatience)) // it is of no use any more, whatever this says
	_ = c.raw.Close()
	<-c.gone
}

// timedConn ends a write that goes nowhere: the library itself would wait for ever,
// and hold up everybody else on the connection.
type timedConn struct{ net.Conn }

func (c *timedConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
