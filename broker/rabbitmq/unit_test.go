package rabbitmq

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/errandhq/errand/job"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]address{
		"amqp://":                    {hosts: []string{"localhost:5672"}, user: "guest", password: "guest", vhost: "/"},
		"amqp://h":                   {hosts: []string{"h:5672"}, user: "guest", password: "guest", vhost: "/"},
		"amqps://h/":                 {tls: true, hosts: []string{"h:5671"}, user: "guest", password: "guest", vhost: "/"},
		"amqp://u:p%40%3A@h:1/v":     {hosts: []string{"h:1"}, user: "u", password: "p@:", vhost: "v"},
		"amqp://u@a:1,b,[::1]:3/%2F": {hosts: []string{"a:1", "b:5672", "[::1]:3"}, user: "u", vhost: "/"},
		"amqp://u:p@[::1]/a%2Fb":     {hosts: []string{"[::1]:5672"}, user: "u", password: "p", vhost: "a/b"},
	} {
		got, err := parseAddress(in)
		if err != nil || got.tls != want.tls || !slices.Equal(got.hosts, want.hosts) ||
			got.user != want.user || got.password != want.password || got.vhost != want.vhost {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "amqp", "http://h", "amqp:/h", "amqp://h:x", "amqp://h:0", "amqp://h:99999", "amqp://a,b c", "amqp://::1", "amqp://u:p%zz@h",
		"amqp://h?frame_max=1", "amqp://h?cacertfile=x", "amqps://h?certfile=x", "amqps://h?cacertfile=", "amqp://h#f", "amqp://u:secret@h:p:q/",
	} {
		_, err := parseAddress(in)
		if job.CodeOf(err) != job.InvalidArgument {
			t.Errorf("%s: %v", in, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("an error shows the password: %v", err)
		}
	}
}

func TestOpenRefusesFilesItCannotRead(t *testing.T) {
	for _, in := range []string{"amqps://h?cacertfile=/no/such/file", "amqps://h?cacertfile=unit_test.go", "amqps://h?certfile=unit_test.go&keyfile=unit_test.go"} {
		if _, err := Open(t.Context(), in, Options{}); job.CodeOf(err) != job.InvalidArgument {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	f.Add("amqp://user:s3cr3t!@a:1,[::1]:2/v%2F?cacertfile=x")
	f.Add("amqps://u:p@h")
	f.Fuzz(func(t *testing.T, in string) {
		a, err := parseAddress(in)
		if err != nil {
			if job.CodeOf(err) != job.InvalidArgument {
				t.Errorf("code %d", job.CodeOf(err))
			}
			return
		}
		for _, h := range a.hosts {
			if _, _, err := net.SplitHostPort(h); err != nil {
				t.Errorf("host %q: %v", h, err)
			}
		}
		again, err := parseAddress(strings.SplitN(in, "://", 2)[0] + "://" + strings.Join(a.hosts, ","))
		if err != nil || !slices.Equal(again.hosts, a.hosts) {
			t.Errorf("the hosts %q are read as %q, %v", a.hosts, again.hosts, err)
		}
	})
}

func TestParseVersion(t *testing.T) {
	for in, want := range map[string][2]int{"3.10.8": {3, 10}, "4.1.0-beta.4": {4, 1}, "3.13": {3, 13}, "4.0-rc.1": {4, 0}} {
		if major, minor, ok := parseVersion(in); !ok || [2]int{major, minor} != want {
			t.Errorf("%s: %d.%d, %t", in, major, minor, ok)
		}
	}
	for _, in := range []string{"", "3", "x.y", "3.", ".1", "-1.2"} {
		if _, _, ok := parseVersion(in); ok {
			t.Errorf("%q is a version", in)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for _, c := range []struct {
		product, version any
		ok               bool
	}{
		{"RabbitMQ", "3.10.8", true},
		{"RabbitMQ", "4.2.0", true},
		{"RabbitMQ", "3.9.29", false},
		{"RabbitMQ", "2.8", false},
		{"RabbitMQ", "", false},
		{"ActiveMQ", "5.1.0", false},
		{nil, 7, false},
	} {
		if f := checkVersion(amqp.Table{"product": c.product, "version": c.version}); f.OK != c.ok || f.Detail == "" {
			t.Errorf("%v %v: %+v", c.product, c.version, f)
		}
	}
}

func TestCheckTransport(t *testing.T) {
	for in, ok := range map[string]bool{
		"amqp://localhost": true, "amqp://127.0.0.1:1,[::1]:2": true, "amqps://far.example": true,
		"amqp://far.example": false, "amqp://localhost,10.0.0.1": false,
	} {
		a, err := parseAddress(in)
		if err != nil {
			t.Fatal(err)
		}
		if f := (&Broker{address: a}).checkTransport(); f.OK != ok || f.Detail == "" {
			t.Errorf("%s: %+v", in, f)
		}
	}
}

func TestWrap(t *testing.T) {
	server := func(code int) error { return &amqp.Error{Code: code, Reason: "why", Server: true} }
	for _, c := range []struct {
		err  error
		code job.Code
	}{
		{context.DeadlineExceeded, job.Unavailable},
		{context.Canceled, job.Unavailable},
		{io.EOF, job.Unavailable},
		{&net.OpError{Op: "dial", Err: errors.New("refused")}, job.Unavailable},
		{amqp.ErrClosed, job.Unavailable},
		{amqp.ErrCredentials, job.Unavailable}, // the library's guess
		{amqp.ErrVhost, job.Unavailable},
		{amqp.ErrSASL, job.PermissionDenied},
		{server(amqp.AccessRefused), job.PermissionDenied},
		{server(amqp.NotAllowed), job.FailedPrecondition},
		{server(amqp.PreconditionFailed), job.FailedPrecondition},
		{server(amqp.ResourceLocked), job.FailedPrecondition},
		{server(amqp.NotImplemented), job.FailedPrecondition},
		{server(amqp.NotFound), job.Unavailable},
		{server(amqp.ConnectionForced), job.Unavailable},
		{server(amqp.InternalError), job.Unavailable},
		{server(amqp.ResourceError), job.Unavailable},
		{fmt.Errorf("deep: %w", server(amqp.AccessRefused)), job.PermissionDenied},
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, job.FailedPrecondition},
		{job.ErrBusy, job.Aborted},
	} {
		got := wrap("do it", c.err)
		if job.CodeOf(got) != c.code || job.ReasonOf(got) == "" || !errors.Is(got, c.err) {
			t.Errorf("%v became %v of code %d, want %d", c.err, got, job.CodeOf(got), c.code)
		}
	}
	if wrap("do it", nil) != nil {
		t.Error("no error became one")
	}
}

func TestTooOld(t *testing.T) {
	const ttl = 30 * time.Second
	arrived := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		name       string
		sentBefore time.Duration
		here       time.Duration
		old        bool
	}{
		{"fresh", time.Second, time.Second, false},
		{"old here", 0, 31 * time.Second, true},
		{"old in all", 20 * time.Second, 11 * time.Second, true},
		{"not quite", 20 * time.Second, 9 * time.Second, false},
		{"the publisher's clock is behind", time.Hour, time.Second, false},
		{"the publisher's clock is ahead", -time.Hour, time.Second, false},
		{"and ahead, and old here", -time.Hour, 31 * time.Second, true},
		{"our clock was set back", time.Second, -time.Hour, false},
	} {
		sent := arrived.Add(-c.sentBefore).UnixMilli()
		if got := tooOld(sent, arrived, arrived.Add(c.here), ttl); got != c.old {
			t.Errorf("%s: too old: %t", c.name, got)
		}
	}
	if tooOld(nil, arrived, arrived.Add(time.Second), ttl) || tooOld("x", arrived, arrived.Add(time.Second), ttl) {
		t.Error("a message of somebody else's is too old at once")
	}
}

func TestBackOffGrowsToItsBound(t *testing.T) {
	if backOff(0) != 0 {
		t.Error("a pause after no failure")
	}
	for failures, most := range map[int]time.Duration{1: 2 * firstPause, 3: 8 * firstPause, 9: longestPause, 10: longestPause, 1 << 40: longestPause} {
		var longest time.Duration
		for range 200 {
			d := backOff(failures)
			if d < 0 || d > most {
				t.Errorf("after %d failures %s, at most %s", failures, d, most)
			}
			longest = max(longest, d)
		}
		if longest < most/2 {
			t.Errorf("after %d failures never more than %s of %s", failures, longest, most)
		}
	}
}

func TestStringShowsNoPassword(t *testing.T) {
	a, err := parseAddress("amqps://user:hunter2@h1,h2/v?server_name_indication=x")
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{address: a}
	for _, s := range []string{b.String(), fmt.Sprintf("%v %+v %#v %s", b, b, b, b)} {
		if strings.Contains(s, "hunter2") || !strings.Contains(s, "h1:5671,h2:5671") {
			t.Errorf("it shows as %s", s)
		}
	}
}
