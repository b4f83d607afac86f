// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"bytes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/attest/tee/se"
	"cocoon/internal/sharedtest"
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
	s.write(t, "crls/"+name, "X509 CRL", must[[]byte](t)(x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)))
}

func ca(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
}

func ibmName() pkix.Name {
	return pkix.Name{CommonName: ibm, Organization: []string{ibm}, OrganizationalUnit: []string{"IBM Z Host Key Signing Service"}, Locality: []string{"Poughkeepsie"}}
}

// header makes that of an image. Its content is not looked at.
func header(fill byte) []byte {
	b := bytes.Repeat([]byte{fill}, headerMin+100)
	copy(b, headerMagic)
	binary.BigEndian.PutUint32(b[8:], headerVersion)
	binary.BigEndian.PutUint32(b[12:], uint32(len(b)))
	return b
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{dir: t.TempDir()}
	s.root = s.issue(t, nil, pkix.Name{CommonName: "root"}, elliptic.P384(), ca)
	s.between = s.issue(t, &s.root, pkix.Name{CommonName: "between"}, elliptic.P384(), ca)
	s.signer = s.issue(t, &s.between, ibmName(), elliptic.P384(), nil)
	s.other = s.issue(t, &s.between, pkix.Name{CommonName: "a customer of the authority"}, elliptic.P384(), nil)
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
	key := must[*ecdh.PrivateKey](t)(u.key.ECDH())
	name := hostKeyHash(key.PublicKey())
	customer := block[requestHeader+requestFlags:][:customerKey]
	point := append([]byte{4}, customer[coordinate-66:coordinate]...)
	shared := must[[]byte](t)(key.ECDH(must[*ecdh.PublicKey](t)(ecdh.P521().NewPublicKey(append(point, customer[2*coordinate-66:]...)))))
	sealed := block[requestHeader+requestFlags+customerKey:]
	for ; !bytes.Equal(sealed[:32], name[:]); sealed = sealed[keySlot:] {
		if len(sealed) < 2*keySlot {
			t.Fatal("no slot for this machine")
		}
	}
	wrapping := sha256.Sum256(append(shared, 0, 0, 0, 1))
	gcm := must[cipher.AEAD](t)(newGCM(wrapping[:]))
	protect := must[[]byte](t)(gcm.Open(nil, make([]byte, gcmIV), sealed[32:keySlot], nil))
	end := len(block) - requestSecret - gcmTag
	gcm = must[cipher.AEAD](t)(newGCM(protect))
	plain := must[[]byte](t)(gcm.Open(nil, block[16:16+gcmIV], block[end:], block[:end]))
	return &secret{key: [measurementKey]byte(plain), nonce: [nonceSize]byte(plain[measurementKey:])}
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

func tagsOf(t testing.TB, raw []byte) []byte {
	t.Helper()
	return must[[]byte](t)(parseHeader(raw))
}

func (s *site) guest(t testing.TB, image byte) ultravisor {
	t.Helper()
	return ultravisor{key: s.machine, tags: tagsOf(t, header(image)), data: []byte("session")}
}

func binding() as.Binding { return as.Binding{ReportData: []byte("session")} }

func TestAGuestOfAListedImageIsBelieved(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.write(t, "hdrs/second.bin", "", header(2))
	s.write(t, "hkds/HKD-2.crt", "CERTIFICATE", s.hostKey(t, &s.signer, nil).cert.Raw)
	v := must[*Verifier](t)(New(s.config()))
	for image := range byte(2) {
		u := s.guest(t, image+1)
		e := u.answer(t, must[string](t)(v.Challenge(t.Context(), "")))
		c, err := v.Verify(t.Context(), encoded(t, e), binding())
		if err != nil {
			t.Fatalf("image %d: %v", image, err)
		}
		tag := hex.EncodeToString(bytes.Repeat([]byte{image + 1}, gcmTag))
		if c.Class != "cpu" || c.InitData != nil || c.Values["tag"] != tag || c.Values["cuid"] != strings.Repeat("05", 16) || c.Values["version"] != 256 ||
			c.Values["image_phkh"] != strings.Repeat("06", 32) || !strings.HasPrefix(c.ReportData, hex.EncodeToString([]byte("session"))) {
			t.Errorf("claims %+v", c)
		}
	}
}

func TestEvidenceThatProvesNothingIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := must[*Verifier](t)(New(s.config()))
	other := must[*Verifier](t)(New(s.config()))
	u := s.guest(t, 1)
	challenge := must[string](t)(v.Challenge(t.Context(), ""))
	second := u.answer(t, must[string](t)(v.Challenge(t.Context(), "")))
	foreign := u.answer(t, must[string](t)(other.Challenge(t.Context(), "")))
	for name, tc := range map[string]struct {
		spoil func(*se.Evidence)
		why   string
	}{
		"another image":         {func(e *se.Evidence) { *e = s.guest(t, 3).answer(t, challenge) }, "no image that may run"},
		"another image's tags":  {func(e *se.Evidence) { *e = s.guest(t, 3).answer(t, challenge); e.Tags = tagsOf(t, header(3)) }, "no image that may run"},
		"measurement":           {func(e *se.Evidence) { e.Measurement[0] ^= 1 }, "no image that may run"},
		"no measurement":        {func(e *se.Evidence) { e.Measurement = nil }, "no image that may run"},
		"cuid":                  {func(e *se.Evidence) { e.CUID[3] ^= 1 }, "no image that may run"},
		"short cuid":            {func(e *se.Evidence) { e.CUID = e.CUID[1:] }, "configuration id"},
		"host key":              {func(e *se.Evidence) { e.Additional[40] ^= 1 }, "no image that may run"},
		"no host keys":          {func(e *se.Evidence) { e.Additional = nil }, "additional data"},
		"user data":             {func(e *se.Evidence) { e.UserData[0] ^= 1 }, "no image that may run"},
		"more user data":        {func(e *se.Evidence) { e.UserData = append(e.UserData, 0) }, "no image that may run"},
		"short user data":       {func(e *se.Evidence) { e.UserData = e.UserData[:63] }, "user data"},
		"key":                   {func(e *se.Evidence) { e.Key[20] ^= 1 }, "not from a request"},
		"nonce":                 {func(e *se.Evidence) { e.Nonce[20] ^= 1 }, "not from a request"},
		"nonce of another":      {func(e *se.Evidence) { e.Nonce = second.Nonce }, "not from a request"},
		"key of another":        {func(e *se.Evidence) { e.Key, e.Nonce = second.Key, second.Nonce }, "no image that may run"},
		"key of another broker": {func(e *se.Evidence) { *e = foreign }, "not from a request"},
		"own key":               {func(e *se.Evidence) { e.Key, e.Nonce = make([]byte, 64), make([]byte, 16) }, "not from a request"},
		"no key":                {func(e *se.Evidence) { e.Key, e.Nonce = nil, nil }, "not from a request"},
	} {
		e := u.answer(t, challenge)
		tc.spoil(&e)
		if c, err := v.Verify(t.Context(), encoded(t, e), binding()); !errors.Is(err, as.ErrEvidence) || c != nil || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := encoded(t, u.answer(t, challenge))
	for name, b := range map[string]as.Binding{
		"another session": {ReportData: []byte("x")}, "no session": {}, "init data": {ReportData: []byte("session"), InitData: []byte("x")},
	} {
		if _, err := v.Verify(t.Context(), good, b); !errors.Is(err, as.ErrEvidence) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, raw := range []string{"", "[]", "{}", `{"cuid":"!"}`} {
		if _, err := v.Verify(t.Context(), json.RawMessage(raw), binding()); !errors.Is(err, as.ErrEvidence) {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestHostKeysThatNobodyVouchesForAreRefused(t *testing.T) {
	t.Parallel()
	late, early := now().AddDate(0, 1, 0), now().AddDate(0, 0, -1)
	for name, tc := range map[string]struct {
		spoil func(*site)
		why   string
	}{
		"signed by another":  {func(s *site) { s.write(t, "hkds/HKD-1.crt", "CERTIFICATE", s.hostKey(t, &s.other, nil).cert.Raw) }, "verification failure"},
		"signed by itself":   {func(s *site) { s.write(t, "hkds/HKD-1.crt", "CERTIFICATE", s.hostKey(t, nil, nil).cert.Raw) }, "verification failure"},
		"signed by the root": {func(s *site) { s.write(t, "hkds/x.crt", "CERTIFICATE", s.hostKey(t, &s.root, nil).cert.Raw) }, "verification failure"},
		"expired": {func(s *site) {
			h := s.hostKey(t, &s.signer, func(c *x509.Certificate) { c.NotAfter = early })
			s.write(t, "hkds/x.crt", "CERTIFICATE", h.cert.Raw)
		}, "valid from"},
		"of tomorrow": {func(s *site) {
			h := s.hostKey(t, &s.signer, func(c *x509.Certificate) { c.NotBefore = late })
			s.write(t, "hkds/x.crt", "CERTIFICATE", h.cert.Raw)
		}, "valid from"},
		"of another curve": {func(s *site) {
			s.write(t, "hkds/x.crt", "CERTIFICATE", s.issue(t, &s.signer, ibmName(), elliptic.P384(), nil).cert.Raw)
		}, "not one of P-521"},
		"revoked": {func(s *site) {
			h := s.hostKey(t, &s.signer, nil)
			s.write(t, "hkds/x.crt", "CERTIFICATE", h.cert.Raw)
			s.list(t, "signer", s.signer, late, h.cert)
		}, "revoked on"},
		"revoked by a second list": {func(s *site) {
			h := s.hostKey(t, &s.signer, nil)
			s.write(t, "hkds/x.crt", "CERTIFICATE", h.cert.Raw)
			s.list(t, "second", s.signer, late, h.cert)
		}, "revoked on"},
		"signer revoked":     {func(s *site) { s.list(t, "between", s.between, late, s.signer.cert) }, "revoked on"},
		"authority revoked":  {func(s *site) { s.list(t, "root", s.root, late, s.between.cert) }, "revoked on"},
		"old list":           {func(s *site) { s.list(t, "signer", s.signer, early) }, "no revocation list"},
		"no list":            {func(s *site) { remove(t, s.path("crls/signer")) }, "no revocation list"},
		"no list of signer":  {func(s *site) { remove(t, s.path("crls/between")) }, "no revocation list"},
		"no list of a root":  {func(s *site) { remove(t, s.path("crls/root")) }, "no revocation list"},
		"list of a stranger": {func(s *site) { s.list(t, "signer", s.other, late) }, "no revocation list"},
		"no signer":          {func(s *site) { remove(t, s.path("certs/signer.der")) }, "no certificate of IBM's"},
		"two signers": {func(s *site) {
			s.write(t, "certs/x.crt", "", s.issue(t, &s.between, ibmName(), elliptic.P384(), nil).cert.Raw)
		}, "two certificates"},
		"signer by name": {func(s *site) {
			fake := s.issue(t, nil, ibmName(), elliptic.P384(), nil)
			s.write(t, "certs/signer.der", "", fake.cert.Raw)
			s.list(t, "signer", fake, late)
			s.write(t, "hkds/HKD-1.crt", "CERTIFICATE", s.hostKey(t, &fake, nil).cert.Raw)
		}, "unknown authority"},
		"a customer as signer": {func(s *site) { s.write(t, "certs/signer.der", "", s.other.cert.Raw) }, "no certificate of IBM's"},
		"signer expired": {func(s *site) {
			old := s.issue(t, &s.between, ibmName(), elliptic.P384(), func(c *x509.Certificate) { c.NotAfter = early })
			s.write(t, "certs/signer.der", "", old.cert.Raw)
		}, "expired"},
		"another root": {func(s *site) {
			s.write(t, "root.crt", "CERTIFICATE", s.issue(t, nil, pkix.Name{CommonName: "root"}, elliptic.P384(), ca).cert.Raw)
		}, "unknown authority"},
		"a root of text":   {func(s *site) { s.write(t, "root.crt", "", []byte("x")) }, "no certificate in"},
		"no root":          {func(s *site) { remove(t, s.path("root.crt")) }, "no such file"},
		"no host key":      {func(s *site) { remove(t, s.path("hkds/HKD-1.crt")) }, "0 host key documents"},
		"no folder":        {func(s *site) { remove(t, s.path("crls")) }, "no such file"},
		"garbage":          {func(s *site) { s.write(t, "hkds/x.crt", "", []byte("x")) }, "x.crt"},
		"empty file":       {func(s *site) { s.write(t, "hkds/x.crt", "", nil) }, "x.crt"},
		"garbage as list":  {func(s *site) { s.write(t, "crls/x", "", []byte("x")) }, "crls/x"},
		"no header":        {func(s *site) { remove(t, s.path("hdrs/app.bin")) }, "0 image headers"},
		"header of text":   {func(s *site) { s.write(t, "hdrs/x.bin", "", []byte("x")) }, "x.bin"},
		"header too large": {func(s *site) { s.write(t, "hdrs/x.bin", "", make([]byte, headerMax+1)) }, "x.bin"},
	} {
		s := newSite(t)
		v := must[*Verifier](t)(New(s.config()))
		tc.spoil(s)
		if _, err := New(s.config()); err == nil || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(name, "header") {
			continue // these are read once
		}
		if c, err := v.Challenge(t.Context(), ""); err == nil || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s, while the broker runs: %q, %v", name, c, err)
		}
	}
}

func TestANewerRevocationListCountsWithinAMinute(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cfg, at := s.config(), now()
	cfg.Now = func() time.Time { return at }
	v := must[*Verifier](t)(New(cfg))
	must[string](t)(v.Challenge(t.Context(), ""))
	s.list(t, "signer", s.signer, now().AddDate(0, 1, 0), must[[]*x509.Certificate](t)(readCerts(s.path("hkds")))[0])
	at = at.Add(hostsLife - 1)
	must[string](t)(v.Challenge(t.Context(), ""))
	at = at.Add(1)
	if _, err := v.Challenge(t.Context(), ""); !errors.Is(err, ErrHostKey) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("after a minute: %v", err)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// The value is that of a test of s390-tools.
func TestTheMeasurementIsTheUltravisors(t *testing.T) {
	t.Parallel()
	tags := append(append(append(bytes.Repeat([]byte{1}, 64), bytes.Repeat([]byte{2}, 64)...), bytes.Repeat([]byte{3}, 64)...), bytes.Repeat([]byte{4}, 16)...)
	s := secret{key: [64]byte(bytes.Repeat([]byte{0x41}, 64)), nonce: [16]byte(bytes.Repeat([]byte{8}, 16))}
	e := se.Evidence{CUID: bytes.Repeat([]byte{5}, 16), UserData: bytes.Repeat([]byte{7}, 256), Additional: bytes.Repeat([]byte{9}, 128)}
	const want = "88794c62cce7bcf26216deb3f48f13fea6374b6d7e35bcc5c2ce68121db6f45dfc8c1718564635494" + "08bf8e7d1aca11efad0a878af97dc9e21a1fc2a32f3a675"
	if got := hex.EncodeToString(measure(&s, tags, &e)); got != want {
		t.Errorf("%s", got)
	}
}

// The vectors are s390-tools' own.
func TestASlotIsTheOneOfTheReference(t *testing.T) {
	t.Parallel()
	var v struct {
		Private string `json:"customer_private_key_be80_hex"`
		Cert    string `json:"host_key_cert_pem"`
		Protect string `json:"protection_key_hex"`
		Slot    string `json:"keyslot_hex"`
		Public  string `json:"customer_public_coord_hex"`
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/se/se.json"), &v); err != nil {
		t.Fatal(err)
	}
	unhex := func(s string) []byte { return must[[]byte](t)(hex.DecodeString(s)) }
	r := random{customer: must[*ecdh.PrivateKey](t)(ecdh.P521().NewPrivateKey(unhex(v.Private)[coordinate-66:])), protect: [32]byte(unhex(v.Protect))}
	certs := must[[]*x509.Certificate](t)(x509.ParseCertificates(der([]byte(v.Cert), "CERTIFICATE")))
	host := must[*ecdh.PublicKey](t)(certs[0].PublicKey.(*ecdsa.PublicKey).ECDH())
	if got := hex.EncodeToString(must[[]byte](t)(r.slot(host))); got != v.Slot {
		t.Errorf("slot %s, want %s", got, v.Slot)
	}
	if got := hex.EncodeToString(coordinates(r.customer.PublicKey())); got != v.Public {
		t.Errorf("coordinates %s, want %s", got, v.Public)
	}
}

func TestTheHeaderOfARealImageIsRead(t *testing.T) {
	t.Parallel()
	tags := tagsOf(t, sharedtest.Read(t, "measure/se/secure_guest.hdr"))
	if got := hex.EncodeToString(tags[3*64:]); got != "92309d4589b9a85b427f8753171d1520" || !strings.HasPrefix(hex.EncodeToString(tags), "be94b5eab3c1b118") {
		t.Errorf("tag %s of %x", got, tags)
	}
}

func TestWhatIsNoHeaderIsRefused(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func([]byte) []byte{
		"empty": func([]byte) []byte { return nil }, "magic": func(b []byte) []byte { b[0]++; return b }, "version": func(b []byte) []byte { b[11] = 1; return b },
		"size": func(b []byte) []byte { b[15]++; return b }, "cut": func(b []byte) []byte { return b[:len(b)-1] }, "more": func(b []byte) []byte { return append(b, 0) },
		"small": func(b []byte) []byte { return b[:headerMin-1] },
	} {
		if tags, err := parseHeader(spoil(header(1))); !errors.Is(err, ErrHeader) {
			t.Errorf("%s: %x, %v", name, tags, err)
		}
	}
}

// The names and encodings of a request are what the guest's side reads.
func TestARequestIsWhatAGuestReads(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := must[*Verifier](t)(New(s.config()))
	var m map[string]any
	if err := json.Unmarshal([]byte(must[string](t)(v.Challenge(t.Context(), ""))), &m); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(m["measurement_size"], m["additional_size"]) != "64 64" || m["runtime_data_digest"] != nil {
		t.Errorf("request %v", m)
	}
	for _, name := range []string{"request_blob", "encr_measurement_key", "encr_request_nonce", "image_hdr_tags"} {
		if b, err := base64.StdEncoding.DecodeString(m[name].(string)); err != nil || len(b) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	block := must[[]byte](t)(base64.StdEncoding.DecodeString(m["request_blob"].(string)))
	if len(block) != 48+16+160+80+80+16 || !bytes.Equal(block[:16], []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x90}) ||
		!bytes.Equal(block[48:64], []byte{0x70, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}) || block[39] != 1 || block[47] != 80 {
		t.Errorf("block of %d bytes begins with %x", len(block), block[:64])
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(header(1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tags, err := parseHeader(raw)
		if err == nil && len(tags) != se.TagsSize || err != nil && !errors.Is(err, ErrHeader) {
			t.Errorf("%x, %v", tags, err)
		}
	})
}

func FuzzEvidence(f *testing.F) {
	s := newSite(f)
	v := must[*Verifier](f)(New(s.config()))
	f.Add([]byte(`{"cuid":"AAAAAAAAAAAAAAAAAAAAAA=="}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := v.Verify(t.Context(), raw, as.Binding{Unbound: true}); err == nil || !errors.Is(err, as.ErrEvidence) {
			t.Errorf("accepted %+v, %v", c, err)
		}
	})
}
