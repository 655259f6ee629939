package rediscache

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/internal/testenv"
	"github.com/errandhq/errand/job"
)

// TestCluster spreads jobs over three nodes; news told at one are heard at all.
// The first node that the address names is away.
func TestCluster(t *testing.T) {
	nodes := testenv.StartRedisCluster(t, 3)
	ledger := name()
	address := fmt.Sprintf("redis://127.0.0.1:%d?node=%s&node=%s", testenv.FreePort(t), nodes[1].Address(), nodes[2].Address())
	writer, reader := openAs(t, address, ledger), openAs(t, nodes[0].URL(), ledger)
	var batch []cache.Entry
	var ids []job.ID
	for n := range byte(64) {
		e := entry(n+1, 1, job.Ready)
		e.Tell = true
		batch, ids = append(batch, e), append(ids, e.ID)
	}
	within(t, "the cluster agrees", func(ctx context.Context) error { return writer.Put(ctx, batch) })
	within(t, "all are held", func(ctx context.Context) error {
		got, err := reader.Get(ctx, ids)
		if err == nil && len(got) != len(ids) {
			err = fmt.Errorf("%d of %d held", len(got), len(ids))
		}
		return err
	})
	var mu sync.Mutex
	heard, stands := map[job.ID]bool{}, false
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- reader.Watch(ctx, func(n cache.News) {
			mu.Lock()
			defer mu.Unlock()
			stands = true
			for _, e := range n.Entries {
				heard[e.ID] = true
			}
		})
	}()
	within(t, "the line stands", func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if !stands {
			return fmt.Errorf("it does not")
		}
		return nil
	})
	for i := range batch {
		batch[i].Version = 2
	}
	within(t, "put", func(ctx context.Context) error { return writer.Put(ctx, batch) })
	within(t, "all are heard of", func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if len(heard) != len(batch) {
			return fmt.Errorf("heard of %d of %d", len(heard), len(batch))
		}
		return nil
	})
	if err := reader.Drop(t.Context(), ids); err != nil {
		t.Error(err)
	}
	if r, err := Examine(t.Context(), nodes[0].URL()); err != nil || !r.Cluster || r.Refused != nil {
		t.Errorf("examined: %+v, %v", r, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("watch: %v", err)
	}
}

func openAs(t *testing.T, address, ledger string) *Cache {
	t.Helper()
	c, err := New(address, ledger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestTLS speaks to a server whose certificate an authority of ours has signed,
// and not to it without that authority.
func TestTLS(t *testing.T) {
	dir, err := os.MkdirTemp("", "errand-redis-tls-") // of a mode that Redis's user may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cert, key := certificate(t, dir)
	port := testenv.FreePort(t)
	testenv.StartRedis(t, testenv.RedisOptions{Config: []string{
		fmt.Sprintf("tls-port %d", port), "tls-cert-file " + cert, "tls-key-file " + key, "tls-ca-cert-file " + cert, "tls-auth-clients no",
	}})
	address := fmt.Sprintf("rediss://127.0.0.1:%d", port)
	trusting := open(t, address+"?ca="+url.QueryEscape(cert))
	within(t, "put", func(ctx context.Context) error { return trusting.Put(ctx, []cache.Entry{entry(1, 1, job.Ready)}) })
	if err := open(t, address).Put(t.Context(), []cache.Entry{entry(1, 1, job.Ready)}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with the system's authorities: %v", err)
	}
}

// certificate writes a certificate that is its own authority, and its key.
func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}
