package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// certEvery is how often the certificate's files are looked at.
const certEvery = 30 * time.Second

// certificates serve the certificate of two files and follow their renewal.
type certificates struct {
	certFile, keyFile string
	log               *slog.Logger
	seen              []byte // both files, as last looked at; watch's own after the load
	current           atomic.Pointer[tls.Certificate]
}

func loadCertificates(certFile, keyFile string, log *slog.Logger) (*certificates, error) {
	c := &certificates{certFile: certFile, keyFile: keyFile, log: log}
	if _, err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// load takes up the files if they changed.
func (c *certificates) load() (changed bool, err error) {
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return false, fmt.Errorf("tls-cert: %w", err)
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return false, fmt.Errorf("tls-key: %w", err)
	}
	both := append(append(cert[:len(cert):len(cert)], 0), key...)
	if bytes.Equal(both, c.seen) {
		return false, nil
	}
	c.seen = both
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return false, fmt.Errorf("tls-cert %s and tls-key %s: %w", c.certFile, c.keyFile, err)
	}
	c.current.Store(&pair)
	return true, nil
}

// watch takes up renewed files until ctx ends, and at once for each value on
// now. While they are not a pair, as in the middle of a renewal, the
// certificate before them is served.
func (c *certificates) watch(ctx context.Context, now <-chan os.Signal) {
	tick := time.NewTicker(certEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-now:
		case <-tick.C:
		}
		switch changed, err := c.load(); {
		case err != nil:
			c.log.Error("the certificate was not taken up; the one before it is served", "error", err)
		case changed:
			c.log.Info("the certificate was taken up", "file", c.certFile)
		}
	}
}

func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}
