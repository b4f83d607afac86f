// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pki makes and reads the keys and certificates of a broker.
//
// All of them lie in the broker's folder, readable by its owner only. The
// operator moves ca.key and admin.key to where only he can reach them: the
// running broker needs neither.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// The files in the folder of a broker.
const (
	CACert     = "ca.crt"
	CAKey      = "ca.key"
	ServerCert = "server.crt"
	ServerKey  = "server.key"
	TokenCert  = "token.crt"
	TokenKey   = "token.key"
	AdminKey   = "admin.key"
	AdminPub   = "admin.pub"
)

const (
	caYears    = 10
	leafDays   = 825
	maxHostLen = 253
)

// ErrExists is returned when the folder holds something already.
var ErrExists = errors.New("exists already; refusing to overwrite it")

// Config says what Init makes.
type Config struct {
	// Hosts are the names and IP addresses under which guests reach the broker.
	Hosts []string
	// Now tells the time.
	Now func() time.Time
}

// Init makes the folder dir with fresh keys: a CA, a server certificate from
// it, a key and self-signed certificate for tokens, and the admin key pair.
// The folder appears complete or not at all.
func Init(dir string, cfg Config) (err error) {
	dir = filepath.Clean(dir)
	if err := checkFresh(dir); err != nil {
		return err
	}
	if err := checkHosts(cfg.Hosts); err != nil {
		return err
	}
	files, err := makeFiles(cfg)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make parent of %q: %w", dir, err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), ".trustee-init-")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	for name, content := range files {
		if err := writeSynced(filepath.Join(temp, name), content); err != nil {
			return err
		}
	}
	// Only an empty folder can be removed, so nothing is lost here either.
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace empty %q: %w", dir, err)
	}
	if err := os.Rename(temp, dir); err != nil {
		return fmt.Errorf("put %q in place: %w", dir, err)
	}
	return nil
}

// checkFresh admits a missing or empty folder.
func checkFresh(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %q: %w", dir, err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("%q %w", dir, ErrExists)
	}
	return nil
}

func checkHosts(hosts []string) error {
	if len(hosts) == 0 {
		return errors.New("no host name for the server certificate")
	}
	for _, h := range hosts {
		if h == "" || len(h) > maxHostLen {
			return fmt.Errorf("host name %q", h)
		}
		for _, c := range []byte(h) {
			if c <= ' ' || c >= 0x7f || c == '/' {
				return fmt.Errorf("host name %q has byte %q", h, c)
			}
		}
	}
	return nil
}

// pair is a key with its certificate.
type pair struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	der  []byte
}

func makeFiles(cfg Config) (map[string][]byte, error) {
	ca, err := sign(caTemplate(cfg.Now()), nil)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	server, err := sign(serverTemplate(cfg), ca)
	if err != nil {
		return nil, fmt.Errorf("make server certificate: %w", err)
	}
	tok, err := sign(tokenTemplate(cfg.Now()), nil)
	if err != nil {
		return nil, fmt.Errorf("make token certificate: %w", err)
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make admin key: %w", err)
	}
	files := map[string][]byte{CACert: certPEM(ca.der), ServerCert: certPEM(server.der), TokenCert: certPEM(tok.der)}
	for name, key := range map[string]crypto.PrivateKey{CAKey: ca.key, ServerKey: server.key, TokenKey: tok.key, AdminKey: priv} {
		if files[name], err = keyPEM(key); err != nil {
			return nil, err
		}
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encode admin public key: %w", err)
	}
	files[AdminPub] = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return files, nil
}

func template(name string, from time.Time, until time.Time) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // fails only where rand ends the process
	return &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             from.Add(-time.Hour), // guests whose clock is late
		NotAfter:              until,
		BasicConstraintsValid: true,
	}
}

func caTemplate(now time.Time) *x509.Certificate {
	t := template("Cocoon trustee CA", now, now.AddDate(caYears, 0, 0))
	t.IsCA, t.MaxPathLenZero = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	return t
}

func serverTemplate(cfg Config) *x509.Certificate {
	t := template("Cocoon trustee", cfg.Now(), cfg.Now().AddDate(0, 0, leafDays))
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, h := range cfg.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	return t
}

func tokenTemplate(now time.Time) *x509.Certificate {
	t := template("Cocoon trustee attestation token", now, now.AddDate(caYears, 0, 0))
	t.KeyUsage = x509.KeyUsageDigitalSignature
	return t
}

// sign makes a key and its certificate, by ca or, if nil, by itself.
func sign(t *x509.Certificate, ca *pair) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	parent, signer := t, key
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &pair{key: key, cert: cert, der: der}, nil
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func writeSynced(path string, content []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(content); err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	return f.Sync()
}
