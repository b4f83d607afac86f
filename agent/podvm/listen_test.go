// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// identity is a certificate with its key.
type identity struct {
	cert, key string // PEM
	tls       tls.Certificate
	x509      *x509.Certificate
}

// issue makes a certificate as the adaptor does: self-signed without an
// issuer. edit changes the template.
func issue(t testing.TB, issuer *identity, edit func(*x509.Certificate)) *identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-5 * time.Minute), NotAfter: now.Add(time.Hour),
		Subject: pkix.Name{Organization: []string{"test"}}, BasicConstraintsValid: true,
	}
	edit(tmpl)
	parent, signer := tmpl, any(key)
	if issuer != nil {
		parent, signer = issuer.x509, issuer.tls.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	id := &identity{
		cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
	}
	if id.tls, err = tls.X509KeyPair([]byte(id.cert), []byte(id.key)); err != nil {
		t.Fatal(err)
	}
	if id.x509, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return id
}

func clientLeaf(c *x509.Certificate) {
	c.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

const instance = "podvm-nginx-12345678"

// pod is the certificates of one peer pod.
type pod struct {
	client, serverCA, server *identity
	apf                      *APF
}

func newPod(t testing.TB) *pod {
	t.Helper()
	p := &pod{client: issue(t, nil, clientLeaf)}
	p.serverCA = issue(t, nil, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign })
	p.server = issue(t, p.serverCA, func(c *x509.Certificate) {
		c.Subject.CommonName, c.DNSNames = instance, []string{instance}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	p.apf = &APF{ServerCert: p.server.cert, ServerKey: p.server.key, ClientCA: p.client.cert}
	return p
}

func (p *pod) clientConfig(certs ...tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(p.serverCA.x509)
	return &tls.Config{RootCAs: roots, ServerName: instance, Certificates: certs}
}

// echo listens, answers every accepted connection with its first byte, and
// returns the address. The listener ends with the test.
func echo(t *testing.T, c ListenConfig) string {
	t.Helper()
	c.Addr = "127.0.0.1:0"
	l, err := Listen(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("accept: %v", err)
				}
				return
			}
			if _, err := io.CopyN(c, c, 1); err != nil {
				t.Errorf("echo: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	}()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close listener: %v", err)
		}
		<-done
	})
	return l.Addr().String()
}

