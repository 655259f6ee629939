package server

import (
	"fmt"
	"log/slog"
	"net"
)

// complete sets defaults and checks what can be checked without the network.
func (c *Config) complete() error {
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	if c.Grace <= 0 {
		c.Grace = DefaultGrace
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return fmt.Errorf("tls-cert and tls-key go together: only one is set")
	}
	if c.ScalerClientCA != "" && (c.ScalerListen == "" || c.TLSCert == "") {
		return fmt.Errorf("scaler-client-ca needs scaler-listen, tls-cert and tls-key")
	}
	if c.DrainDelay < 0 || c.DrainDelay >= c.Grace {
		return fmt.Errorf("drain-delay %s is not between 0 and the grace of %s", c.DrainDelay, c.Grace)
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("listen address %q is not of the form host:port", c.Listen)
	}
	// Decided by the text before anything is opened, for a moment's exposure is
	// one too; New asks again about the address that a name led to.
	if ip := net.ParseIP(host); host == "" || ip != nil {
		return c.checkExposure(ip.IsLoopback())
	}
	return nil
}

// checkExposure refuses an address that others can reach unless callers are
// known and their tokens are not sent in the clear.
func (c *Config) checkExposure(loopback bool) error {
	switch {
	case loopback:
		return nil
	case c.TokenFile == "":
		return fmt.Errorf("listen address %s can be reached from other machines, and anyone there could do anything: "+
			"set --auth-token-file (errand token new makes a token), or listen on %s", c.Listen, DefaultListen)
	case c.TLSCert == "" && !c.TLSInFront:
		return fmt.Errorf("listen address %s can be reached from other machines, and tokens would be sent in the clear: "+
			"set --tls-cert and --tls-key, or --tls-in-front if a proxy in front ends TLS", c.Listen)
	}
	return nil
}

func isLoopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}
