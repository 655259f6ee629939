package rabbitmq

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/errandhq/errand/job"
)

// address is what a URL says.
type address struct {
	tls      bool
	hosts    []string // host:port, at least one
	user     string
	password string
	vhost    string
	files    url.Values // of TLS, see tlsParams
}

// tlsParams are the parameters that an address may have, named as in RabbitMQ's own.
var tlsParams = []string{"cacertfile", "certfile", "keyfile", "server_name_indication"}

// parseAddress reads amqp://user:password@host:port,host:port/vhost. What is left
// out is guest, guest, localhost, 5672 (5671 with TLS) and the virtual host "/", as
// everywhere in RabbitMQ's world. Its errors show nothing of the address, which holds a password.
func parseAddress(s string) (address, error) {
	bad := func(format string, args ...any) (address, error) {
		return address{}, job.Errorf(job.InvalidArgument, job.ReasonBadField, "the address of RabbitMQ: "+format, args...)
	}
	scheme, rest, _ := strings.Cut(s, "://")
	if scheme != "amqp" && scheme != "amqps" {
		return bad("it does not begin with amqp:// or amqps://")
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	at := strings.LastIndexByte(rest[:end], '@')
	a := address{tls: scheme == "amqps", user: "guest", password: "guest", vhost: "/"}
	var err error
	if a.hosts, err = parseHosts(rest[at+1:end], a.tls); err != nil {
		return bad("%w", err)
	}
	// The hosts are out of the way, of which a URL has but one.
	u, err := url.Parse(scheme + "://" + rest[:at+1] + "h" + rest[end:])
	if err != nil {
		return bad("it is not a URL (special characters in the password must be percent-encoded)")
	}
	if u.User != nil {
		a.user = u.User.Username()
		a.password, _ = u.User.Password()
	}
	if len(u.Path) > 1 {
		a.vhost = u.Path[1:]
	}
	if u.Fragment != "" {
		return bad("it has a fragment (#)")
	}
	if a.files, err = url.ParseQuery(u.RawQuery); err != nil {
		return bad("its parameters cannot be read")
	}
	return a, a.checkParams()
}

func (a address) checkParams() error {
	known := 0
	for _, name := range tlsParams {
		if v, ok := a.files[name]; ok {
			known++
			if len(v) != 1 || v[0] == "" || !a.tls {
				return job.Errorf(job.InvalidArgument, job.ReasonBadField, "the address of RabbitMQ: parameter %s needs amqps:// and one value", name)
			}
		}
	}
	if known < len(a.files) {
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, "the address of RabbitMQ: of parameters it may have only %s", strings.Join(tlsParams, ", "))
	}
	if a.files.Has("certfile") != a.files.Has("keyfile") {
		return job.Errorf(job.InvalidArgument, job.ReasonBadField, "the address of RabbitMQ: certfile and keyfile go together")
	}
	return nil
}

func parseHosts(s string, secure bool) ([]string, error) {
	port := "5672"
	if secure {
		port = "5671"
	}
	var out []string
	for one := range strings.SplitSeq(s, ",") {
		h, err := parseHost(one, port)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}

// parseHost reads HOST, HOST:PORT, [IPv6] or [IPv6]:PORT.
func parseHost(s, port string) (string, error) {
	bad := job.Errorf(job.InvalidArgument, job.ReasonBadField, "a host is not HOST or HOST:PORT")
	u, err := url.Parse("//" + s)
	if err != nil || u.Host != s || strings.ContainsAny(s, " @") {
		return "", bad
	}
	host := u.Hostname()
	if host == "" {
		host = "localhost"
	}
	if p := u.Port(); p != "" {
		port = p
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", bad
	}
	if strings.Contains(host, ":") != strings.HasPrefix(s, "[") {
		return "", bad // a colon without brackets is neither port nor address
	}
	return net.JoinHostPort(host, port), nil
}

// String shows where RabbitMQ is, and no password.
func (a address) String() string {
	scheme := "amqp"
	if a.tls {
		scheme = "amqps"
	}
	return scheme + "://" + strings.Join(a.hosts, ",") + " (virtual host " + a.vhost + ")"
}

// tlsConfig reads the files that the address names on top of base, which may be nil. It
// returns nil for an address without TLS.
func (a address) tlsConfig(base *tls.Config) (*tls.Config, error) {
	if !a.tls {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		c = base.Clone()
	}
	if file := a.files.Get("cacertfile"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, job.Errorf(job.InvalidArgument, job.ReasonBadField, "the address of RabbitMQ: cacertfile: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, job.Errorf(job.InvalidArgument, job.ReasonBadField, "the address of RabbitMQ: cacertfile: %s holds no certificate", file)
		}
	}
	if file := a.files.Get("certfile"); file != "" {
		pair, err := tls.LoadX509KeyPair(file, a.files.Get("keyfile"))
		if err != nil {
			return nil, job.Errorf(job.InvalidArgument, job.ReasonBadField, "the address of RabbitMQ: certfile: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if name := a.files.Get("server_name_indication"); name != "" {
		c.ServerName = name
	}
	return c, nil
}