// talk dials addr and wants its byte back.
func talk(t *testing.T, addr string, cfg *tls.Config) error {
	t.Helper()
	d := &tls.Dialer{Config: cfg}
	c, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

func TestOnlyTheAdaptorGetsThrough(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	addr := echo(t, ListenConfig{APF: p.apf})
	other := issue(t, nil, clientLeaf)
	issued := issue(t, p.client, clientLeaf)
	expired := issue(t, nil, func(c *x509.Certificate) { clientLeaf(c); c.NotAfter = time.Now().Add(-time.Minute) })
	old := p.clientConfig(p.client.tls)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	tls12 := p.clientConfig(p.client.tls)
	tls12.MaxVersion = tls.VersionTLS12
	for name, tc := range map[string]struct {
		cfg  *tls.Config
		good bool
	}{
		"its own leaf as anchor": {p.clientConfig(p.client.tls), true},
		"TLS 1.2":                {tls12, true},
		"TLS 1.1":                {old, false},
		"no certificate":         {p.clientConfig(), false},
		"other certificate":      {p.clientConfig(other.tls), false},
		"signed by the leaf":     {p.clientConfig(issued.tls), false},
		"expired":                {p.clientConfig(expired.tls), false},
		"server's certificate":   {p.clientConfig(p.server.tls), false},
	} {
		if err := talk(t, addr, tc.cfg); tc.good != (err == nil) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00 this is no handshake")); err != nil {
		t.Fatal(err)
	}
	// An alert may come before the end; an answer of the agent may not.
	if b, _ := io.ReadAll(c); len(b) > 7 {
		t.Errorf("plain text was answered with %d bytes", len(b))
	}
}

func TestAnExpiredAnchorIsRefusedEvenThoughItIsEqual(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	expired := issue(t, nil, func(c *x509.Certificate) { clientLeaf(c); c.NotAfter = time.Now().Add(-time.Minute) })
	p.apf.ClientCA = expired.cert
	if err := talk(t, echo(t, ListenConfig{APF: p.apf}), p.clientConfig(expired.tls)); err == nil {
		t.Fatal("an expired client got through")
	}
}

func TestARealCAMayIssueClients(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	ca := issue(t, nil, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign })
	p.apf.ClientCA = ca.cert
	addr := echo(t, ListenConfig{APF: p.apf})
	if err := talk(t, addr, p.clientConfig(issue(t, ca, clientLeaf).tls)); err != nil {
		t.Error(err)
	}
	serverOnly := issue(t, ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	if err := talk(t, addr, p.clientConfig(serverOnly.tls)); err == nil {
		t.Error("a server certificate got through")
	}
}

func TestTheProfileOfTheAdaptorIsHonoured(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	strict := *p.apf
	strict.MinVersion = "VersionTLS13"
	tls12 := p.clientConfig(p.client.tls)
	tls12.MaxVersion = tls.VersionTLS12
	if err := talk(t, echo(t, ListenConfig{APF: &strict}), tls12); err == nil {
		t.Error("TLS 1.2 in spite of a minimum of 1.3")
	}
	suite := *p.apf
	suite.CipherSuites = []string{"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}
	addr := echo(t, ListenConfig{APF: &suite})
	if err := talk(t, addr, tls12); err != nil {
		t.Error(err)
	}
	other := tls12.Clone()
	other.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	if err := talk(t, addr, other); err == nil {
		t.Error("a suite outside of the profile was used")
	}
}

func TestAnUnusableTLSConfigurationOpensNoPort(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	for name, edit := range map[string]func(*APF){
		"no certificate":   func(a *APF) { a.ServerCert = "" },
		"no key":           func(a *APF) { a.ServerKey = "" },
		"other key":        func(a *APF) { a.ServerKey = p.client.key },
		"broken":           func(a *APF) { a.ServerCert = "x" },
		"no client CA":     func(a *APF) { a.ClientCA = "" },
		"broken client CA": func(a *APF) { a.ClientCA = "x" },
		"TLS 1.1":          func(a *APF) { a.MinVersion = "VersionTLS11" },
		"unknown version":  func(a *APF) { a.MinVersion = "1.3" },
		"unknown suite":    func(a *APF) { a.CipherSuites = []string{"TLS_X"} },
		"insecure suite":   func(a *APF) { a.CipherSuites = []string{"TLS_RSA_WITH_RC4_128_SHA"} },
		"suites with 1.3": func(a *APF) {
			a.MinVersion, a.CipherSuites = "VersionTLS13", []string{"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}
		},
	} {
		a := *p.apf
		edit(&a)
		if _, err := Listen(t.Context(), ListenConfig{Addr: "127.0.0.1:0", APF: &a}); !errors.Is(err, ErrTLS) || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := Listen(t.Context(), ListenConfig{Addr: "127.0.0.1:0"}); !errors.Is(err, ErrTLS) {
		t.Errorf("no apf.json: got %v", err)
	}
	if _, err := Listen(t.Context(), ListenConfig{Addr: "127.0.0.1:x", APF: p.apf}); err == nil || errors.Is(err, ErrTLS) {
		t.Errorf("bad address: got %v", err)
	}
}

func TestAnonymousClientsNeedConsent(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.apf.ClientCA = ""
	if err := talk(t, echo(t, ListenConfig{APF: p.apf, Anonymous: true}), p.clientConfig()); err != nil {
		t.Fatal(err)
	}
	// A CA that is there is not to be overridden.
	p.apf.ClientCA = p.client.cert
	if err := talk(t, echo(t, ListenConfig{APF: p.apf, Anonymous: true}), p.clientConfig()); err == nil {
		t.Fatal("a client without certificate got through")
	}
}

func TestClosingEndsHandshakesUnderWay(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	l, err := Listen(t.Context(), ListenConfig{Addr: "127.0.0.1:0", APF: p.apf})
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("accept: %v", err)
	}
	if _, err := io.ReadAll(silent); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("the silent peer: %v", err)
	}
}
