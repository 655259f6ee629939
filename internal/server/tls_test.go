package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"connectrpc.com/connect"

	errandv1 "github.com/errandhq/errand/gen/errand/v1"
	"github.com/errandhq/errand/gen/errand/v1/errandv1connect"
	"github.com/errandhq/errand/internal/auth"
)

// authority is a certificate authority of one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = sign(t, template, nil)
	return a
}

// sign makes a certificate, signed by its own key if by is nil.
func sign(t *testing.T, template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// issue writes a certificate for 127.0.0.1 to files.
func (a *authority) issue(t *testing.T, serial int64) (certPEM, keyPEM string) {
	t.Helper()
	cert, key := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
	}, a)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

// pem is the authority's own certificate.
func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// client trusts the authority.
func (a *authority) client(t *testing.T) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

func TestTLS(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue(t, 2)
	tok := auth.NewToken()
	line, err := tok.Line("app", auth.Producer)
	if err != nil {
		t.Fatal(err)
	}
	r := serve(t, &fake{}, Config{
		TLSCert: write(t, "cert", cert), TLSKey: write(t, "key", key), TokenFile: write(t, "tokens", line),
	})
	hc := a.client(t)
	for name, opt := range map[string]connect.ClientOption{"gRPC": connect.WithGRPC(), "JSON": connect.WithProtoJSON()} {
		c := errandv1connect.NewQueueServiceClient(hc, r.URL(), opt, connect.WithInterceptors(connect.UnaryInterceptorFunc(
			func(next connect.UnaryFunc) connect.UnaryFunc {
				return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
					req.Header().Set("Authorization", "Bearer "+tok.Reveal())
					return next(ctx, req)
				}
			})))
		if err := enqueue(t.Context(), c, &errandv1.EnqueueItem{Kind: "k"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	stranger := newAuthority(t).client(t)
	if err := enqueue(t.Context(), errandv1connect.NewQueueServiceClient(stranger, r.URL()), &errandv1.EnqueueItem{Kind: "k"}); err == nil {
		t.Error("a certificate of a strange authority was trusted")
	}
	resp, err := transport(t, false).Get("http://" + r.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("plain HTTP on a TLS port: %s", resp.Status)
	}
}

// TestCertificateRenewal: a renewed pair is taken up, half a renewal is not.
func TestCertificateRenewal(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue(t, 2)
	certFile, keyFile := write(t, "cert", cert), write(t, "key", key)
	c, err := loadCertificates(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 { return c.current.Load().Leaf.SerialNumber.Int64() }
	newCert, newKey := a.issue(t, 3)
	if err := os.WriteFile(certFile, []byte(newCert), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.load(); err == nil || serial() != 2 {
		t.Errorf("half a renewal: %v, serial %d", err, serial())
	}
	if err := os.WriteFile(keyFile, []byte(newKey), 0o600); err != nil {
		t.Fatal(err)
	}
	if changed, err := c.load(); err != nil || !changed || serial() != 3 {
		t.Errorf("%v, %v, serial %d", changed, err, serial())
	}
	if changed, err := c.load(); err != nil || changed {
		t.Errorf("nothing new: %v, %v", changed, err)
	}
}
