// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/attest/tee/se"
	"cocoon/internal/sharedtest"
	"cocoon/trustee/as"
)

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
			c.Values["user_data"] != c.ReportData || c.Values["report_data"] != c.ReportData || c.Values["attestation_phkh"] != strings.Repeat("06", 32) ||
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
		"another image's tags":  {func(e *se.Evidence) { *e = s.guest(t, 3).answer(t, challenge); e.Tags = parsed(t, header(3)) }, "no image that may run"},
		"pages":                 {func(e *se.Evidence) { *e = s.changed(t, 0).answer(t, challenge) }, "no image that may run"},
		"addresses":             {func(e *se.Evidence) { *e = s.changed(t, 64).answer(t, challenge) }, "no image that may run"},
		"tweaks":                {func(e *se.Evidence) { *e = s.changed(t, 128).answer(t, challenge) }, "no image that may run"},
		"header tag":            {func(e *se.Evidence) { *e = s.changed(t, 192).answer(t, challenge) }, "no image that may run"},
		"short measurement":     {func(e *se.Evidence) { e.Measurement = e.Measurement[:63] }, "no image that may run"},
		"long measurement":      {func(e *se.Evidence) { e.Measurement = append(e.Measurement, 0) }, "no image that may run"},
		"short key":             {func(e *se.Evidence) { e.Key = e.Key[1:] }, "not from a request"},
		"short nonce":           {func(e *se.Evidence) { e.Nonce = e.Nonce[1:] }, "not from a request"},
		"huge user data":        {func(e *se.Evidence) { e.UserData = make([]byte, maxUserData+1) }, "user data"},
		"huge additional data":  {func(e *se.Evidence) { e.Additional = make([]byte, maxAdditional+1) }, "additional data"},
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

// Whoever has a revoked host key can read the old requests that were for it. What
// these told must not help in later sessions.
func TestARequestOfBeforeARevocationProvesNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		forget func(*site, *x509.Certificate)
		want   error
	}{
		"revoked": {func(s *site, c *x509.Certificate) { s.list(t, "signer", s.signer, now().AddDate(0, 1, 0), c) }, ErrHostKey},
		"removed": {func(s *site, _ *x509.Certificate) { remove(t, s.path("hkds/stolen.crt")) }, as.ErrEvidence},
		"no list": {func(s *site, _ *x509.Certificate) { s.list(t, "signer", s.signer, now().AddDate(0, 0, -1)) }, ErrHostKey},
	} {
		s := newSite(t)
		stolen := s.hostKey(t, &s.signer, nil)
		s.write(t, "hkds/stolen.crt", "CERTIFICATE", stolen.cert.Raw)
		cfg, at := s.config(), now()
		cfg.Now = func() time.Time { return at }
		v := must[*Verifier](t)(New(cfg))
		u := s.guest(t, 1)
		u.key = stolen.key
		forged := encoded(t, u.answer(t, must[string](t)(v.Challenge(t.Context(), ""))))
		must[*as.Claims](t)(v.Verify(t.Context(), forged, binding()))
		tc.forget(s, stolen.cert)
		at = at.Add(hostsLife)
		if c, err := v.Verify(t.Context(), forged, binding()); !errors.Is(err, tc.want) || c != nil {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}

func TestOnlyTheMachinesOfARequestCanReadIt(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := must[*Verifier](t)(New(s.config()))
	challenge := must[string](t)(v.Challenge(t.Context(), ""))
	var r se.Request
	if err := json.Unmarshal([]byte(challenge), &r); err != nil {
		t.Fatal(err)
	}
	u := s.guest(t, 1)
	other := ultravisor{key: s.hostKey(t, &s.signer, nil).key}
	if x, err := other.read(r.Block); err == nil {
		t.Errorf("another machine reads %x", x.key)
	}
	for i := range r.Block {
		r.Block[i] ^= 1
		if _, err := u.read(r.Block); err == nil {
			t.Errorf("byte %d can be changed", i)
		}
		r.Block[i] ^= 1
	}
	if _, err := u.read(r.Block); err != nil {
		t.Errorf("its own machine cannot read it: %v", err)
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
func TestARequestIsThatOfTheReference(t *testing.T) {
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
	r.iv, r.secret.key, r.secret.nonce = [gcmIV]byte(bytes.Repeat([]byte{0x55}, gcmIV)), [64]byte(bytes.Repeat([]byte{0x77}, 64)), [16]byte(bytes.Repeat([]byte{0xab}, 16))
	// This is the digest of the whole request of their test, exp/arcb.bin.
	const want = "8eefb020aea5b26d6da24d601636cb3cf034825f71e81c7b1f29c4dfffcaa8a7"
	if got := sha256.Sum256(must[[]byte](t)(r.block([]*ecdh.PublicKey{host}))); hex.EncodeToString(got[:]) != want {
		t.Errorf("digest of the request %x, want %s", got, want)
	}
}

func TestTheHeaderOfARealImageIsRead(t *testing.T) {
	t.Parallel()
	tags := parsed(t, sharedtest.Read(t, "measure/se/secure_guest.hdr"))
	if got := hex.EncodeToString(tags[3*64:]); got != "92309d4589b9a85b427f8753171d1520" || !strings.HasPrefix(hex.EncodeToString(tags), "be94b5eab3c1b118") {
		t.Errorf("tag %s of %x", got, tags)
	}
}

func TestWhatIsMeasuredOfAHeaderKeepsItsOrder(t *testing.T) {
	t.Parallel()
	raw := header(0)
	for i := 224; i < 416; i++ {
		raw[i] = byte(i)
	}
	copy(raw[len(raw)-gcmTag:], "0123456789abcdef")
	if got := parsed(t, raw); len(got) != se.TagsSize || !bytes.Equal(got, slices.Concat(raw[224:416], raw[len(raw)-gcmTag:])) {
		t.Errorf("%x", got)
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
