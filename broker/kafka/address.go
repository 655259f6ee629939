package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/errandhq/errand/job"
)

// Scheme begins every address of a cluster.
const Scheme = "kafka"

const (
	defaultPort   = "9092"
	mostTopicSize = 1000 // partitions that an address may ask for
)

// address is a parsed address.
type address struct {
	seeds       []string
	user        string
	password    string
	sasl        string // plain, scram-sha-256, scram-sha-512; empty: none
	tls         bool
	ca          string // a file of PEM certificates; empty: the system's
	groups      Groups
	replication int // of new topics; 0: up to mostReplicas
	partitions  int // of new topics; 0: as the kind of group wants
}

// String shows the address without its password.
func (a address) String() string {
	u := url.URL{Scheme: Scheme, Host: strings.Join(a.seeds, ",")}
	if a.user != "" {
		u.User = url.User(a.user)
	}
	return u.String()
}

// GoString implements fmt.GoStringer.
func (a address) GoString() string { return a.String() }

// parse reads
//
//	kafka://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…][?sasl=plain|scram-sha-256|scram-sha-512
//	&tls=true&ca=FILE&group=auto|share|classic&replication=N&partitions=N]
//
// Its errors, of code job.InvalidArgument, name the part that is wrong and show
// neither user nor password. The port is 9092 where none is given.
func parse(s string) (address, error) {
	rest, ok := strings.CutPrefix(s, Scheme+"://")
	if !ok {
		return address{}, wrong(`it does not begin with "kafka://"`)
	}
	rest, query, _ := strings.Cut(rest, "?")
	if strings.Contains(query, "@") {
		return address{}, wrong("an @ follows the ?: write a ? in the password as %%3F, and an @ behind the ? as %%40")
	}
	var a address
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		if err := a.parseUser(rest[:i]); err != nil {
			return address{}, err
		}
		rest = rest[i+1:]
	}
	for i, host := range strings.Split(strings.TrimSuffix(rest, "/"), ",") {
		seed, why := parseSeed(host)
		if why != "" {
			return address{}, wrong("host %d: %s", i+1, why)
		}
		a.seeds = append(a.seeds, seed)
	}
	if err := a.parseQuery(query); err != nil {
		return address{}, err
	}
	return a, a.check()
}

func wrong(format string, args ...any) error {
	return job.Errorf(job.InvalidArgument, job.ReasonBadField, "kafka address: "+format, args...)
}

func (a *address) parseUser(s string) error {
	user, password, _ := strings.Cut(s, ":")
	var err1, err2 error
	a.user, err1 = url.PathUnescape(user)
	a.password, err2 = url.PathUnescape(password)
	if err1 != nil || err2 != nil {
		return wrong("user or password holds a %% that begins no escape: write it as %%25")
	}
	return nil
}

// parseSeed returns host:port, or what is wrong with s. It shows nothing of s, which
// may be a password with its @ forgotten.
func parseSeed(s string) (seed, why string) {
	if s == "" {
		return "", "it is missing"
	}
	host, port := s, defaultPort
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port = s[:i], s[i+1:]
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "the port is not a number from 1 to 65535"
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
		if net.ParseIP(host) == nil || inner == host {
			return "", "it is not an IPv6 address in brackets"
		}
		return net.JoinHostPort(host, port), ""
	}
	if host == "" || strings.ContainsFunc(host, notInHosts) {
		return "", "it is not a host name or address (an IPv6 address goes into brackets)"
	}
	return host + ":" + port, ""
}

func notInHosts(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_", r))
}

func (a *address) parseQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return wrong("what follows the ? is not NAME=VALUE&NAME=VALUE")
	}
	for name, list := range values {
		if len(list) > 1 {
			return wrong("%s is given twice", name)
		}
		if err := a.set(name, list[0]); err != nil {
			return err
		}
	}
	return nil
}

func (a *address) set(name, value string) (err error) {
	switch name {
	case "sasl":
		a.sasl = value
		if value != "plain" && value != "scram-sha-256" && value != "scram-sha-512" {
			return wrong("sasl=%s is not one of plain, scram-sha-256, scram-sha-512", value)
		}
	case "tls":
		if a.tls = value == "true"; !a.tls && value != "false" {
			return wrong("tls=%s is neither true nor false", value)
		}
	case "ca":
		a.ca = value
	case "group":
		a.groups = Groups(value)
		if value == "auto" {
			a.groups = Auto
		} else if a.groups != Share && a.groups != Classic {
			return wrong("group=%s is not one of auto, share, classic", value)
		}
	case "replication":
		a.replication, err = parseCount(name, value, 100)
	case "partitions":
		a.partitions, err = parseCount(name, value, mostTopicSize)
	default:
		return wrong("%q is not one of sasl, tls, ca, group, replication, partitions", name)
	}
	return err
}

func parseCount(name, value string, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > most {
		return 0, wrong("%s=%s is not a number from 1 to %d", name, value, most)
	}
	return n, nil
}

// check looks at what the parts mean together. A user alone means SASL/PLAIN.
func (a *address) check() error {
	if a.sasl != "" && a.user == "" {
		return wrong("sasl=%s needs a user and a password: kafka://USER:PASSWORD@HOST", a.sasl)
	}
	if a.user != "" && a.sasl == "" {
		a.sasl = "plain"
	}
	if a.ca != "" && !a.tls {
		return wrong("ca is given without tls=true")
	}
	return nil
}

// tlsConfig returns nil where the address wants no TLS.
func (a address) tlsConfig() (*tls.Config, error) {
	if !a.tls {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.ca == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(a.ca)
	if err != nil {
		return nil, wrong("ca: %w", err)
	}
	conf.RootCAs = x509.NewCertPool()
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return nil, wrong("ca: %s holds no certificate in PEM form", a.ca)
	}
	return conf, nil
}

func (a address) mechanism() sasl.Mechanism {
	switch a.sasl {
	case "plain":
		return plain.Auth{User: a.user, Pass: a.password}.AsMechanism()
	case "scram-sha-256":
		return scram.Auth{User: a.user, Pass: a.password}.AsSha256Mechanism()
	case "scram-sha-512":
		return scram.Auth{User: a.user, Pass: a.password}.AsSha512Mechanism()
	}
	return nil
}
