package errand

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// DialOption sets how a Client reaches its servers.
type DialOption interface{ applyDial(*dialConfig) error }

type dialConfig struct {
	addrs    []string
	token    string
	tls      *tls.Config
	retryFor time.Duration
	tracers  trace.TracerProvider
	meters   metric.MeterProvider
}

type dialOption func(*dialConfig) error

func (f dialOption) applyDial(c *dialConfig) error { return f(c) }

// WithAddresses adds servers: all of one ledger. A call that cannot reach one
// goes to the next.
func WithAddresses(addrs ...string) DialOption {
	return dialOption(func(c *dialConfig) error { c.addrs = append(c.addrs, addrs...); return nil })
}

// WithToken sends a bearer token with every call.
func WithToken(token string) DialOption {
	return dialOption(func(c *dialConfig) error { c.token = strings.TrimSpace(token); return nil })
}

// WithTokenFile reads the token from a file, once.
func WithTokenFile(path string) DialOption {
	return dialOption(func(c *dialConfig) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("token file: %w", err)
		}
		if c.token = strings.TrimSpace(string(b)); c.token == "" {
			return fmt.Errorf("token file %s is empty", path)
		}
		return nil
	})
}

// WithTLS sets the TLS configuration of https addresses, for client
// certificates and the like.
func WithTLS(cfg *tls.Config) DialOption {
	return dialOption(func(c *dialConfig) error { c.tls = cfg.Clone(); return nil })
}

// WithCA trusts the PEM certificates of a file, rather than the system's.
// After WithTLS it adds to that configuration.
func WithCA(path string) DialOption {
	return dialOption(func(c *dialConfig) error {
		pem, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("CA file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("CA file %s holds no PEM certificate", path)
		}
		if c.tls == nil {
			c.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		c.tls.RootCAs = pool
		return nil
	})
}

// WithRetryFor bounds how long a call is retried while no server can be
// reached: 30 s by default, 0 for never. The context of the call bounds it too.
func WithRetryFor(d time.Duration) DialOption {
	return dialOption(func(c *dialConfig) error { c.retryFor = d; return nil })
}

// WithTelemetry is Client.Instrument for a client that is dialled.
func WithTelemetry(tp trace.TracerProvider, mp metric.MeterProvider) DialOption {
	return dialOption(func(c *dialConfig) error { c.tracers, c.meters = tp, mp; return nil })
}

// Dial makes a Client for one or several servers, whose addresses look like
// "http://localhost:7420"; several may be given separated by commas. It does
// not connect: the first call does. Calls are retried through outages, with
// jittered back-off, over all addresses.
func Dial(addr string, opts ...DialOption) (*Client, error) {
	cfg := dialConfig{addrs: strings.Split(addr, ","), retryFor: 30 * time.Second}
	for _, o := range opts {
		if err := o.applyDial(&cfg); err != nil {
			return nil, fmt.Errorf("errand: dial: %w", err)
		}
	}
	route := &route{token: cfg.token}
	for _, a := range cfg.addrs {
		u, err := parseAddr(a)
		if err != nil {
			return nil, fmt.Errorf("errand: dial: %w", err)
		}
		route.bases = append(route.bases, u)
	}
	// Clients that know the same list begin at different servers.
	route.at.Store(rand.Uint32N(uint32(len(route.bases))))
	transport := newTransport(cfg.tls)
	route.http = &http.Client{Transport: transport}
	// The base address is replaced by the route for each call.
	c := NewClient(newWire(route, "http://errand"), func() error {
		transport.CloseIdleConnections()
		return nil
	})
	c.route, c.retryFor, c.sharer = route, cfg.retryFor, &sharer{send: c.svc.Enqueue}
	if err := c.Instrument(cfg.tracers, cfg.meters); err != nil {
		return nil, err
	}
	return c, nil
}

func parseAddr(a string) (*url.URL, error) {
	a = strings.TrimSpace(a)
	if a == "" {
		return nil, errors.New("the server address is empty")
	}
	if !strings.Contains(a, "://") {
		a = "http://" + a
	}
	u, err := url.Parse(strings.TrimRight(a, "/"))
	if err != nil {
		return nil, fmt.Errorf("server address: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("server address %q does not look like http://host:port or https://host:port", a)
	}
	return u, nil
}

func newTransport(cfg *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     cfg,
		TLSHandshakeTimeout: 5 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 256, // calls under way at once, each with a connection of its own under HTTP/1.1
		IdleConnTimeout:     90 * time.Second,
	}
}

// route sends each request to the server that last worked, and moves on to the
// next when one cannot be reached or says that it cannot serve.
type route struct {
	bases []*url.URL
	token string
	http  *http.Client
	at    atomic.Uint32
}

// Do implements connect.HTTPClient.
func (r *route) Do(req *http.Request) (*http.Response, error) {
	at := r.at.Load()
	base := r.bases[at]
	req.URL.Scheme, req.URL.Host = base.Scheme, base.Host
	req.URL.Path = base.Path + req.URL.Path
	req.Host = ""
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	resp, err := r.http.Do(req)
	if err != nil && req.Context().Err() != nil && !timedOut(req) {
		return resp, err // the caller lost interest: that says nothing about the server
	}
	if err != nil || resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusBadGateway ||
		resp.StatusCode == http.StatusGatewayTimeout {
		r.leave(at)
	}
	return resp, err
}

func timedOut(req *http.Request) bool {
	d, ok := req.Context().Deadline()
	return ok && !time.Now().Before(d)
}

// leave moves on from a server, unless another call has done so already.
func (r *route) leave(at uint32) {
	r.at.CompareAndSwap(at, (at+1)%uint32(len(r.bases)))
}
