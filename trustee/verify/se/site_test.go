// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoon/attest/tee/se"
	image "cocoon/measurements/se"
	"cocoon/measurements/se/setest"
	"cocoon/trustee/as"
)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func now() time.Time { return time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC) }

// authority is a key with a certificate.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// site is what an operator has: files in folders, and what signed them.
type site struct {
	dir                          string
	root, between, signer, other authority
	machine                      *ecdsa.PrivateKey
	serial                       int64
}

func (s *site) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func (s *site) config() Config {
	return Config{HostKeys: s.path("hkds"), Certs: s.path("certs"), RootCA: s.path("root.crt"), CRLs: s.path("crls"), Headers: s.path("hdrs"), Now: now}
}

func (s *site) write(t testing.TB, name, kind string, der []byte) {
	t.Helper()
	file := s.path(name)
	raw := der
	if kind != "" {
		raw = pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, raw, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// issue makes a certificate for a key, with a template that was changed.
func (s *site) issue(t testing.TB, by *authority, name pkix.Name, curve elliptic.Curve, change func(*x509.Certificate)) authority {
	t.Helper()
	s.serial++
	a := authority{key: must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(curve, rand.Reader))}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(s.serial), Subject: name, NotBefore: now().AddDate(-1, 0, 0), NotAfter: now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign, SubjectKeyId: []byte{byte(s.serial)},
	}
	if change != nil {
		change(template)
	}
	parent, signer := template, a.key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	a.cert = must[*x509.Certificate](t)(x509.ParseCertificate(must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, parent, &a.key.PublicKey, signer))))
	return a
}

// list writes the revocation list of an authority.
func (s *site) list(t testing.TB, name string, a authority, until time.Time, revoked ...*x509.Certificate) {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now().AddDate(0, -1, 0), NextUpdate: until}
	for _, c := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: l.ThisUpdate})
	}
	s.signList(t, name, a, l)
}

func (s *site) signList(t testing.TB, name string, a authority, l *x509.RevocationList) {
	t.Helper()
	s.write(t, "crls/"+name, "X509 CRL", must[[]byte](t)(x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)))
}

func ca(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
}

func ibmName() pkix.Name {
	return pkix.Name{CommonName: ibm, Organization: []string{ibm}, OrganizationalUnit: []string{"IBM Z Host Key Signing Service"},
		Country: []string{"US"}, Province: []string{"New York"}, Locality: []string{"Poughkeepsie"}}
}

// header is one of an image that differs from others by a byte.
func header(fill byte) []byte { return setest.Header(fill, 1) }

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{dir: t.TempDir()}
	s.root = s.issue(t, nil, pkix.Name{CommonName: "root"}, elliptic.P256(), ca)
	s.between = s.issue(t, &s.root, pkix.Name{CommonName: "between"}, elliptic.P256(), ca)
	s.signer = s.issue(t, &s.between, ibmName(), elliptic.P256(), nil)
	s.other = s.issue(t, &s.between, pkix.Name{CommonName: "a customer of the authority"}, elliptic.P256(), nil)
	s.write(t, "root.crt", "CERTIFICATE", s.root.cert.Raw)
	s.write(t, "certs/between.crt", "CERTIFICATE", s.between.cert.Raw)
	s.write(t, "certs/signer.der", "", s.signer.cert.Raw)
	for name, a := range map[string]authority{"root": s.root, "between": s.between, "signer": s.signer} {
		s.list(t, name, a, now().AddDate(0, 1, 0))
	}
	host := s.hostKey(t, &s.signer, nil)
	s.machine = host.key
	s.write(t, "hkds/HKD-1.crt", "CERTIFICATE", host.cert.Raw)
	s.write(t, "hdrs/app.bin", "", header(1))
	return s
}

func (s *site) hostKey(t testing.TB, by *authority, change func(*x509.Certificate)) authority {
	t.Helper()
	name := ibmName()
	name.Locality = []string{"Armonk"} // not what the signer is called
	return s.issue(t, by, name, elliptic.P521(), change)
}

// ultravisor opens a request with its host key, and measures an image.
type ultravisor struct {
	key  *ecdsa.PrivateKey
	tags []byte
	data []byte // of the user
}

func (u ultravisor) open(t testing.TB, block []byte) *secret {
	t.Helper()
	return must[*secret](t)(u.read(block))
}

// read returns an error for a request that is for other machines or was changed.
func (u ultravisor) read(block []byte) (*secret, error) {
	key, err := u.key.ECDH()
	if err != nil {
		return nil, err
	}
	name := hostKeyHash(key.PublicKey())
	customer := block[requestHeader+requestFlags:][:customerKey]
	point := append([]byte{4}, customer[coordinate-66:coordinate]...)
	public, err := ecdh.P521().NewPublicKey(append(point, customer[2*coordinate-66:]...))
	if err != nil {
		return nil, err
	}
	shared, err := key.ECDH(public)
	if err != nil {
		return nil, err
	}
	end := len(block) - requestSecret - gcmTag
	slots := block[requestHeader+requestFlags+customerKey : end]
	for ; len(slots) > 0 && !bytes.Equal(slots[:32], name[:]); slots = slots[keySlot:] {
	}
	if len(slots) == 0 {
		return nil, errors.New("no slot for this machine")
	}
	wrapping := sha256.Sum256(append(shared, 0, 0, 0, 1))
	gcm, err := newGCM(wrapping[:])
	if err != nil {
		return nil, err
	}
	protect, err := gcm.Open(nil, make([]byte, gcmIV), slots[32:keySlot], nil)
	if err != nil {
		return nil, err
	}
	if gcm, err = newGCM(protect); err != nil {
		return nil, err
	}
	plain, err := gcm.Open(nil, block[16:16+gcmIV], block[end:], block[:end])
	if err != nil {
		return nil, err
	}
	return &secret{key: [measurementKey]byte(plain), nonce: [nonceSize]byte(plain[measurementKey:])}, nil
}

// answer makes evidence about a challenge.
func (u ultravisor) answer(t testing.TB, challenge string) se.Evidence {
	t.Helper()
	var r se.Request
	if err := json.Unmarshal([]byte(challenge), &r); err != nil {
		t.Fatal(err)
	}
	e := se.Evidence{
		CUID: bytes.Repeat([]byte{5}, se.CUIDSize), UserData: make([]byte, se.DataSize), Additional: bytes.Repeat([]byte{6}, additionalSize),
		Key: r.Key, Nonce: r.Nonce, Tags: r.Tags,
	}
	copy(e.UserData, u.data)
	e.Measurement = measure(u.open(t, r.Block), u.tags, &e)
	return e
}

func encoded(t testing.TB, e se.Evidence) json.RawMessage {
	t.Helper()
	return must[[]byte](t)(json.Marshal(e))
}

func parsed(t testing.TB, raw []byte) []byte {
	t.Helper()
	return tagsOf(must[*image.Header](t)(image.Parse(raw)))
}

func (s *site) guest(t testing.TB, name byte) ultravisor {
	t.Helper()
	return ultravisor{key: s.machine, tags: parsed(t, header(name)), data: []byte("session")}
}

// changed is a guest of the first image, with one byte of its header changed.
func (s *site) changed(t testing.TB, at int) ultravisor {
	t.Helper()
	u := s.guest(t, 1)
	u.tags[at] ^= 1
	return u
}

func binding() as.Binding { return as.Binding{ReportData: []byte("session")} }

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}
