package rediscache

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// How long a Redis may be silent before the connection is given up: so a frozen one is
// noticed, also by who only listens.
const (
	dialPatience  = 2 * time.Second
	replyPatience = 2 * time.Second
	pingEvery     = time.Second
)

// ParseURL reads the address of a Redis:
//
//	redis://[USER:PASSWORD@]HOST[:PORT][/DB][?node=HOST:PORT&ca=FILE]
//
// and rediss:// for TLS, whose certificate is checked against the system's
// authorities or those in FILE (PEM). Of a cluster any node does, which names the others;
// with node, which may be repeated, more are tried. Errors hold no password.
func ParseURL(address string) (rueidis.ClientOption, error) {
	u, err := url.Parse(address)
	if err != nil {
		return rueidis.ClientOption{}, errors.New("the Redis address is not a valid URL")
	}
	option := rueidis.ClientOption{
		ClientName: "errand", DisableRetry: true, DisableCache: true,
		Dialer:           net.Dialer{Timeout: dialPatience, KeepAlive: pingEvery},
		ConnWriteTimeout: replyPatience,
	}
	switch {
	case u.Scheme != "redis" && u.Scheme != "rediss":
		return option, fmt.Errorf("a Redis address begins with redis:// or rediss://, not %s://", u.Scheme)
	case u.Hostname() == "":
		return option, errors.New("the Redis address names no host")
	}
	option.Username = u.User.Username()
	option.Password, _ = u.User.Password()
	if db := strings.Trim(u.Path, "/"); db != "" {
		if option.SelectDB, err = strconv.Atoi(db); err != nil || option.SelectDB < 0 {
			return option, fmt.Errorf("the Redis database %q is not a number", db)
		}
	}
	if u.Scheme == "rediss" {
		option.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname()}
	}
	option.InitAddress = []string{withPort(u.Host)}
	return option, parseQuery(u.Query(), &option)
}

func parseQuery(q url.Values, option *rueidis.ClientOption) error {
	for key, values := range q {
		switch {
		case key == "node":
			for _, v := range values {
				option.InitAddress = append(option.InitAddress, withPort(v))
			}
		case key == "ca" && option.TLSConfig != nil:
			pem, err := os.ReadFile(values[0])
			if err != nil {
				return fmt.Errorf("the CA file of Redis: %w", err)
			}
			option.TLSConfig.RootCAs = x509.NewCertPool()
			if !option.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
				return fmt.Errorf("the CA file %s holds no PEM certificate", values[0])
			}
		default:
			return fmt.Errorf("the Redis address has the unknown parameter %q", key)
		}
	}
	return nil
}

func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "6379")
}
