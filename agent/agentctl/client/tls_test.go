// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoon/agent/agentctl/client"
	"cocoon/agent/agentctl/fakeagent"
)

// pki writes a CA and two certificates that it signed to dir.
func pki(t *testing.T) (files client.TLSFiles, server *tls.Config) {
	t.Helper()
	dir := t.TempDir()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	caKey := newKey(t)
	caDER := sign(t, ca, ca, &caKey.PublicKey, caKey)
	files = client.TLSFiles{
		CA: write(t, dir, "ca.pem", "CERTIFICATE", caDER), Cert: filepath.Join(dir, "client.pem"), Key: filepath.Join(dir, "client.key"),
		ServerName: "podvm-test",
	}
	for _, name := range []string{"client", "server"} {
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"podvm-test"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		}
		key := newKey(t)
		write(t, dir, name+".pem", "CERTIFICATE", sign(t, leaf, ca, &key.PublicKey, caKey))
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, name+".key", "EC PRIVATE KEY", der)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(caDER)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return files, &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t *testing.T, cert, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func write(t *testing.T, dir, name, kind string, der []byte) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	files, server := pki(t)
	addr := serve(t, fakeagent.New(), server)
	otherCA, _ := pki(t)
	for name, tc := range map[string]struct {
		change func(*client.TLSFiles)
		ok     bool
	}{
		"complete":              {func(*client.TLSFiles) {}, true},
		"other name":            {func(f *client.TLSFiles) { f.ServerName = "podvm-other" }, false},
		"name of the address":   {func(f *client.TLSFiles) { f.ServerName = "" }, false},
		"other CA":              {func(f *client.TLSFiles) { f.CA = otherCA.CA }, false},
		"no client certificate": {func(f *client.TLSFiles) { f.Cert, f.Key = "", "" }, false},
		"other client":          {func(f *client.TLSFiles) { f.Cert, f.Key = otherCA.Cert, otherCA.Key }, false},
	} {
		f := files
		tc.change(&f)
		if err := checkOver(t, addr, f); (err == nil) != tc.ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := checkOver(t, addr, client.TLSFiles{}); err == nil {
		t.Error("plain TCP was answered")
	}
}

func checkOver(t *testing.T, addr client.Address, f client.TLSFiles) error {
	t.Helper()
	cfg, err := f.Config()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(t.Context(), addr, cfg)
	if err != nil {
		return err
	}
	// A server with TLS answers plain bytes with an alert shorter than a frame's
	// header, and the client waits for the rest.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	return errors.Join(c.Check(ctx), c.Close())
}

func TestIncompleteTLSFilesAreRefused(t *testing.T) {
	t.Parallel()
	files, _ := pki(t)
	for name, f := range map[string]client.TLSFiles{
		"no CA":          {Cert: files.Cert, Key: files.Key},
		"only name":      {ServerName: "x"},
		"no key":         {CA: files.CA, Cert: files.Cert},
		"no certificate": {CA: files.CA, Key: files.Key},
		"CA absent":      {CA: files.CA + "x"},
		"CA no PEM":      {CA: files.Key},
		"wrong key":      {CA: files.CA, Cert: files.Cert, Key: files.CA},
	} {
		if cfg, err := f.Config(); err == nil || cfg != nil {
			t.Errorf("%s: got %v, %v", name, cfg, err)
		}
	}
	if cfg, err := (client.TLSFiles{}).Config(); cfg != nil || err != nil {
		t.Errorf("no files: got %v, %v", cfg, err)
	}
	if _, err := client.Dial(t.Context(), client.Address{Network: "unix", Path: "/x"}, &tls.Config{}); err == nil {
		t.Error("TLS over a Unix socket: no error")
	}
	if _, err := client.Dial(t.Context(), client.Address{Network: "unix", Path: filepath.Join(t.TempDir(), "none")}, nil); err == nil {
		t.Error("no listener: no error")
	}
}
